"""Reads a sample of a namespace's keys, and finds the namespaces of a server.

Invariant: it never keeps a server busy. A page of SCAN is small, a pause follows that is longer than the page took, and
after SCAN_SECONDS a node it stops: what it has seen by then is the sample.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from redis.crc import key_slot

from redis_kvpoll.doctor import databases
from redis_kvpoll.doctor.facts import PrefixFacts, RoomFacts, SampleFacts
from redis_kvpoll.doctor.node_look import ask, read_fields
from redis_kvpoll.engine.effects import Flow, Sleep
from redis_kvpoll.engine.executor import Executor
from redis_kvpoll.errors import printable
from redis_kvpoll.protocol import keys, lease_commands, replies, script_specs
from redis_kvpoll.protocol.keys import KeyName
from redis_kvpoll.protocol.script_call import CallContext, Command
from redis_kvpoll.sync.transport import Node

SAMPLE = 10_000
"""Keys of the namespace: all of a table of usual size."""
PAGE = 500
PAUSE = 4.0
"""Times as long as the page took."""
SCAN_SECONDS = 5.0
CHUNK = 250
GONE, ENDLESS = -2, -1
"""Replies of PTTL: no key, and no TTL."""


class Scanned(NamedTuple):
    """What the keys of one node show."""

    namespaces: frozenset[str]
    keys: tuple[tuple[str, KeyName], ...]
    """Of the namespace: the sample."""
    foreign: int
    """Keys of the sample whose slot this node does not serve."""
    share: float | None
    """Which share of all keys is kvpoll's in this database, by those that were passed; None if none was."""
    is_whole: bool
    """Whether the sample has all keys of the namespace."""


def scan(node: Node, namespace: str) -> Scanned | None:
    """Walk over one node's keys; None if it does not let this user."""
    namespaces: set[str] = set()
    sample: dict[str, KeyName] = {}
    cursor, give_up_at = "0", time.monotonic() + SCAN_SECONDS
    counts, passed, ours = count_keys(node), 0, 0
    while True:
        is_sampling = len(sample) < SAMPLE
        pattern = keys.EVERYTHING if is_sampling else keys.ALL_SETTINGS
        began = time.monotonic()
        reply = ask(node.pool, "SCAN", cursor, "MATCH", pattern, "COUNT", str(PAGE))
        if reply is None:
            return None
        for name in reply[1]:
            if (found := keys.parts(name)) is None:
                continue
            if found.kind == "settings":
                namespaces.add(found.namespace)
            if found.namespace == namespace and len(sample) < SAMPLE:
                sample[name.decode("utf-8", "replace")] = found
        cursor = reply[0].decode()
        if is_sampling:
            passed = min(passed + PAGE, counts.here) if cursor != "0" else counts.here
            ours += len(reply[1])
        if cursor == "0" or time.monotonic() > give_up_at:
            break
        time.sleep(PAUSE * (time.monotonic() - began))
    slots = node.slots
    foreign = 0 if slots is None else sum(key_slot(found.tag.encode()) not in slots for found in sample.values())
    share = min(1.0, ours / passed) * counts.here / counts.total if passed else None
    is_whole = cursor == "0" and len(sample) < SAMPLE
    return Scanned(frozenset(namespaces), tuple(sample.items()), foreign, share, is_whole)


def count_keys(node: Node) -> databases.KeyCounts:
    """Return how many keys a node has; none if it is not known."""
    return databases.count(read_fields(ask(node.pool, "INFO", "keyspace")), node.pool.database)


def look_at(
    executor: Executor, context: CallContext, found: Iterable[tuple[str, KeyName]], now: float
) -> Flow[SampleFacts]:
    """Read the sampled keys. ``now`` is the server's time."""
    sample = list(found)[:SAMPLE]
    of_room = [(name, key, int(key.room)) for name, key in sample if is_room(key.room)]
    rooms = yield from read_rooms(executor, sorted({room for _, _, room in of_room}), now)
    by_room = {room.room: room for room in rooms}
    listed = [(name, by_room[room]) for name, key, room in of_room if key.kind == "room" and by_room[room].exists]
    others = [(name, key) for name, key in sample if key.kind != "room" or not is_room(key.room)]
    ttls = yield from read_ttls(executor, others)
    prefixes = [
        PrefixFacts(room, by_room[room].exists, ttls[name] / 1000)
        for name, key, room in of_room
        if key.kind == "prefix" and ttls[name] != GONE
    ]
    without = [name for name, ttl in ttls.items() if ttl == ENDLESS]
    without += [name for name, room in listed if not room.has_ttl]
    owned, absent = yield from look_at_owned(executor, context, now)
    kept = tuple(room for _, room in listed)
    return SampleFacts(len(sample), tuple(sorted(without)), kept, tuple(prefixes), owned, absent)


