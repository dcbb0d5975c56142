"""Reads the facts of one server, by commands that change nothing.

Invariants:

- A command that is denied, or unknown to the server, leaves a fact unknown; it never ends the look.
- A command that the rule of ``kvpoll acl`` lacks, and that was denied, is not sent again by the looks that follow: each
  denied call is an entry in the server's ACL LOG.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from redis.exceptions import RedisError

from redis_kvpoll.doctor.facts import ClockReading, Flusher, NodeFacts, error_counts
from redis_kvpoll.engine import remedies
from redis_kvpoll.engine.classify import NotSent, is_refusal, root_cause
from redis_kvpoll.engine.effects import Send
from redis_kvpoll.sync.connections import NodePool
from redis_kvpoll.sync.transport import Node

REACH_SECONDS = 2.0
"""Without an answer for so long, a server is out of reach."""
ROUND_TRIPS = 50
FLUSHES = ("flushall", "flushdb")

FAILURES = (NotSent, RedisError, OSError)
"""What a call raises that got no answer, or an error for an answer."""


def ask(pool: NodePool, *words: str, denied: set[str] | None = None) -> Any:
    """Return the reply to a command; None if there is none, or if it is an error.

    A command that is in ``denied`` is not sent. One that this user may not call is put in.
    """
    name = " ".join(words[:2])
    if denied is not None and name in denied:
        return None
    try:
        return pool.call(Send("", words, REACH_SECONDS))
    except FAILURES as failure:
        if denied is not None and remedies.code_of(root_cause(failure)) == "NOPERM":
            denied.add(name)
        return None


def look_at(node: Node, brief: bool = False, before: Iterable[str] = ()) -> NodeFacts:
    """Return the facts of one server. A brief look leaves out what a later one does not compare with.

    ``before`` are the commands that an earlier look was denied.
    """
    pool, is_primary = node.pool, node.slots is None or bool(node.slots)
    is_busy = False
    try:
        pool.call(Send("", ["TIME"], REACH_SECONDS))  # the smallest user may not send PING
    except FAILURES as failure:
        cause = root_cause(failure)
        code = remedies.code_of(cause)
        is_busy = code == "BUSY"
        if code not in ("BUSY", "NOPERM"):
            text = remedies.text_of(cause)
            return NodeFacts(node.address, text, is_refusal(cause), remedies.remedy(cause), is_primary=is_primary)
    facts = NodeFacts(
        node.address,
        is_busy=is_busy,
        info=read_info(pool),
        clock=read_clock(pool),
        is_primary=is_primary,
        database=pool.database,
        denied=frozenset(before),
    )
    return facts if brief or is_busy else _look_closely_at(node, facts)


def _look_closely_at(node: Node, facts: NodeFacts) -> NodeFacts:
    """Return the facts with those for which a brief look does not ask."""
    pool, denied = node.pool, set(facts.denied)
    flushes = read_flushes(pool)
    is_clustered = (facts.info or {}).get("cluster_enabled") == "1"
    found = replace(
        facts,
        flushes=flushes,
        flushers=read_flushers(pool, denied) if flushes else (),
        round_trips=measure(pool),
        save=read_setting(pool, "save", denied),
        cluster=read_fields(ask(pool, "CLUSTER", "INFO", denied=denied)) if is_clustered else None,
        slots=None if node.slots is None else count_slots(ask(pool, "CLUSTER", "SLOTS")),
    )
    return replace(found, denied=frozenset(denied))


def count_slots(reply: Any) -> int | None:
    """Return how many slots the reply to CLUSTER SLOTS assigns to nodes."""
    return None if reply is None else sum(int(last) - int(first) + 1 for first, last, *_ in reply)


def read_info(pool: NodePool) -> Mapping[str, str] | None:
    """Return the fields of INFO."""
    return read_fields(ask(pool, "INFO"))


def read_flushes(pool: NodePool) -> Mapping[str, int]:
    """Return how often a server was asked to drop its data, by command."""
    fields = read_fields(ask(pool, "INFO", "commandstats")) or {}
    counts = {name: fields.get(f"cmdstat_{name}", "").partition(",")[0].removeprefix("calls=") for name in FLUSHES}
    return {name: int(count) for name, count in counts.items() if count.isdigit() and int(count)}


def look_at_losses(node: Node) -> NodeFacts:
    """Return the facts that tell whether a server has lost data."""
    pool, flushes = node.pool, read_flushes(node.pool)
    flushers = read_flushers(pool) if flushes else ()
    return NodeFacts(
        node.address,
        info=read_info(pool),
        clock=read_clock(pool),
        flushes=flushes,
        flushers=flushers,
        database=pool.database,
    )


def read_flushers(pool: NodePool, denied: set[str] | None = None) -> tuple[Flusher, ...]:
    """Return the connections whose last command dropped data, the latest first."""
    reply = ask(pool, "CLIENT", "LIST", denied=denied)
    if not isinstance(reply, bytes):
        return ()
    found = []
    for line in reply.decode("utf-8", "replace").splitlines():
        fields = {name: value for name, _, value in (word.partition("=") for word in line.split())}
        if fields.get("cmd") in FLUSHES and fields.get("idle", "").isdigit():
            who = (fields.get("addr", "?"), fields.get("name", ""), fields.get("user", ""))
            found.append(Flusher(*who, fields["cmd"].upper(), float(fields["idle"])))
    return tuple(sorted(found, key=lambda one: one.idle))


def read_errors(pool: NodePool, node: NodeFacts) -> Mapping[str, int]:
    """Return the server's errors by code; without an answer those of when the look at it began."""
    info = read_info(pool)
    return node.errors if info is None else error_counts(info)


def read_fields(reply: Any) -> Mapping[str, str] | None:
    """Return the fields of a reply in lines."""
    if not isinstance(reply, bytes):
        return None
    lines = (line.partition(":") for line in reply.decode("utf-8", "replace").splitlines() if ":" in line)
    return {name: value for name, _, value in lines}


def read_setting(pool: NodePool, name: str, denied: set[str]) -> str | None:
    """Return a setting of the server."""
    reply = ask(pool, "CONFIG", "GET", name, denied=denied)
    if not reply:
        return None
    value = reply.get(name.encode()) if isinstance(reply, dict) else reply[1]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else None


def read_clock(pool: NodePool) -> ClockReading | None:
    """Return a reading of the server's clock."""
    after, after_monotonic = time.time(), time.monotonic()
    reply = ask(pool, "TIME")
    if not reply:
        return None
    server = int(reply[0]) + int(reply[1]) / 1e6
    return ClockReading(server, after, time.time(), after_monotonic, time.monotonic())


def measure(pool: NodePool) -> tuple[float, ...]:
    """Return the seconds of each of ROUND_TRIPS; none if one got no answer."""
    found = []
    for _ in range(ROUND_TRIPS):
        began = time.perf_counter()
        if ask(pool, "TIME") is None:
            return ()
        found.append(time.perf_counter() - began)
    return tuple(found)
