"""The invariants of leases, for any step at any time.

They are checked against notes that are kept beside the server: when each lease was last renewed, when a sweep first
found it expired since, and which incarnations are over. The scripts' own records are not trusted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from redis_kvpoll import KVPoll, Outcome
from redis_kvpoll.errors import LeaseLostError
from redis_kvpoll.protocol import keys
from tests.model.leaseholders import APART_MS, TTL_MS, Sent
from tests.model.table import EPOCH_KEY, NAMESPACE, ROOM, View

LEASES_KEY, OWNED_KEY = keys.leases(NAMESPACE).encode(), keys.owned(NAMESPACE).encode()
DUE_KEY = keys.due(NAMESPACE).encode()
LIVE = {status.name for status in KVPoll if not status.is_terminal}
WRITES = ("write", "open", "replay")
LEASE_SCRIPTS = ("lease", "renew")


class Notes(NamedTuple):
    """The past, as far as the invariants need it."""

    heartbeats: tuple[tuple[str, int, int], ...] = ()
    """For each live incarnation: when it was renewed, and when a sweep first found it expired since."""
    over: frozenset[str] = frozenset()
    """The incarnations that were given up, whose name was taken, or that were not renewed in time."""
    was_over: frozenset[str] = frozenset()
    """The same before the server lost its data: it no longer knows them."""

    def after_loss(self) -> Notes:
        return Notes(was_over=self.over | self.was_over)


@dataclass(frozen=True)
class Effect:
    """One call that was carried out at a time."""

    sent: Sent
    now_ms: int
    before: View
    after: View
    notes: Notes
    states: dict[str, str]
    """The state of each lease in the reply of a lease script, by its owner."""
    value: Any
    """The result of a call on the room, or the exception."""
    is_late: bool
    """Whether its caller has given up."""


def records(view: View) -> dict[str, str]:
    """The incarnation that has each name."""
    return {owner: text.split()[0] for owner, text in _fields(view).items() if re.fullmatch(r"\d+( \d+){4}", text)}


def lost_ones(view: View) -> set[str]:
    return {name.removeprefix("lost ") for name in _fields(view) if name.startswith("lost ")}


def pending(view: View) -> set[str]:
    """The lost incarnations that are to be named to a sweeper."""
    kept = view.kept.get(DUE_KEY)
    members = [member.decode() for member, _ in kept.value] if kept else []
    return {name.removeprefix("lost ") for name in members if name.startswith("lost ")}


def _fields(view: View) -> dict[str, str]:
    kept = view.kept.get(LEASES_KEY)
    return {name.decode(): text.decode() for name, text in kept.value} if kept else {}


def owned(view: View) -> str | None:
    kept = view.kept.get(OWNED_KEY)
    return next((f"{score:.0f}" for member, score in kept.value if member == b"%d" % ROOM), None) if kept else None


def noted(step: Effect) -> tuple[Notes, list[str]]:
    """The notes after a step, and which invariants it broke about leases that ended."""
    was, now, over, wrong = records(step.before), records(step.after), set(step.notes.over), []
    action = step.sent.argv[2] if step.sent.script == "lease" else ""
    for owner, incarnation in was.items():
        other = now.get(owner)
        if other == incarnation:
            continue
        is_own = action in ("leave", "drop") and step.sent.incarnation == incarnation
        if not (is_own or (other and other > incarnation) or _may_be_lost(step, incarnation)):
            wrong.append(f"{incarnation} of {owner} was lost, and it is alive")
        over.add(incarnation)
    heartbeats = {incarnation: (renewed, found) for incarnation, renewed, found in step.notes.heartbeats}
    if step.sent.script in LEASE_SCRIPTS:
        for owner, incarnation in now.items():
            if step.states.get(owner) == "held":
                heartbeats[incarnation] = (step.now_ms, 0)
            renewed, found = heartbeats[incarnation]
            if step.now_ms > renewed + TTL_MS and not found:
                heartbeats[incarnation] = (renewed, step.now_ms)
    there = tuple(sorted((i, *times) for i, times in heartbeats.items() if i in now.values()))
    if unknown := lost_ones(step.after) - over - step.notes.was_over:
        wrong.append(f"{unknown} are said to be lost, and are not")
    return Notes(there, frozenset(over), step.notes.was_over), wrong


def _may_be_lost(step: Effect, incarnation: str) -> bool:
    """Whether a sweep found it expired, and it was not renewed for long enough after; and no data was lost lately."""
    renewed, found = next((renewed, found) for i, renewed, found in step.notes.heartbeats if i == incarnation)
    epoch = dict(step.before.kept[EPOCH_KEY].value)[b"epoch"].decode()
    is_old = step.now_ms - int(epoch.partition("-")[0]) // 1000 >= TTL_MS
    return is_old and step.now_ms > renewed + TTL_MS and found > 0 and step.now_ms - found >= APART_MS


def wrong(step: Effect, after: Notes) -> Iterator[str]:
    """The invariants that a step breaks, in words."""
    for kept in step.after.state:
        if kept.deadline is None:
            yield f"{kept.key.decode()} has no TTL"
    for check in (_refused, _living, _reaped, _owned):
        yield from check(step, after)


def _refused(step: Effect, _: Notes) -> Iterator[str]:
    """Under a lease that is over, no call creates, opens or writes."""
    if step.sent.script not in WRITES or step.sent.incarnation not in step.notes.over:
        return
    if step.before.without(EPOCH_KEY) != step.after.without(EPOCH_KEY):
        yield f"{step.sent.name} under a lease that is over changed something"
    is_stale = getattr(step.value, "outcome", None) is Outcome.STALE
    if not isinstance(step.value, LeaseLostError) and not is_stale:
        yield f"{step.sent.name} under a lease that is over gave {step.value!r}"


def _living(step: Effect, after: Notes) -> Iterator[str]:
    """A lease that is alive is not reported as lost."""
    known_over = after.over | after.was_over
    is_taken = records(step.before).get(step.sent.owner, "") > step.sent.incarnation  # where no data of it was left
    if step.is_late or is_taken or step.sent.incarnation in known_over:
        return
    if isinstance(step.value, LeaseLostError):
        yield f"{step.sent.name} was refused by a lease that is not lost"
    if step.states.get(step.sent.owner) == "lost":
        yield "a lease was called lost that is not"


def _reaped(step: Effect, after: Notes) -> Iterator[str]:
    """A reap fails live rooms of the lost owner, and no others."""
    if step.sent.script != "reap":
        return
    before, room = step.before.room, step.after.room
    incarnation = step.sent.argv[2]
    is_his = before.get("incarnation") == incarnation
    if before != room and (not is_his or before["status"] not in LIVE):
        yield f"a room that was {before.get('status')}, of {before.get('incarnation')}, was reaped for {incarnation}"
    if before != room and incarnation not in after.over | after.was_over:
        yield f"a room was failed for {incarnation}, which is alive"
    if before != room and not room.get("reason", "").startswith(f"owner {before['owner']} "):
        yield f"a room was failed for the reason {room.get('reason')!r}"
    if owned(step.before) not in (incarnation, owned(step.after)):
        yield f"a room of {owned(step.before)} was disowned for {incarnation}"


def _owned(step: Effect, after: Notes) -> Iterator[str]:
    """A live room is among the owned rooms, so that a reaper finds it."""
    incarnation = step.after.room.get("incarnation")
    if incarnation is None or step.after.status not in LIVE:
        return
    if owned(step.after) != incarnation:
        yield f"a live room of {incarnation} is not among the owned ones"
    if incarnation in after.over and incarnation not in pending(step.after):
        yield f"a live room of {incarnation}, which is over, would never fail"


def wrong_after_reaping(lost: list[str], after: View) -> Iterator[str]:
    """After a reap, all rooms that had to fail have failed."""
    if after.room.get("incarnation") in lost and after.status in LIVE:
        yield f"a room of {after.room['incarnation']} is {after.status} after its reaping"
