"""Looks at a table and its servers, and runs the checks on what it finds: for ``kvpoll doctor`` and for ``serve``."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any, TypeVar

from redis_kvpoll.doctor import key_types, node_look, permissions, registry, sampling, table_look, traces
from redis_kvpoll.doctor.facts import ROLES, Expected, Facts, NodeFacts, TableFacts, deployment
from redis_kvpoll.doctor.findings import Finding
from redis_kvpoll.engine import classify, remedies
from redis_kvpoll.engine.classify import root_cause
from redis_kvpoll.engine.effects import Flow
from redis_kvpoll.engine.executor import Executor
from redis_kvpoll.engine.session import Session
from redis_kvpoll.engine.store_options import DEFAULT_TERMINAL_TTL, DEFAULT_TTL
from redis_kvpoll.errors import KVPollError, printable
from redis_kvpoll.model import Owner
from redis_kvpoll.protocol import keys
from redis_kvpoll.sync.connect import transport_from_url
from redis_kvpoll.sync.dispatcher import Dispatcher
from redis_kvpoll.sync.transport import Node, Transport
from redis_kvpoll.transport.urls import parse

T = TypeVar("T")

WATCH_SECONDS = 5.0
"""Between the two looks of a first examination."""
DEADLINE = 2.0
"""Seconds for one call."""


class Doctor:
    """Examines one namespace, once or again and again.

    A first examination takes two looks, ``watch_seconds`` apart (5 by default); a later one compares with the one
    before. Not for several threads. An examination blocks: asyncio runs it in a thread.
    """

    def __init__(
        self, url: str, namespace: str, expected: Expected | None = None, watch_seconds: float | None = None
    ) -> None:
        self._url = url
        self._target = parse(url)
        self._namespace = namespace
        self._expected = expected or Expected()
        self._watch_seconds = WATCH_SECONDS if watch_seconds is None else watch_seconds
        self._before: Facts | None = None

    def examine(self, lag: float | None = None) -> list[Finding]:
        """Return the findings of all checks, the worst first.

        ``lag`` is how many seconds a follower of the caller's is behind; None measures it.

        Raises:
            InvalidInputError: the URL or the namespace is wrong, or an extra is missing.
        """
        return registry.run(self.look(lag))

    @property
    def shown_url(self) -> str:
        """The server's URL, without its password."""
        return self._target.shown

    def look(self, lag: float | None = None) -> Facts:
        """Return the facts, with those of an earlier look."""
        transport = transport_from_url(self._url, DEADLINE)
        try:
            if self._before is None or self._before.error:
                self._before = _Look(self, transport, None).take(brief=True, lag=None)
                if not self._before.error:
                    time.sleep(self._watch_seconds)
            if not self._before.error:
                facts = _Look(self, transport, self._before).take(brief=False, lag=lag)
            else:
                facts = self._before
        finally:
            transport.close()
        self._before = replace(facts, before=None)
        return facts

    @property
    def blank(self) -> Facts:
        """The facts before anything was asked."""
        return Facts(self._namespace, self._target.kind, self._target.shown, self._expected)


@dataclass(slots=True)
class _Table:
    """What a look has read of the table."""

    settings: Mapping[str, str] | None = None
    facts: TableFacts | None = None
    wrong_types: tuple[str, ...] = ()
    error: str = ""
    is_denied: bool = False


