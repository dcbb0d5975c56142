"""Commands on rooms, and the script calls that they consist of.

A ScriptSpec repeats in Python what the head of its script declares in Lua; a test compares the two. The KEYS and ARGV
of every call are built from it here and nowhere else.

Invariant: no call holds the server for long. ``max_rooms`` bounds its rooms; where ranks make them large, its script
stops by itself, and its reply lacks the last rooms, which are sent again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, Generic, NamedTuple, ParamSpec, TypeVar

from redis_kvpoll.errors import InvalidInputError
from redis_kvpoll.model import Ending, Outcome, Refusal
from redis_kvpoll.protocol import keys
from redis_kvpoll.protocol.scripts import Script
from redis_kvpoll.validation import Mode, Policy

V = TypeVar("V")
T = TypeVar("T")
P = ParamSpec("P")

MAX_BATCH = 1000
"""Rooms per call at most. A script blocks the server while it runs: 2 to 4 ms for 1,000 rooms of the fast ones."""

FEED_TTL_MS = "86400000"
"""As in lua/include/feed.lua, which saves the other scripts an argument per call."""

NOT_REPORTED = object()
"""Marks a status that a reply does not contain; see ``ScriptSpec.statuses_after``."""


@dataclass(frozen=True)
class Identity:
    """The identity of a store, as scripts receive it: strings, empty if absent. Times are in milliseconds."""

    ttl_ms: str
    terminal_ttl_ms: str
    rank: str = ""
    """The rank of the store; empty for a store without ranks."""
    world_size: str = ""
    owner: str = ""
    """The name of the store's lease."""
    incarnation: str = ""
    nonce: str = ""
    """Random, part of the epochs that this store creates, so that no two stores create the same."""

    @property
    def epoch_ttl_ms(self) -> str:
        """Far longer than an untouched room lives, because an expired epoch counts as a loss of data."""
        return str(max(7 * 24 * 3600 * 1000, 10 * int(self.ttl_ms)))

    @property
    def length_field(self) -> str:
        """The hash field with the decode prefix length of this rank."""
        return f"length:{self.rank}" if self.rank else "length"

    @property
    def author(self) -> str:
        """What ``failed_by`` names when this store fails a room: its owner, its rank, or both."""
        rank = f"rank {self.rank}" if self.rank else ""
        return f"{self.owner} {rank}".strip()


@dataclass(frozen=True, kw_only=True)
class CallContext(Identity):
    """The namespace's settings and the store's identity, from which calls are built."""

    namespace: str
    shards: int
    policy: Policy
    mode: Mode
    feed_length: str
    """Entries that a shard's feed keeps; "0" for no feed."""
    feed_ttl_ms: str = FEED_TTL_MS
    """Empty for a store that only reads: then a missing feed is not started."""
    shared_args_cache: dict[tuple[str, ...], list[str]] = field(init=False, default_factory=dict, compare=False)
    """Cache: the ``shared_args`` of each spec. Each context has its own, also one that ``replace`` has made."""


