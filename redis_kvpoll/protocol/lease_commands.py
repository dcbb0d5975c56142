"""The commands of leases: take and renew one, sweep those that are due, list and fail the rooms of lost ones.

A lease is in all shards, so that each can refuse the writes of a lost one. The first shard, its home, decides whether
it has expired: heartbeats go there. In the others it lasts much longer, and ends when it is dropped; if no process
lives to do that, it expires there, too. An incarnation is the time at which a lease was taken, in microseconds, as a
decimal string.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from redis_kvpoll import validation
from redis_kvpoll.errors import InvalidInputError
from redis_kvpoll.model import Outcome, Update
from redis_kvpoll.protocol import keys, replies, script_specs
from redis_kvpoll.protocol.script_call import Call, CallContext, Command, ScriptSpec
from redis_kvpoll.protocol.scripts import load

LEASE = ScriptSpec(load("lease"), room_keys=(), reply=(), epoch=True, tail=True)
RENEW = ScriptSpec(
    load("renew"),
    room_keys=(),
    room_args=("owner", "incarnation", "lease_ttl_ms", "heartbeat_ms"),
    reply=("state",),
    epoch=True,
    tail=True,
    max_rooms=200,
)
"""A heartbeat for leases that are held; LEASE does the rest. Its items are leases in place of rooms, so heartbeats of
one store that are sent at once are one call."""

Action = Literal["take", "extend", "renew", "leave", "drop", "reaped", "sweep"]

INTERVAL = 0.3
"""The time between heartbeats while they succeed, by default, in ttls."""
RETRIES = 10
"""Heartbeats per ttl after one has failed, by default: several in a row may fail before the lease expires."""
MIN_HEARTBEATS = 3
"""Per ttl, at least: one may fail before the lease expires."""
AWAY_TTLS = 60
"""The lease's ttl in shards other than its home, in ttls."""
AWAY_INTERVAL, AWAY_INTERVAL_TRACKED = 20, 2
"""The time between renewals there, in ttls; the second where the store has rooms to restore after a loss of data."""
LONGEST_INTERVAL = 24 * 3600.0
"""Seconds between renewals at most, in each shard: the leases' key expires a week after the last one."""
MAX_REAPED = script_specs.REAP.max_rooms
"""Rooms per call."""

_NO_ROOM = -1
_POINTER = re.compile(rb"(\d+) in (\d+)")
_REASON = re.compile(r"owner (\S+) ")


@dataclass(frozen=True, slots=True)
class LeaseConfig:
    """The settings of a lease. Times are in seconds."""

    name: str
    ttl: float
    interval: float
    """Between heartbeats while they succeed."""
    retry_interval: float
    """Between heartbeats after one has failed. The scripts know it as heartbeat_ms: it says how long an owner whose
    lease has expired is suspected before it is lost."""
    process: str = ""
    """The process that takes it, for operators: ``host:pid``."""

    @classmethod
    def checked(cls, name: Any, ttl: Any, heartbeat: Any) -> LeaseConfig:
        """Return the settings from unchecked arguments, or raise InvalidInputError."""
        with validation.of("lease"):
            owner, seconds = validation.owner(name), validation.seconds(ttl, "ttl")
            retry_interval = seconds / RETRIES if heartbeat is None else validation.seconds(heartbeat, "heartbeat")
            if round(MIN_HEARTBEATS * retry_interval * 1000) > round(seconds * 1000):  # 3 * 0.1 is above 0.3
                raise InvalidInputError(
                    f"heartbeat={retry_interval:g} s is above a third of ttl={seconds:g} s, so one late heartbeat "
                    "could cost the lease; pass a shorter one"
                )
        interval = INTERVAL * seconds if heartbeat is None else retry_interval
        return cls(owner, seconds, min(interval, LONGEST_INTERVAL), min(retry_interval, LONGEST_INTERVAL))

    def call(self, context: CallContext, tag: str, action: Action, incarnation: str, epoch: str = "") -> Call:
        """Return the call that performs an action on this lease in one shard."""
        times = self._times(context, tag)
        reason = f"owner {self.name} lost"
        return _call(context, tag, action, self.name, incarnation, *times, epoch, reason, self.process)

    def heartbeat_call(self, context: CallContext, tag: str, incarnation: str) -> Call:
        """Return the call that renews this lease in one shard, if it is held there."""
        first_keys = [keys.epoch(tag), keys.leases(tag), keys.feed(tag)]
        return Call(RENEW, tag, first_keys, [], [_NO_ROOM], [], [self.name, incarnation, *self._times(context, tag)])

    def _times(self, context: CallContext, tag: str) -> tuple[str, str]:
        """Return the lease's ttl and retry interval in one shard, in milliseconds."""
        ttl, retry_interval = self.ttl, self.retry_interval
        if tag != keys.home(context.namespace, context.shards):
            ttl, retry_interval = AWAY_TTLS * ttl, AWAY_INTERVAL * ttl
        return str(max(1, round(ttl * 1000))), str(max(1, round(retry_interval * 1000)))


def sweep(context: CallContext, tag: str) -> Call:
    """Return the call that sweeps the leases of one shard without holding one."""
    return _call(context, tag, "sweep", "", "", "", "", "", "", "")


