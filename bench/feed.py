"""The cost of the change feed: time, compared with a table without one, and the server's memory."""

from __future__ import annotations

import contextlib
from typing import Any

from bench import traffic
from bench.ground import Ground
from bench.measure import Contender, Spread, interleave
from bench.results import Row, Section, compare
from redis_kvpoll import KVPoll, StatusStore
from redis_kvpoll.protocol import keys

FULL = 100_000
_BATCH = 1000
_SAMPLE = 1600
_AT_ONCE = 10_000


def measure(ground: Ground, rooms: int, call_rounds: int, rounds: int) -> Section:
    section = Section("feed", "A table with its change feed, beside one without", "with / without", ours="with")
    section.theirs = "without"
    some, many = ground.ids(rooms), ground.ids(_BATCH)
    with contextlib.ExitStack() as closing:
        with_feed = closing.enter_context(ground.store("told"))
        without = closing.enter_context(ground.store("silent", feed_length=0))
        calls = [_calls("with", with_feed, some), _calls("without", without, some)]
        batches = [_batches("with", with_feed, many), _batches("without", without, many)]
        one, batch = interleave(calls, call_rounds), interleave(batches, rounds)
    section.rows.append(compare("update_status", "with", "", "without", one))
    section.rows.append(compare("update_many, 1,000 rooms, a room", "with", "", "without", batch))
    return section


def memory(ground: Ground, entries: int) -> Section:
    """The memory of a full feed, without its key name."""
    section = Section("feed_memory", f"Memory of a feed of {entries:,} entries on the server", "bytes")
    for how, at_once in (("one by one", 1), ("in batches", _SAMPLE)):
        size = _size(ground, at_once, entries)
        name = f"changes {how}, {size / entries:.0f} B an entry"
        section.rows.append(Row(name, "", "bytes", size, None, Spread(size, size, size)))
    return section


def _calls(name: str, store: StatusStore, rooms: list[int]) -> Contender:
    calls = traffic.calls(rooms)

    def run() -> None:
        for room, status in calls:
            store.update_status(room, status)

    return Contender(name, run, len(calls), lambda: store.clear_many(rooms))


def _batches(name: str, store: StatusStore, rooms: list[int]) -> Contender:
    def run() -> None:
        for status in traffic.LIFE:
            store.update_many(dict.fromkeys(rooms, status))

    return Contender(name, run, len(rooms) * len(traffic.LIFE), lambda: store.clear_many(rooms))


def _size(ground: Ground, at_once: int, entries: int) -> float:
    """The memory of a stream with ``entries`` entries: real ones of some changes, repeated."""
    table = f"feed-{at_once}"
    rooms = ground.ids(_SAMPLE)
    with ground.store(table) as store:
        for at in range(0, _SAMPLE, at_once):
            store.update_many(dict.fromkeys(rooms[at : at + at_once], KVPoll.Transferring))
    found: Any = ground.client.xrange(keys.feed(f"{ground.id}.{table}"))
    copy = f"{keys.feed(f'{ground.id}.{table}')}:copy"
    for start in range(0, entries, _AT_ONCE):
        with ground.client.pipeline(transaction=False) as pipe:
            for number in range(start, min(start + _AT_ONCE, entries)):
                pipe.xadd(copy, found[number % len(found)][1])
            pipe.execute()
    size = int(ground.client.memory_usage(copy, samples=0) or 0)
    ground.client.unlink(copy)
    return float(size - len(copy))