@dataclass(frozen=True, slots=True, eq=False)  # each call asks whether its spec is one of a few
class ScriptSpec:
    """The keys, arguments and reply of a script, in the order of its head.

    ``room_keys``, ``room_args`` and ``reply`` repeat for each room. ``shared_args`` names fields of CallContext.
    """

    script: Script
    room_keys: tuple[str, ...] = ("room",)
    shard_keys: tuple[str, ...] = ()
    """The shard's keys, before those of the rooms. With the feed among them, the reply starts with a feed id."""
    last_keys: tuple[str, ...] = ()
    """The shard's keys after those of the rooms: the stream of failures, if the script fails rooms."""
    last_keys_if: str = ""
    """The argument of a room for which ``last_keys`` are needed; empty if they always are. A key that is not declared
    costs nothing, and while a cluster moves the slot, one that does not exist yet would make the call wait."""
    shared_args: tuple[str, ...] = ()
    room_args: tuple[str, ...] = ()
    reply: tuple[str, ...] = ("status",)
    codes: tuple[Outcome | Ending | Refusal, ...] = ()
    """The possible codes of a room in the reply, if its first field is a code."""
    prefix_in_prefill: bool = False
    """Whether a prefix key follows each room key, in mode prefill only."""
    epoch: bool = False
    """Whether the reply contains the shard's epoch, after a feed id. A script may use the epoch key without that."""
    tail: bool = False
    """Whether the feed id, room and status of the feed's last entry follow the epoch in the reply."""
    repeatable: bool = True
    """Whether the call may be sent again after a lost reply. False for destructive calls."""
    statuses_after: Callable[[list[Any]], list[Any]] | None = None
    """Returns from a reply the status name of each room after the call: None if it is absent, NOT_REPORTED if the reply
    does not contain it. Set for scripts whose replies tell statuses; a mirror applies the result."""
    is_nested: bool = False
    """Whether the argument of a room is a tuple of words, of any number."""
    max_rooms: int = MAX_BATCH
    """Rooms per call: it then takes about 4 ms, if no room has many ranks."""
    may_stop: bool = False
    """Whether the script may leave the last rooms out of its reply, undone: after many ranks, or before an error."""
    for_rank: ScriptSpec | None = None
    """The variant for a store with a rank."""
    for_owner: ScriptSpec | None = None
    """The variant for a store with a lease or a rank. Its additional arguments of a room stay empty."""

    @property
    def feed(self) -> bool:
        """Whether the reply starts with the id of a feed entry."""
        return self.shard_keys[:1] == ("feed",)

    def rows(self, reply: Sequence[Any]) -> Iterable[tuple[Any, ...]]:
        """Return the fields of each room in a reply, without feed id and epoch."""
        return zip(*[iter(reply)] * len(self.reply), strict=True)

    def of(self, context: CallContext) -> ScriptSpec:
        """Return the variant for a store with this context."""
        if context.rank:
            return self.for_rank or self.for_owner or self
        return (self.for_owner or self) if context.owner else self

    def call(
        self, context: CallContext, tag: str, rooms: list[int], room_args: list[str], positions: Sequence[int]
    ) -> Call:
        """Return a script call for rooms of one shard."""
        key_names = self.room_keys
        if self.prefix_in_prefill and context.mode == "prefill":
            key_names = ("room", "prefix")
        if len(key_names) == 1:
            room_keys = _KEYS[key_names[0]](tag, rooms)
        else:
            by_kind = [_KEYS[name](tag, rooms) for name in key_names]
            room_keys = [key for of_room in zip(*by_kind, strict=True) for key in of_room]
        if (shared_args := context.shared_args_cache.get(self.shared_args)) is None:
            shared_args = [getattr(context, name) for name in self.shared_args]
            context.shared_args_cache[self.shared_args] = shared_args
        shard_keys = [_SHARD_KEYS[name](tag) for name in self.shard_keys]
        words = [word for words in room_args for word in words] if self.is_nested else room_args
        last = self.last_keys if not self.last_keys_if or self.last_keys_if in words else ()
        last_keys = [_SHARD_KEYS[name](tag) for name in last]
        return Call(self, tag, shard_keys, shared_args, rooms, room_keys, room_args, positions, last_keys)


