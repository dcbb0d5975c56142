"""Reads the facts of a namespace's table: its leases, its feed, a sample of its rooms."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TypeVar

from redis.exceptions import NoScriptError

from redis_kvpoll.doctor import key_types, sampling
from redis_kvpoll.doctor.facts import FeedFacts, SampleFacts, TableFacts
from redis_kvpoll.engine.effects import Flow
from redis_kvpoll.engine.executor import Executor
from redis_kvpoll.errors import ServerRefusedError
from redis_kvpoll.model import Owner
from redis_kvpoll.protocol import epochs, keys, owner_listing, refused_writes, room_commands, script_specs
from redis_kvpoll.protocol.feed_ids import seconds_of
from redis_kvpoll.protocol.keys import KeyName
from redis_kvpoll.protocol.script_call import CallContext

READ_SECONDS = 2.0
"""For how long the feeds are read to their ends."""
READ_PAGE = "1000"
_OPERATION = "doctor"
T = TypeVar("T")


def read_settings(executor: Executor) -> Flow[dict[str, str]]:
    """Return the namespace's settings as they are stored, known values or not; empty if it does not exist."""
    expected = executor.session.expected_settings
    reply = yield from executor.send_command(_OPERATION, expected.namespace, expected.reading())
    names = expected.reading()[2:]
    return {name: value.decode("utf-8", "replace") for name, value in zip(names, reply, strict=True) if value}


def adopt_settings(executor: Executor) -> Flow[CallContext]:
    """Adopt the settings for further calls.

    Raises:
        NamespaceMismatchError: this version does not know them.
    """
    expected, changes = executor.session.expected_settings, executor.session.server_changes
    reply = yield from executor.send_command(_OPERATION, expected.namespace, expected.reading())
    return executor.session.adopt_settings(reply, changes)


def look_at(
    executor: Executor,
    context: CallContext,
    found: Iterable[tuple[str, KeyName]],
    before: TableFacts | None,
    lag: float | None,
) -> Flow[TableFacts]:
    """Return all facts of the table. ``found`` are the keys to sample; ``lag`` is None to measure it."""
    is_missing = (yield from is_script_missing(executor, context)) if before is not None else False
    brief = yield from look_briefly_at(executor, context)
    sample: SampleFacts = yield from sampling.look_at(executor, context, found, brief.now)
    if lag is None:
        lag = yield from measure_lag(executor, brief.feeds)
    return replace(brief, lag=lag, sample=sample, script_missing=is_missing)


def look_briefly_at(executor: Executor, context: CallContext) -> Flow[TableFacts]:
    """Return the facts with which a later look compares its own."""
    home = keys.home(context.namespace, context.shards)
    now = yield from read_time(executor, home)
    owners = yield from read_owners(executor, context, count=True)
    feeds: dict[str, FeedFacts] = {}
    if context.feed_length != "0":
        for tag in keys.tags(context.namespace, context.shards):
            if (feed := (yield from _unless_of_other_type(look_at_feed(executor, tag)))) is not None:
                feeds[tag] = feed
    began, refused = {}, []
    for tag in keys.tags(context.namespace, context.shards):
        epoch = yield from executor.send_command(_OPERATION, tag, ["HGET", keys.epoch(tag), "epoch"])
        if (began_at := epochs.began_at(epoch)) is not None:
            began[tag] = began_at
        read = executor.send_command(_OPERATION, tag, ["HGETALL", keys.refused(tag)])
        refused.append(refused_writes.parse((yield from _unless_of_other_type(read)) or []))
    full = owner_listing.parse_full(
        (yield from executor.send_command(_OPERATION, home, owner_listing.full_words(home)))
    )
    yield from executor.run(room_commands.poll([0]), [])  # loads its script
    counts = refused_writes.merge(refused)
    return TableFacts(now, tuple(owners), feeds, began, counts, shards=context.shards, full=full)