class _Look:
    """One look."""

    def __init__(self, doctor: Doctor, transport: Transport, before: Facts | None) -> None:
        self._blank = doctor.blank
        self._transport = transport
        self._before = before
        self._executor = _executor(self._blank.namespace)
        self._executor.session.server = self._blank.server
        self._dispatcher = Dispatcher(self._executor, transport)

    def take(self, brief: bool, lag: float | None) -> Facts:
        try:
            targets = self._transport.nodes(node_look.REACH_SECONDS)
        except node_look.FAILURES as failure:
            cause = root_cause(failure)
            text, is_refusal = remedies.text_of(cause), classify.is_refusal(cause)
            return replace(self._blank, error=text, is_refusal=is_refusal, remedy=remedies.remedy(cause))
        denied = {node.address: node.denied for node in self._before.nodes} if self._before else {}
        nodes = [node_look.look_at(target, brief, denied.get(target.address, ())) for target in targets]
        if all(node.error for node in nodes):
            first = nodes[0]
            return replace(self._blank, error=first.error, is_refusal=first.is_refusal, remedy=first.remedy)
        facts = replace(self._blank, before=self._before)
        table = _Table()
        if not all(node.is_busy or node.error for node in nodes):
            facts, nodes, found = self._look_over_keys(facts, targets, nodes, brief)
            table = self._look_at_table(found, brief, lag)
            facts = self._look_around(facts, brief)
        ends = [
            node if node.error else replace(node, errors_at_end=node_look.read_errors(target.pool, node))
            for node, target in zip(nodes, targets, strict=True)
        ]
        return replace(
            facts,
            nodes=tuple(ends),
            settings=table.settings,
            table=table.facts,
            wrong_types=table.wrong_types,
            table_error=table.error,
            is_denied=table.is_denied,
        )

    def _look_over_keys(
        self, facts: Facts, targets: list[Node], nodes: list[NodeFacts], brief: bool
    ) -> tuple[Facts, list[NodeFacts], list[tuple[str, keys.KeyName]]]:
        """Walk over the keys of the nodes that serve slots; return those to sample, of each node in turn."""
        namespaces: set[str] | None = None
        found: list[Sequence[tuple[str, keys.KeyName]]] = []
        is_whole = True
        for number, (target, node) in enumerate(zip(targets, nodes, strict=True)):
            if brief or node.error or not node.is_primary:
                continue
            scanned = sampling.scan(target, facts.namespace)
            if scanned is not None:
                namespaces = (namespaces or set()) | scanned.namespaces
                found.append(scanned.keys)
                is_whole = is_whole and scanned.is_whole
                nodes[number] = replace(node, foreign_keys=scanned.foreign, kvpoll_share=scanned.share)
        in_turn = [key for of_nodes in zip_longest(*found) for key in of_nodes if key is not None]
        is_sampled = not is_whole or len(in_turn) > sampling.SAMPLE
        names = None if namespaces is None else tuple(sorted(namespaces))
        facts = replace(facts, namespaces=names, is_sampled=is_sampled)
        return facts, nodes, in_turn

    def _look_at_table(self, found: Iterable[tuple[str, keys.KeyName]], brief: bool, lag: float | None) -> _Table:
        table = _Table()
        try:
            table.settings = self._run(table_look.read_settings(self._executor))
            if table.settings or _adopt_shards(self._dispatcher):
                context = self._run(table_look.adopt_settings(self._executor))
                tags = keys.tags(context.namespace, context.shards)
                table.wrong_types = self._run(key_types.find_wrong_types(self._executor, tags))
                if brief:
                    table.facts = self._run(table_look.look_briefly_at(self._executor, context))
                else:
                    before = self._before.table if self._before else None
                    table.facts = self._run(table_look.look_at(self._executor, context, found, before, lag))
        except KVPollError as error:
            table.error = str(error)
            code = remedies.code_of(error.__cause__) if error.__cause__ is not None else ""
            table.is_denied = code == "NOPERM"
            if code == "WRONGTYPE" and table.settings is None:
                table.wrong_types = (keys.settings(self._blank.namespace),)
        return table

    def _look_around(self, facts: Facts, brief: bool) -> Facts:
        """Ask for more than this table: the user's rights, and the owners of the deployment's other tables."""
        if brief:
            return facts
        tag = keys.home(facts.namespace, self._executor.session.expected_settings.shards or 1)
        before = self._before.permissions if self._before else None
        facts = replace(facts, permissions=permissions.look_at(self._transport, tag, before))
        base, *roles = deployment(facts.namespace)
        others = [name for name in roles if name != facts.namespace and name in (facts.namespaces or ())]
        instances = {}
        for namespace in (base, *roles) if facts.expected.instances else others * (facts.namespace != base):
            try:
                instances[namespace] = tuple(self._owners_of(namespace))
            except KVPollError:
                continue
        return replace(facts, instances=instances)

    def _owners_of(self, namespace: str) -> list[Owner]:
        executor = _executor(namespace)
        dispatcher = Dispatcher(executor, self._transport)
        if not dispatcher.run(table_look.read_settings(executor)) and not _adopt_shards(dispatcher):
            return []
        context = dispatcher.run(table_look.adopt_settings(executor))
        return dispatcher.run(table_look.read_owners(executor, context))

    def _run(self, flow: Flow[T]) -> T:
        return self._dispatcher.run(flow)


def _executor(namespace: str) -> Executor:
    """Return the executor of a store that only reads."""
    settings: tuple[Any, ...] = (None, None, None, None, True)
    return Executor(Session.checked(namespace, (DEFAULT_TTL, DEFAULT_TERMINAL_TTL, DEADLINE), settings, (None, None)))


def _adopt_shards(dispatcher: Dispatcher) -> int:
    """Adopt the shards of a table whose settings are gone; return how many its keys show, 0 for no table."""
    executor = dispatcher.executor
    session = executor.session

    def ask(tag: str, words: Sequence[str]) -> Any:
        return dispatcher.run(executor.send_command("doctor", tag, list(words)))

    shards = traces.count_shards(executor.namespace, ask)
    if shards:
        session.expected_settings = replace(session.expected_settings, shards=shards)
    return shards


def parse_expected(texts: Iterable[str]) -> Expected:
    """Return what ``--expect`` names; ValueError has what is wrong."""
    settings: dict[str, str] = {}
    instances: dict[str, int] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if name in ROLES and value.isdecimal():
            instances[name] = int(value)
        elif name in SETTINGS and equals and value:
            settings[name] = value
        else:
            what = f"NAME=VALUE, with one of {', '.join((*SETTINGS, *ROLES))}"
            raise ValueError(f"{printable(text)!r} is not {what} (the last two take a number)")
    return Expected(settings, instances)


SETTINGS = ("policy", "shards", "mode", "feed_length", "schema")
