"""The common form of all commands on rooms: one script call a shard, with the same few words for every room.

A Shape says in Python what the head of its script says in Lua (a test holds them together); from it, the KEYS
and ARGV of every call are built in one place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
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
    feed_length: str
    """Entries that the feed of a shard keeps; "0" for no feed."""
    ttl_ms: str
    terminal_ttl_ms: str
    feed_ttl_ms: str = "86400000"
    """As in lua/shared/feed.lua, where the other writers have it from: one word less to send with every call."""
    words: dict[tuple[str, ...], list[str]] = field(default_factory=dict, compare=False, repr=False)
    """What each ``once`` of a shape comes to: looked up with every call."""


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
    feed: bool = False
    """Whether KEYS begins with the feed, and the reply with the id of its entry."""
    repeatable: bool = True
    """Whether it may be sent again when its reply was lost; what destroys may not."""
    leaves: Callable[[list[Any]], list[Any]] | None = None
    """For what changes statuses, and for SNAPSHOT: from the reply, the name of the status that each room has now, or
    None."""

    def call(self, layout: Layout, tag: str, rooms: list[int], items: list[str], positions: Sequence[int]) -> Call:
        """One script call for rooms that share a shard."""
        key_names = self.keys
        if self.prefix_in_prefill and layout.mode == "prefill":
            key_names = ("room", "prefix")
        if len(key_names) == 1:
            key_list = _KEYS[key_names[0]](tag, rooms)
        else:
            by_kind = [_KEYS[name](tag, rooms) for name in key_names]
            key_list = [key for of_room in zip(*by_kind, strict=True) for key in of_room]
        once = layout.words.get(self.once)
        if once is None:
            once = layout.words[self.once] = [getattr(layout, name) for name in self.once]
        # Without a feed, a key of the call's own keeps its place: a call with one key goes on while a cluster moves its
        # slot, one with several waits for the end of the move.
        first_keys = [] if not self.feed else key_list[:1] if layout.feed_length == "0" else [keys.feed(tag)]
        return Call(self, tag, first_keys, once, rooms, key_list, items, positions)


class Call(NamedTuple):
    """One script call, ready to be sent to the shard of ``tag``."""

    shape: Shape
    tag: str
    first_keys: list[str]
    once: list[str]
    rooms: list[int] = []  # noqa: RUF012 - never changed
    keys: list[str] = []  # noqa: RUF012
    """Of the rooms, in their order."""
    items: list[str] = []  # noqa: RUF012
    positions: Sequence[int] = ()
    """Where these rooms stand in the command's own list."""

    def words(self) -> list[str]:
        """What is sent, when the server knows the script."""
        count = str(len(self.first_keys) + len(self.keys))
        return ["EVALSHA", self.shape.script.sha, count, *self.first_keys, *self.keys, *self.once, *self.items]

    def together(self, others: Sequence[Call]) -> Call:
        """This call and others of its kind as one, the rooms in this order."""
        calls = [self, *others]
        return self._replace(
            rooms=[room for call in calls for room in call.rooms],
            keys=[key for call in calls for key in call.keys],
            items=[item for call in calls for item in call.items],
            positions=(),
        )

    def is_like(self, other: Call) -> bool:
        """Whether both may travel as one: the same script for the same shard, by the same settings."""
        return self.shape is other.shape and self.once == other.once and self.tag == other.tag


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
    once=("feed_length", "policy", "ttl_ms", "terminal_ttl_ms"),
    item=("status",),
    reply=("outcome", "status"),
    codes=(Outcome.CREATED, Outcome.ADVANCED, Outcome.UNCHANGED, Outcome.FAILED, Outcome.SKIPPED),
    prefix_in_prefill=True,
    feed=True,
    leaves=lambda reply: reply[1::2],
)
ABORT = Shape(
    load("abort"),
    once=("feed_length", "terminal_ttl_ms"),
    item=("reason",),
    reply=("outcome", "status"),
    codes=(Outcome.UNCHANGED, Outcome.FAILED, Outcome.SKIPPED),
    prefix_in_prefill=True,
    feed=True,
    leaves=lambda reply: reply[1::2],
)
RECORD_FAILURE = Shape(load("record_failure"), once=("feed_length",), item=("reason",), reply=("stored",), feed=True)
CLEAR = Shape(
    load("clear"),
    keys=("room", "prefix"),
    once=("feed_length",),
    reply=("status", "reason"),
    feed=True,
    repeatable=False,
    leaves=lambda reply: [None] * (len(reply) // 2),
)
POLL = Shape(load("poll"))
TOUCH = Shape(load("touch"), keys=("room", "prefix"), once=("feed_length", "ttl_ms"), reply=("kept",), feed=True)
ENTRY = Shape(load("entry"), keys=("room", "prefix"), reply=("ttl_ms", "length", "fields"))
SET_PREFIX = Shape(load("set_prefix"), keys=("prefix",), once=("ttl_ms",), item=("length",), reply=("stored",))
POP_PREFIX = Shape(load("pop_prefix"), keys=("prefix",), reply=("length",), repeatable=False)
SNAPSHOT = Shape(
    load("snapshot"), once=("feed_ttl_ms",), reply=("status", "left_ms"), feed=True, leaves=lambda reply: reply[::2]
)

SHAPES = (UPDATE, ABORT, RECORD_FAILURE, CLEAR, POLL, TOUCH, ENTRY, SET_PREFIX, POP_PREFIX, SNAPSHOT)
