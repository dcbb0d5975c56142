"""The commands of leases: take and renew one, sweep all, list and fail the rooms of lost ones.

An incarnation is the time at which a lease was taken, in microseconds, as a decimal string.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from redis_kvpoll import validation
from redis_kvpoll.errors import InvalidInputError
from redis_kvpoll.model import Outcome, Owner, Update
from redis_kvpoll.protocol import keys, replies, script_specs
from redis_kvpoll.protocol.script_call import MAX_BATCH, Call, CallContext, Command, ScriptSpec
from redis_kvpoll.protocol.scripts import load

LEASE = ScriptSpec(load("lease"), keys=(), reply=(), epoch=True, tail=True)

Action = Literal["take", "extend", "renew", "leave", "drop", "sweep"]

HEARTBEATS = 10
"""Per ttl, by default: several in a row may fail before the lease expires."""
MIN_HEARTBEATS = 3
"""Per ttl, at least: one may fail before the lease expires."""

_RECORD = re.compile(rb"(\d+) (\d+) (\d+) (\d+) (\d+)")
_LOST = re.compile(rb"lost (\d+)")
_REASON = re.compile(r"owner (\S+) ")


@dataclass(frozen=True, slots=True)
class LeaseConfig:
    """The settings of a lease. Times are in seconds."""

    name: str
    ttl: float
    heartbeat: float

    @classmethod
    def checked(cls, name: Any, ttl: Any, heartbeat: Any) -> LeaseConfig:
        """Return the settings from unchecked arguments, or raise InvalidInputError."""
        try:
            owner, seconds = validation.owner(name), validation.seconds(ttl, "ttl")
            interval = seconds / HEARTBEATS if heartbeat is None else validation.seconds(heartbeat, "heartbeat")
            if interval > seconds / MIN_HEARTBEATS:
                what = (
                    f"heartbeat is at most a third of ttl ({seconds:g} s), so that one may be late, not {interval:g} s"
                )
                raise InvalidInputError(what)
        except InvalidInputError as error:
            raise InvalidInputError(f"lease: {error}") from None
        return cls(owner, seconds, interval)

    def call(self, context: CallContext, tag: str, action: Action, incarnation: str, epoch: str = "") -> Call:
        """Return the call that performs an action on this lease in one shard."""
        times = (str(max(1, round(seconds * 1000))) for seconds in (self.ttl, self.heartbeat))
        return _call(context, tag, action, self.name, incarnation, *times, epoch)


def sweep(context: CallContext, tag: str) -> Call:
    """Return the call that sweeps the leases of one shard without holding one."""
    return _call(context, tag, "sweep", "", "", "", "", "")


def _call(context: CallContext, tag: str, action: Action, *words: str) -> Call:
    first_keys = [keys.epoch(tag), keys.leases(tag), keys.owned(tag), keys.feed(tag)]
    return Call(LEASE, tag, first_keys, [context.epoch_ttl_ms, context.nonce, action, *words])


class LeaseReport(NamedTuple):
    """The reply of one shard to an action on a lease."""

    state: str
    """The state of the lease in the call: held, lost or none."""
    incarnation: str
    suspected: tuple[str, ...]
    """The owners whose lease has expired; a later sweep may mark it lost."""
    lost: Mapping[str, str]
    """The lost incarnations whose rooms are to be failed, each with its reason."""


def parse_report(reply: list[Any]) -> LeaseReport:
    """Return the report in a reply to a call of LEASE, without its epoch and the end of the feed."""
    state, incarnation, *found = [word.decode("utf-8", "replace") for word in reply]
    findings = list(zip(found[::3], found[1::3], found[2::3], strict=True))
    return LeaseReport(
        state,
        incarnation,
        tuple(owner for kind, owner, _ in findings if kind == "suspected"),
        {incarnation: reason for kind, incarnation, reason in findings if kind == "lost"},
    )


# The rooms of a lease


def list_owned(tag: str, incarnation: str, offset: int = 0) -> list[str]:
    """Return the command that lists up to MAX_BATCH rooms of a lease in one shard."""
    page = ["LIMIT", str(offset), str(MAX_BATCH)]
    return ["ZRANGEBYSCORE", keys.owned(tag), incarnation, incarnation, *page]


def parse_owned(context: CallContext, tag: str, reply: Iterable[bytes]) -> list[int]:
    """Return the rooms in the reply, without entries that were added by hand."""
    rooms = (int(word) for word in reply if word.isdigit() and len(word) <= keys.ROOM_DIGITS)
    return [r for r in rooms if r <= validation.MAX_ROOM and keys.tag(context.namespace, context.shards, r) == tag]


def reap(rooms: list[int], incarnation: str, reason: str) -> Command[Update, int]:
    """Fail rooms of a lost lease; the result is how many this call failed."""

    def failed(_: list[int], updates: list[Update]) -> int:
        return sum(update.outcome is Outcome.FAILED for update in updates)

    return Command("reap", script_specs.REAP, rooms, [incarnation, reason] * len(rooms), _reaped, failed)


def _reaped(_: str, rooms: list[int], reply: list[Any]) -> list[Update]:
    # A corrupt room is skipped, so that it does not keep the others from being failed.
    return [
        Update(Outcome(code), replies.parse_status(status))
        for code, status in zip(reply[::2], reply[1::2], strict=True)
    ]


# Listing the owners


def parse_owners(fields: Iterable[bytes], now: float) -> list[Owner]:
    """Return the leases in the fields of a shard's key, without their rooms; ``now`` is the server's Unix time."""
    words = list(fields)
    owners = []
    for name, value in zip(words[::2], words[1::2], strict=True):
        if record := _RECORD.fullmatch(value):
            incarnation, ttl_ms, heartbeat_ms, last_heartbeat_ms, suspected_ms = map(int, record.groups())
            has_expired = now > (last_heartbeat_ms + ttl_ms) / 1000
            state: Literal["alive", "expired", "suspected"] = "alive"
            if has_expired or suspected_ms:
                state = "suspected" if suspected_ms else "expired"
            owner = name.decode("utf-8", "replace")
            times = (ttl_ms / 1000, heartbeat_ms / 1000, last_heartbeat_ms / 1000)
            owners.append(Owner(owner, incarnation, *times, state))
        elif lost := _LOST.fullmatch(name):
            reason = value.decode("utf-8", "replace")
            name_in = _REASON.match(reason)
            owners.append(Owner(name_in[1] if name_in else "", int(lost[1]), state="lost", reason=reason))
    return owners
