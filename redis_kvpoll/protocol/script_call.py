"""The common form of all commands on rooms: one script call a shard, with the same few words for every room.

A ScriptSpec says in Python what the head of its script says in Lua (a test holds them together); from it, the KEYS
and ARGV of every call are built in one place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, Generic, NamedTuple, ParamSpec, TypeVar

from redis_kvpoll.errors import InvalidInputError
from redis_kvpoll.model import Outcome, Refusal
from redis_kvpoll.protocol import keys
from redis_kvpoll.protocol.scripts import Script
from redis_kvpoll.validation import Mode, Policy

V = TypeVar("V")
T = TypeVar("T")
P = ParamSpec("P")

MAX_BATCH = 1000
"""Rooms a call. A script blocks the server while it runs: 1,000 rooms are some 2 ms."""

NOT_REPORTED = object()
"""In the place of a status that a reply does not say; see ``ScriptSpec.statuses_after``."""


@dataclass(frozen=True)
class Identity:
    """Who a store is to the scripts: strings, ready to be sent; empty what is not there. Times are milliseconds."""

    ttl_ms: str
    terminal_ttl_ms: str
    rank: str = ""
    """Whose status the store's calls are about; empty where rooms have no ranks."""
    world_size: str = ""
    owner: str = ""
    """The name of the lease under which the store creates rooms."""
    incarnation: str = ""
    nonce: str = ""
    """Random; it makes the epochs that this store begins its own."""

    @property
    def epoch_ttl_ms(self) -> str:
        """Far longer than a room that nobody touches can live: an epoch that ends is taken for a loss of data."""
        return str(max(7 * 24 * 3600 * 1000, 10 * int(self.ttl_ms)))

    @property
    def length_field(self) -> str:
        """Where the decode prefix length of this rank stands."""
        return f"length:{self.rank}" if self.rank else "length"

    @property
    def author(self) -> str:
        """Who fails a room, when this store does: what is known of it."""
        rank = f"rank {self.rank}" if self.rank else ""
        return f"{self.owner} {rank}".strip()


@dataclass(frozen=True, kw_only=True)
class CallContext(Identity):
    """What commands need to know of their namespace and of their store."""

    namespace: str
    shards: int
    policy: Policy
    mode: Mode
    feed_length: str
    """Entries that the feed of a shard keeps; "0" for no feed."""
    feed_ttl_ms: str = "86400000"
    """As in lua/include/feed.lua, where the other writers have it from: one word less to send with every call."""
    words: dict[tuple[str, ...], list[str]] = field(default_factory=dict, compare=False, repr=False)
    """What each ``once`` of a spec comes to: looked up with every call."""


@dataclass(frozen=True, slots=True)
class ScriptSpec:
    """How a script is called: the words of its head, in the same order.

    ``keys``, ``item`` and ``reply`` repeat for each room; ``once`` names fields of CallContext, at the start of ARGV.
    """

    script: Script
    keys: tuple[str, ...] = ("room",)
    first: tuple[str, ...] = ()
    """The keys of the shard that go before those of the rooms; by feed, the reply begins with the id of its entry."""
    once: tuple[str, ...] = ()
    item: tuple[str, ...] = ()
    reply: tuple[str, ...] = ("status",)
    codes: tuple[Outcome | Refusal, ...] = ()
    """What the first word of a room in the reply can be, where that is an outcome."""
    prefix_in_prefill: bool = False
    """Whether a prefix key follows each room key in mode prefill, and only then."""
    epoch: bool = False
    """Whether the epoch of the shard stands in the reply, behind the feed's id if there is one: not always where
    ``first`` has it, since a script that is only to give generations need not say it."""
    repeatable: bool = True
    """Whether it may be sent again when its reply was lost; what destroys may not."""
    statuses_after: Callable[[list[Any]], list[Any]] | None = None
    """For what changes statuses, and for both SNAPSHOTs: from the reply, the name of the status that each room has now,
    None when it is absent, NOT_REPORTED when the reply does not say."""
    for_rank: ScriptSpec | None = None
    """What does the same for a store that has a rank."""
    for_owner: ScriptSpec | None = None
    """What does the same for a store that holds a lease, or has a rank. Its further words of a room stay empty."""

    @property
    def feed(self) -> bool:
        """Whether the reply begins with the id of an entry of the feed."""
        return self.first[:1] == ("feed",)

    def of(self, context: CallContext) -> ScriptSpec:
        """The spec that does this for a store as the context says."""
        if context.rank:
            return self.for_rank or self.for_owner or self
        return (self.for_owner or self) if context.owner else self

    def call(
        self, context: CallContext, tag: str, rooms: list[int], items: list[str], positions: Sequence[int]
    ) -> Call:
        """One script call for rooms that share a shard."""
        key_names = self.keys
        if self.prefix_in_prefill and context.mode == "prefill":
            key_names = ("room", "prefix")
        if len(key_names) == 1:
            key_list = _KEYS[key_names[0]](tag, rooms)
        else:
            by_kind = [_KEYS[name](tag, rooms) for name in key_names]
            key_list = [key for of_room in zip(*by_kind, strict=True) for key in of_room]
        once = context.words.get(self.once)
        if once is None:
            once = context.words[self.once] = [getattr(context, name) for name in self.once]
        return Call(self, tag, [_FIRST_KEYS[name](tag) for name in self.first], once, rooms, key_list, items, positions)