def drop(context: CallContext, tag: str, incarnation: str, reason: str) -> Call:
    """Return the call that ends a lease in one shard, since it was lost in another."""
    return _call(context, tag, "drop", owner_in(reason), incarnation, "", "", "", reason, "")


def reaped(context: CallContext, tag: str, incarnation: str) -> Call:
    """Return the call that notes that the rooms of a lost incarnation have failed in all shards."""
    return _call(context, tag, "reaped", "", incarnation, "", "", "", "", "")


def _call(context: CallContext, tag: str, action: Action, *words: str) -> Call:
    first_keys = [key(tag) for key in (keys.epoch, keys.leases, keys.owned, keys.feed, keys.due)]
    return Call(LEASE, tag, first_keys, [context.epoch_ttl_ms, context.nonce, action, *words])


def owner_in(reason: str) -> str:
    """Return the owner that a reason for failing rooms names; empty for one that was written by hand."""
    found = _REASON.match(reason)
    return found[1] if found else ""


class LeaseReport(NamedTuple):
    """The reply of one shard to an action on a lease."""

    state: str
    """The state of the lease in the call: held, lost or none."""
    incarnation: str
    lost: Mapping[str, str]
    """The lost incarnations whose rooms are to be failed, each with its reason."""
    next_sweep: float = math.inf
    """Seconds until another sweep has something to check."""


def parse_report(reply: list[Any]) -> LeaseReport:
    """Return the report in a reply to a call of LEASE, without its epoch and the end of the feed."""
    state, incarnation, *found = [word.decode("utf-8", "replace") for word in reply]
    findings = list(zip(found[::3], found[1::3], found[2::3], strict=True))
    return LeaseReport(
        state,
        incarnation,
        {incarnation: reason for kind, incarnation, reason in findings if kind == "lost"},
        min((int(ms) / 1000 for kind, ms, _ in findings if kind == "next"), default=math.inf),
    )


def is_settled(reply: list[Any]) -> bool:
    """Whether a heartbeat is all that a lease needs, by the reply without its epoch and the end of the feed.

    If not, it did not find the lease, or a sweep is due: then LEASE does the rest.
    """
    return bool(reply[0] == b"held")


def lost_in(found: Iterable[list[Any]]) -> dict[str, str]:
    """Return the lost incarnations that replies to calls of LEASE name, each with its reason."""
    return {incarnation: reason for reply in found for incarnation, reason in parse_report(reply).lost.items()}


# The rooms of a lease


def list_owned(tag: str, incarnation: str, offset: int = 0, last: str | None = None) -> list[str]:
    """Return the command that lists up to MAX_REAPED entries of a lease in one shard, or of those up to another."""
    return ["ZRANGEBYSCORE", keys.owned(tag), incarnation, last or incarnation, "LIMIT", str(offset), str(MAX_REAPED)]


class OwnedPages:
    """Reads the list of a lease in pages, so that no command holds the server for long, and misses none.

    Entries may come and go meanwhile. Those that are listed from the first page to the last are all read: they are in
    the order of their bytes, and each page begins with the last entry of the page before, or one in front of it.
    """

    def __init__(self) -> None:
        self.offset: int | None = 0
        """Where the next page begins; None after the last."""
        self._last = b""

    def take(self, page: list[bytes]) -> list[bytes]:
        """Process the page at ``offset``. Returns its entries that are new."""
        assert self.offset is not None  # noqa: S101 - no page follows the last
        if self.offset and (not page or page[0] > self._last):  # entries in front of it have gone
            self.offset = max(0, self.offset - MAX_REAPED)
            return []
        found = [entry for entry in page if entry > self._last]
        self._last = max([self._last, *page[-1:]])
        self.offset = self.offset + len(page) - 1 if len(page) == MAX_REAPED else None
        return found


def parse_owned(context: CallContext, tag: str, reply: Iterable[bytes]) -> list[int]:
    """Return the rooms in the reply, without entries that were added by hand."""
    rooms = map(keys.parse_room, reply)
    return [r for r in rooms if r is not None and keys.tag(context.namespace, context.shards, r) == tag]


def parse_pointers(reply: Iterable[bytes], incarnation: str) -> list[str]:
    """Return the other incarnations in the reply whose rooms the lease may take part in."""
    found = map(_POINTER.fullmatch, reply)
    return [match[2].decode() for match in found if match and match[1].decode() == incarnation]


class Reaped(NamedTuple):
    """What one call did to the rooms of a lost lease."""

    failed: int
    """How many rooms it failed."""
    is_stale: bool
    """Whether the lease was not lost any more."""


def reap(rooms: list[int], incarnation: str, reason: str) -> Command[Update, Reaped]:
    """Fail rooms of a lost lease."""

    def result(_: list[int], updates: list[Update]) -> Reaped:
        outcomes = [update.outcome for update in updates]
        return Reaped(outcomes.count(Outcome.FAILED), Outcome.STALE in outcomes)

    return Command("reap", script_specs.REAP, rooms, [incarnation, reason] * len(rooms), _reaped, result)


def _reaped(_: str, rooms: list[int], reply: list[Any]) -> list[Update]:
    # A corrupt room is skipped, so that it does not keep the others from being failed.
    return [
        Update(Outcome(code), replies.parse_status(status))
        for code, status in zip(reply[::2], reply[1::2], strict=True)
    ]
