"""What must be true of leases, whoever does what when.

What is judged by is kept beside the server: when each lease was last renewed, when it was first found to have lapsed
since, and which incarnations are over. The scripts' own notes are not believed.
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
LIVE = {status.name for status in KVPoll if not status.is_terminal}
WRITES = ("write", "open", "replay")


class Notes(NamedTuple):
    """What has been, as far as it matters."""

    beats: tuple[tuple[str, int, int], ...] = ()
    """For each incarnation that is there, when it was renewed and when it was first found to have lapsed since."""
    over: frozenset[str] = frozenset()
    """The incarnations that were given up, whose name was taken, or that were not renewed in time."""
    was_over: frozenset[str] = frozenset()
    """Those of a server that has lost its data since: nobody there knows it any more."""

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
    state: str
    """What a lease script says of the lease."""
    value: Any
    """What comes of a call on the room, or the exception."""
    is_late: bool
    """Whether nobody waits for it any more."""


def records(view: View) -> dict[str, str]:
    """The incarnation that has each name."""
    return {owner: text.split()[0] for owner, text in _fields(view).items() if re.fullmatch(r"\d+( \d+){4}", text)}


def lost_ones(view: View) -> set[str]:
    return {name.removeprefix("lost ") for name in _fields(view) if name.startswith("lost ")}


def _fields(view: View) -> dict[str, str]:
    kept = view.kept.get(LEASES_KEY)
    return {name.decode(): text.decode() for name, text in kept.value} if kept else {}


def owned(view: View) -> str | None:
    kept = view.kept.get(OWNED_KEY)
    return next((f"{score:.0f}" for member, score in kept.value if member == b"%d" % ROOM), None) if kept else None


def noted(step: Effect) -> tuple[Notes, list[str]]:
    """What is noted after a step, and what in it was wrong about leases that ended."""
    was, now, over, wrong = records(step.before), records(step.after), set(step.notes.over), []
    told = step.sent.argv[2] if step.sent.script == "lease" else ""
    for owner, incarnation in was.items():
        other = now.get(owner)
        if other == incarnation:
            continue
        is_own = told in ("leave", "drop") and step.sent.incarnation == incarnation
        if not (is_own or (other and other > incarnation) or _may_be_condemned(step, incarnation)):
            wrong.append(f"{incarnation} of {owner} was condemned, and it lives")
        over.add(incarnation)
    beats = {incarnation: (beaten, found) for incarnation, beaten, found in step.notes.beats}
    if step.sent.script == "lease":
        for owner, incarnation in now.items():
            if step.state == "held" and owner == step.sent.owner:
                beats[incarnation] = (step.now_ms, 0)
            beaten, found = beats[incarnation]
            if step.now_ms > beaten + TTL_MS and not found:
                beats[incarnation] = (beaten, step.now_ms)
    there = tuple(sorted((i, *times) for i, times in beats.items() if i in now.values()))
    if unknown := lost_ones(step.after) - over - step.notes.was_over:
        wrong.append(f"{unknown} are said to be lost, and are not")
    return Notes(there, frozenset(over), step.notes.was_over), wrong


def _may_be_condemned(step: Effect, incarnation: str) -> bool:
    """Whether it was found to have lapsed, and still not renewed after long enough; and no data was lost lately."""
    beaten, found = next((beaten, found) for i, beaten, found in step.notes.beats if i == incarnation)
    epoch = dict(step.before.kept[EPOCH_KEY].value)[b"epoch"].decode()
    is_old = step.now_ms - int(epoch.partition("-")[0]) // 1000 >= TTL_MS
    return is_old and step.now_ms > beaten + TTL_MS and found > 0 and step.now_ms - found >= APART_MS


def wrong(step: Effect, after: Notes) -> Iterator[str]:
    """What a step breaks."""
    for kept in step.after.state:
        if kept.deadline is None:
            yield f"{kept.key.decode()} has no TTL"
    for check in (_refused, _alive, _reaped, _owned):
        yield from check(step, after)


def _refused(step: Effect, _: Notes) -> Iterator[str]:
    """Who is condemned creates, opens and writes nothing."""
    if step.sent.script not in WRITES or step.sent.incarnation not in step.notes.over:
        return
    if step.before.without(EPOCH_KEY) != step.after.without(EPOCH_KEY):
        yield f"{step.sent.name} under a lease that is over changed something"
    is_stale = getattr(step.value, "outcome", None) is Outcome.STALE
    if not isinstance(step.value, LeaseLostError) and not is_stale:
        yield f"{step.sent.name} under a lease that is over gave {step.value!r}"


def _alive(step: Effect, after: Notes) -> Iterator[str]:
    """Who lives is not told otherwise."""
    known_over = after.over | after.was_over
    is_taken = records(step.before).get(step.sent.owner, "") > step.sent.incarnation  # where no data of it was left
    if step.is_late or is_taken or step.sent.incarnation in known_over:
        return
    if isinstance(step.value, LeaseLostError):
        yield f"{step.sent.name} was refused by a lease that is not lost"
    if step.state == "lost":
        yield "a lease was called lost that is not"


def _reaped(step: Effect, after: Notes) -> Iterator[str]:
    """A room fails with its owner, and only so; what has ended stays, and what is another's."""
    if step.sent.script != "reap":
        return
    before, room = step.before.room, step.after.room
    incarnation = step.sent.argv[2]
    is_his = before.get("incarnation") == incarnation
    if before != room and (not is_his or before["status"] not in LIVE):
        yield f"a room that was {before.get('status')}, of {before.get('incarnation')}, was reaped for {incarnation}"
    if before != room and incarnation not in after.over | after.was_over:
        yield f"a room was failed for {incarnation}, which lives"
    if before != room and not room.get("reason", "").startswith(f"owner {before['owner']} "):
        yield f"a room was failed for the reason {room.get('reason')!r}"
    if owned(step.before) not in (incarnation, owned(step.after)):
        yield f"a room of {owned(step.before)} was disowned for {incarnation}"


def _owned(step: Effect, after: Notes) -> Iterator[str]:
    """A live room can be found by who is to fail it."""
    incarnation = step.after.room.get("incarnation")
    if incarnation is None or step.after.status not in LIVE:
        return
    if owned(step.after) != incarnation:
        yield f"a live room of {incarnation} is not among the owned ones"
    if incarnation in after.over and incarnation not in lost_ones(step.after):
        yield f"a live room of {incarnation}, which is over, would never fail"


def wrong_after_reaping(lost: list[str], after: View) -> Iterator[str]:
    """Once somebody has reaped, all rooms that were to fail have."""
    if after.room.get("incarnation") in lost and after.status in LIVE:
        yield f"a room of {after.room['incarnation']} is {after.status} after its reaping"