def _unless_of_other_type(read: Flow[T]) -> Flow[T | None]:
    """Return what was read; None if the key has another type, which a check of its own reports."""
    try:
        return (yield from read)
    except ServerRefusedError as error:
        if key_types.is_for_type(error):
            return None
        raise


def is_script_missing(executor: Executor, context: CallContext) -> Flow[bool]:
    """Whether the server no longer has the script that each look runs."""
    call = script_specs.POLL.call(context, keys.tag(context.namespace, context.shards, 0), [0], [], range(1))
    try:
        yield from executor.send_command(_OPERATION, call.tag, call.words())
    except ServerRefusedError as error:
        if isinstance(error.__cause__, NoScriptError):
            return True
        raise
    return False


def read_time(executor: Executor, tag: str) -> Flow[float]:
    """Return the time of a shard's server."""
    seconds, micros = yield from executor.send_command(_OPERATION, tag, ["TIME"])
    return int(seconds) + int(micros) / 1e6


def read_owners(executor: Executor, context: CallContext, count: bool = False) -> Flow[list[Owner]]:
    """Return the owners of a namespace; with ``count``, the live rooms of lost ones.

    Heartbeats go to the first shard, so the others say only who is lost.
    """
    found: dict[tuple[str, int], Owner] = {}
    tags = keys.tags(context.namespace, context.shards)
    for tag in tags:
        now = yield from read_time(executor, tag)
        reply = yield from executor.send_command(_OPERATION, tag, ["HGETALL", keys.leases(tag)])
        words, due = owner_listing.words_of(reply), {}
        if owner_listing.has_lost(words):
            due = owner_listing.parse_due(
                (yield from executor.send_command(_OPERATION, tag, owner_listing.list_due(tag)))
            )
        for owner in owner_listing.parse_owners(words, now, due):
            known, is_lost = found.get((owner.name, owner.incarnation)), owner.state == "lost"
            if tag != tags[0] and not is_lost:
                continue
            live, incarnation = 0, str(owner.incarnation)
            if count and is_lost:
                live = yield from sampling.count_live(executor, context, tag, incarnation, now)
            totals = (known.rooms, known.failed, known.contested_at) if known is not None else (0, 0, 0.0)
            found[owner.name, owner.incarnation] = replace(
                owner,
                rooms=totals[0] + live,
                failed=totals[1] + owner.failed,
                contested_at=max(totals[2], owner.contested_at),
            )
    return sorted(found.values(), key=lambda owner: owner.incarnation)


def look_at_feed(executor: Executor, tag: str) -> Flow[FeedFacts]:
    """Return the bounds of one shard's feed."""
    key = keys.feed(tag)
    first = yield from executor.send_command(_OPERATION, tag, ["XRANGE", key, "-", "+", "COUNT", "1"])
    last = yield from executor.send_command(_OPERATION, tag, ["XREVRANGE", key, "+", "-", "COUNT", "1"])
    try:
        length = yield from executor.send_command(_OPERATION, tag, ["XLEN", key])
    except ServerRefusedError:  # an older rule does not have it
        length = None
    ids = [entries[0][0].decode() if entries else None for entries in (first, last)]
    return FeedFacts(ids[0], ids[1], length)


def measure_lag(executor: Executor, feeds: Mapping[str, FeedFacts]) -> Flow[float]:
    """Read what the feeds got since this look began; return how far behind their ends the reading stayed."""
    give_up_at = time.monotonic() + READ_SECONDS
    behind = 0.0
    for tag, feed in feeds.items():
        at = feed.last
        while at is not None:
            words = ["XRANGE", keys.feed(tag), f"({at}", "+", "COUNT", READ_PAGE]
            entries = yield from executor.send_command(_OPERATION, tag, words)
            if len(entries) < int(READ_PAGE):
                break
            at = entries[-1][0].decode()
            if time.monotonic() > give_up_at:
                now = yield from read_time(executor, tag)
                behind = max(behind, now - seconds_of(at))
                break
    return behind