def is_room(text: str) -> bool:
    """Whether this is a room id as scripts write it."""
    return keys.parse_room(text.encode()) is not None


def read_ttls(executor: Executor, sample: Sequence[tuple[str, KeyName]]) -> Flow[dict[str, int]]:
    """Return the PTTL of each key, in milliseconds."""
    found: dict[str, int] = {}
    for name, key in sample:
        found[name] = yield from executor.send_command("doctor", key.tag, ["PTTL", name])
    return found


def read_rooms(executor: Executor, rooms: Sequence[int], now: float) -> Flow[list[RoomFacts]]:
    """Return what the server has of rooms."""

    def decode(_: str, asked: list[int], reply: list[Any]) -> list[RoomFacts]:
        each = zip(asked, reply[::3], reply[1::3], reply[2::3], strict=True)
        return [room_facts(room, ttl, length, pairs, now) for room, ttl, length, pairs in each]

    found: list[RoomFacts] = []
    for chunk in chunks(rooms):
        began = time.monotonic()
        found += yield from executor.run(Command("doctor", script_specs.ENTRY, chunk, [], decode, lambda _, v: v), [])
        if len(chunk) == CHUNK:
            yield Sleep(PAUSE * (time.monotonic() - began))
    return found


def room_facts(room: int, ttl_ms: int, length: Any, pairs: Any, now: float) -> RoomFacts:
    """Return the facts of a room from the reply of the script ``entry``."""
    if ttl_ms == GONE:
        return RoomFacts(room, exists=False)
    has_ttl = ttl_ms != ENDLESS
    if isinstance(pairs, Exception) or isinstance(length, Exception):
        return RoomFacts(room, True, corrupt="a key of another type", has_ttl=has_ttl)
    fields = dict(zip(pairs[::2], pairs[1::2], strict=True))
    status = replies.parse_status(fields.get(b"status"))
    if status is None:
        shown = printable(fields.get(b"status", b"none").decode("utf-8", "replace"))[:40]
        return RoomFacts(room, True, corrupt=f"status {shown}", has_ttl=has_ttl)
    opened = milliseconds(fields.get(b"opened_ms") or fields.get(b"opened", b"").partition(b"-")[0])
    updated = milliseconds(fields.get(b"updated_ms", b""))
    began = opened
    if b"replayed" in fields and len(fields.get(b"generation", b"")) == len("1700000000000000"):
        began = milliseconds(fields[b"generation"][:-3])
    ages = (max(0.0, now - then) if then is not None else 0.0 for then in (began, updated))
    age, idle = ages
    owner = fields.get(b"owner", b"").decode("utf-8", "replace")
    restored_at = opened if b"replayed" in fields else None
    return RoomFacts(
        room,
        True,
        status,
        owner=owner,
        age=age,
        idle=idle,
        restored_at=restored_at,
        has_ttl=has_ttl,
        ttl=ttl_ms / 1000,
    )


def milliseconds(text: bytes) -> float | None:
    return int(text) / 1000 if text.isdigit() and len(text) < 18 else None


def look_at_owned(executor: Executor, context: CallContext, now: float) -> Flow[tuple[int, int]]:
    """Return how many entries of ``owned`` were looked at, and how many have no room. A room may go meanwhile."""
    looked_at = absent = 0
    for tag in keys.tags(context.namespace, context.shards):
        listed = yield from read_owned(executor, context, tag, "-inf", "+inf")
        there = {room.room for room in (yield from read_rooms(executor, sorted(listed), now)) if room.exists}
        looked_at += len(listed)
        if missing := listed - there:
            absent += len(missing & (yield from read_owned(executor, context, tag, "-inf", "+inf")))
    return looked_at, absent


def read_owned(executor: Executor, context: CallContext, tag: str, first: str, last: str) -> Flow[set[int]]:
    """Return the first rooms in a shard's ``owned``, of the incarnations from ``first`` to ``last``."""
    reply = yield from executor.send_command("doctor", tag, lease_commands.list_owned(tag, first, 0, last))
    return set(lease_commands.parse_owned(context, tag, reply))


def count_live(executor: Executor, context: CallContext, tag: str, incarnation: str, now: float) -> Flow[int]:
    """Return how many live rooms a shard's ``owned`` has of one incarnation, up to a thousand."""
    listed = yield from read_owned(executor, context, tag, incarnation, incarnation)
    rooms = yield from read_rooms(executor, sorted(listed), now)
    return sum(room.is_live for room in rooms)


def chunks(rooms: Sequence[int]) -> Iterator[list[int]]:
    return (list(rooms[at : at + CHUNK]) for at in range(0, len(rooms), CHUNK))
