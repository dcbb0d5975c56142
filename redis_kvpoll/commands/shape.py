"""The common form of all commands on rooms: one script call a shard, with the same few words for every room.

A Shape says in Python what the head of its script says in Lua (a test holds them together); from it, the KEYS
and ARGV of every call are built in one place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

from redis_kvpoll import keys
from redis_kvpoll.checks import Mode, Policy
from redis_kvpoll.scripts import Script, load
from redis_kvpoll.status import Outcome

V = TypeVar("V")
T = TypeVar("T")

MAX_BATCH = 1000
"""Rooms a call. A script blocks the server while it runs: 1,000 rooms are some 2 ms."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What commands need to know of their namespace. Times are strings of milliseconds, ready to be sent."""

    namespace: str
    shards: int
    policy: Policy
    mode: Mode
    ttl_ms: str
    terminal_ttl_ms: str


@dataclass(frozen=True, slots=True)
class Shape:
    """How a script is called: the words of its head, in the same order.

    ``keys``, ``item`` and ``reply`` repeat for each room; ``once`` names the fields of Layout that go first in ARGV.
    """

    script: Script
    keys: tuple[str, ...] = ("room",)
    once: tuple[str, ...] = ()
    item: tuple[str, ...] = ()
    reply: tuple[str, ...] = ("status",)
    codes: tuple[Outcome, ...] = ()
    prefix_in_prefill: bool = False
    """Whether a prefix key follows each room key in mode prefill, and only then."""

    def call(self, layout: Layout, tag: str, rooms: list[int], items: list[str], positions: Sequence[int]) -> Call:
        """One script call for rooms that share a shard."""
        key_names = self.keys
        if self.prefix_in_prefill and layout.mode == "prefill":
            key_names = ("room", "prefix")
        key_list = _KEYS[key_names[0]](tag, rooms)
        if len(key_names) > 1:
            by_kind = [_KEYS[name](tag, rooms) for name in key_names]
            key_list = [key for of_room in zip(*by_kind, strict=True) for key in of_room]
        once = [getattr(layout, name) for name in self.once]
        return Call(self.script, tag, key_list, once + items, rooms, positions)


class Call(NamedTuple):
    """One script call, ready to be sent to the shard of ``tag``."""

    script: Script
    tag: str
    keys: list[str]
    args: list[str]
    rooms: list[int]
    positions: Sequence[int]
    """Where these rooms stand in the command's own list."""


class Command(NamedTuple, Generic[V, T]):
    """An operation on rooms whose input has been checked."""

    operation: str
    shape: Shape
    rooms: list[int]
    items: list[str]
    """What the shape's ``item`` names, for each room; empty when it names nothing."""
    decode: Callable[[str, list[int], list[Any]], list[V]]
    """(operation, rooms of a call, its reply) -> a value for each room."""
    finish: Callable[[list[int], list[V]], T]
    """(all rooms, all values) -> what the caller gets."""
    repeatable: bool = True
    """Whether it may be sent again when its reply was lost; what destroys may not."""

    def calls(self, layout: Layout) -> list[Call]:
        """The script calls that carry this command out, in the order in which to send them."""
        rooms, items = self.rooms, self.items
        if len(rooms) == 1:
            return [self.shape.call(layout, keys.tag(layout.namespace, layout.shards, rooms[0]), rooms, items, _FIRST)]
        if layout.shards == 1:
            return [
                self.shape.call(layout, layout.namespace, rooms[at:end], items[at:end], range(at, end))
                for at, end in _chunks(len(rooms))
            ]
        return self._calls_by_shard(layout)

    def _calls_by_shard(self, layout: Layout) -> list[Call]:
        calls = []
        for tag, all_positions in keys.positions_by_tag(layout.namespace, layout.shards, self.rooms).items():
            for at, end in _chunks(len(all_positions)):
                positions = all_positions[at:end]
                rooms = [self.rooms[p] for p in positions]
                items = [self.items[p] for p in positions] if self.items else []
                calls.append(self.shape.call(layout, tag, rooms, items, positions))
        return calls


def _chunks(total: int) -> list[tuple[int, int]]:
    return [(at, min(at + MAX_BATCH, total)) for at in range(0, total, MAX_BATCH)]


_FIRST = range(1)
_KEYS: dict[str, Callable[[str, list[int]], list[str]]] = {"room": keys.rooms, "prefix": keys.prefixes}

UPDATE = Shape(
    load("update"),
    once=("policy", "ttl_ms", "terminal_ttl_ms"),
    item=("status",),
    reply=("outcome", "status"),
    codes=(Outcome.CREATED, Outcome.ADVANCED, Outcome.UNCHANGED, Outcome.FAILED, Outcome.SKIPPED),
    prefix_in_prefill=True,
)
ABORT = Shape(
    load("abort"),
    once=("terminal_ttl_ms",),
    item=("reason",),
    reply=("outcome", "status"),
    codes=(Outcome.UNCHANGED, Outcome.FAILED, Outcome.SKIPPED),
    prefix_in_prefill=True,
)
RECORD_FAILURE = Shape(load("record_failure"), item=("reason",), reply=("stored",))
CLEAR = Shape(load("clear"), keys=("room", "prefix"), reply=("status", "reason"))
POLL = Shape(load("poll"))
TOUCH = Shape(load("touch"), keys=("room", "prefix"), once=("ttl_ms",), reply=("kept",))
ENTRY = Shape(load("entry"), keys=("room", "prefix"), reply=("ttl_ms", "length", "fields"))
SET_PREFIX = Shape(load("set_prefix"), keys=("prefix",), once=("ttl_ms",), item=("length",), reply=("stored",))
POP_PREFIX = Shape(load("pop_prefix"), keys=("prefix",), reply=("length",))

SHAPES = (UPDATE, ABORT, RECORD_FAILURE, CLEAR, POLL, TOUCH, ENTRY, SET_PREFIX, POP_PREFIX)