class Call(NamedTuple):
    """One script call, ready to be sent to the shard of ``tag``."""

    spec: ScriptSpec
    tag: str
    shard_keys: list[str]
    shared_args: list[str]
    rooms: list[int] = []  # noqa: RUF012 - never changed
    room_keys: list[str] = []  # noqa: RUF012
    room_args: list[str] = []  # noqa: RUF012
    positions: Sequence[int] = ()
    """The indexes of these rooms in the command's list."""
    last_keys: list[str] = []  # noqa: RUF012

    @property
    def all_keys(self) -> list[str]:
        """All keys of the call, in the order of KEYS."""
        return [*self.shard_keys, *self.room_keys, *self.last_keys]

    def words(self) -> list[str]:
        """Return the command for a server that has the script cached."""
        all_keys = self.all_keys
        room_args = [word for words in self.room_args for word in words] if self.spec.is_nested else self.room_args
        return ["EVALSHA", self.spec.script.sha, str(len(all_keys)), *all_keys, *self.shared_args, *room_args]

    def split(self, reply: Sequence[Any]) -> tuple[Call, Call]:
        """Return the call for the rooms in a reply, without feed id and epoch, and the call for those that it lacks."""
        done, count = len(reply) // len(self.spec.reply), len(self.rooms)
        keys, args = len(self.room_keys) // count * done, len(self.room_args) // count * done
        first = self._replace(rooms=self.rooms[:done], room_keys=self.room_keys[:keys], room_args=self.room_args[:args])
        rest = self._replace(rooms=self.rooms[done:], room_keys=self.room_keys[keys:], room_args=self.room_args[args:])
        return first, rest

    def replied(self, reply: Sequence[Any]) -> Call:
        """Return the call for the rooms in a reply, without feed id and epoch."""
        return self if len(reply) == len(self.rooms) * len(self.spec.reply) else self.split(reply)[0]

    def merged_with(self, others: Sequence[Call]) -> Call:
        """Return one call for the rooms of this call and others, in this order."""
        calls = [self, *others]
        return self._replace(
            rooms=[room for call in calls for room in call.rooms],
            room_keys=[key for call in calls for key in call.room_keys],
            room_args=[word for call in calls for word in call.room_args],
            positions=(),
            last_keys=max((call.last_keys for call in calls), key=len),
        )

    def can_merge_with(self, other: Call) -> bool:
        """Whether both can be one call: the same script, shard and settings."""
        return self.spec is other.spec and self.shared_args == other.shared_args and self.tag == other.tag


class Command(NamedTuple, Generic[V, T]):
    """An operation on rooms with checked arguments. ``calls`` are sent; ``decode`` and ``finish`` make its result."""

    operation: str
    spec: ScriptSpec
    rooms: list[int]
    room_args: list[str]
    """The arguments that the spec's ``room_args`` names, room by room."""
    decode: Callable[[str, list[int], list[Any]], list[V]]
    """(operation, rooms of a call, its reply) -> a value for each room; see ``replies``."""
    finish: Callable[[list[int], list[V]], T]
    """(all rooms, all values) -> the result of the operation."""

    def calls(self, context: CallContext) -> list[Call]:
        """Return the script calls of this command, in the order in which to send them."""
        rooms, args, spec = self.rooms, self.room_args, self.spec
        if context.rank or context.owner:
            spec = spec.of(context)
            args = _widened(args, len(self.spec.room_args), len(spec.room_args))
        if len(rooms) == 1:
            return [spec.call(context, keys.tag(context.namespace, context.shards, rooms[0]), rooms, args, _FIRST)]
        if context.shards == 1:
            width = len(spec.room_args)
            return [
                spec.call(context, context.namespace, rooms[at:end], args[at * width : end * width], range(at, end))
                for at, end in _chunks(len(rooms), spec.max_rooms)
            ]
        return self._calls_by_shard(context, spec, args)

    def _calls_by_shard(self, context: CallContext, spec: ScriptSpec, args: list[str]) -> list[Call]:
        calls, width = [], len(spec.room_args)
        for tag, all_positions in keys.positions_by_tag(context.namespace, context.shards, self.rooms).items():
            for at, end in _chunks(len(all_positions), spec.max_rooms):
                positions = all_positions[at:end]
                rooms = [self.rooms[p] for p in positions]
                if width > 1:
                    some = [word for p in positions for word in args[p * width : (p + 1) * width]]
                else:  # the usual cases, at less cost
                    some = [args[p] for p in positions] if width else []
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


def _widened(args: list[str], width: int, wider: int) -> list[str]:
    """Return the arguments with empty ones appended for each room."""
    if width == wider:
        return args
    blank = [""] * (wider - width)
    return [word for at in range(0, len(args), width) for word in (*args[at : at + width], *blank)]


def _chunks(total: int, size: int) -> list[tuple[int, int]]:
    return [(at, min(at + size, total)) for at in range(0, total, size)]


_FIRST = range(1)
_KEYS: dict[str, Callable[[str, list[int]], list[str]]] = {"room": keys.rooms, "prefix": keys.prefixes}
_OF_SHARD = (keys.feed, keys.failed, keys.epoch, keys.leases, keys.due, keys.owned, keys.cleared, keys.refused)
_SHARD_KEYS: dict[str, Callable[[str], str]] = {of_shard.__name__: of_shard for of_shard in _OF_SHARD}