class Call(NamedTuple):
    """One script call, ready to be sent to the shard of ``tag``."""

    spec: ScriptSpec
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
        return ["EVALSHA", self.spec.script.sha, count, *self.first_keys, *self.keys, *self.once, *self.items]

    def merged_with(self, others: Sequence[Call]) -> Call:
        """This call and others of its kind as one, the rooms in this order."""
        calls = [self, *others]
        return self._replace(
            rooms=[room for call in calls for room in call.rooms],
            keys=[key for call in calls for key in call.keys],
            items=[item for call in calls for item in call.items],
            positions=(),
        )

    def can_merge_with(self, other: Call) -> bool:
        """Whether both may travel as one: the same script for the same shard, by the same settings."""
        return self.spec is other.spec and self.once == other.once and self.tag == other.tag


class Command(NamedTuple, Generic[V, T]):
    """An operation on rooms whose input has been checked."""

    operation: str
    spec: ScriptSpec
    rooms: list[int]
    items: list[str]
    """What the spec's ``item`` names, for each room; empty when it names nothing."""
    decode: Callable[[str, list[int], list[Any]], list[V]]
    """(operation, rooms of a call, its reply) -> a value for each room."""
    finish: Callable[[list[int], list[V]], T]
    """(all rooms, all values) -> what the caller gets."""

    def calls(self, context: CallContext) -> list[Call]:
        """The script calls that carry this command out, in the order in which to send them."""
        rooms, items, spec = self.rooms, self.items, self.spec
        if context.rank or context.owner:
            spec = spec.of(context)
            items = _widened(items, len(self.spec.item), len(spec.item))
        if len(rooms) == 1:
            return [spec.call(context, keys.tag(context.namespace, context.shards, rooms[0]), rooms, items, _FIRST)]
        if context.shards == 1:
            width = len(spec.item)
            return [
                spec.call(context, context.namespace, rooms[at:end], items[at * width : end * width], range(at, end))
                for at, end in _chunks(len(rooms))
            ]
        return self._calls_by_shard(context, spec, items)

    def _calls_by_shard(self, context: CallContext, spec: ScriptSpec, items: list[str]) -> list[Call]:
        calls, width = [], len(spec.item)
        for tag, all_positions in keys.positions_by_tag(context.namespace, context.shards, self.rooms).items():
            for at, end in _chunks(len(all_positions)):
                positions = all_positions[at:end]
                rooms = [self.rooms[p] for p in positions]
                some = [word for p in positions for word in items[p * width : (p + 1) * width]]
                calls.append(spec.call(context, tag, rooms, some, positions))
        return calls


def named(build: Callable[P, T]) -> Callable[P, T]:
    """Decorate a function that builds a command: its input errors begin with the operation's name."""

    @wraps(build)
    def checked(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return build(*args, **kwargs)
        except InvalidInputError as error:
            raise InvalidInputError(f"{build.__name__}: {error}") from None

    return checked


def only(_: list[int], values: list[V]) -> V:
    """Finish a command on one room: return its value."""
    return values[0]


def by_room(rooms: list[int], values: list[V]) -> dict[int, V]:
    """Finish a command on many rooms: return a dict of room to value."""
    return dict(zip(rooms, values, strict=True))


def _widened(items: list[str], width: int, wider: int) -> list[str]:
    """The same words, with empty ones behind those of each room."""
    if width == wider:
        return items
    blank = [""] * (wider - width)
    return [word for at in range(0, len(items), width) for word in (*items[at : at + width], *blank)]


def _chunks(total: int) -> list[tuple[int, int]]:
    return [(at, min(at + MAX_BATCH, total)) for at in range(0, total, MAX_BATCH)]


_FIRST = range(1)
_KEYS: dict[str, Callable[[str, list[int]], list[str]]] = {"room": keys.rooms, "prefix": keys.prefixes}
_FIRST_KEYS: dict[str, Callable[[str], str]] = {
    "feed": keys.feed,
    "epoch": keys.epoch,
    "leases": keys.leases,
    "owned": keys.owned,
}
