"""What must be true of every single step, whoever takes it in whatever state."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from redis_kvpoll import KVPoll, Outcome, Update
from tests.model.operations import Operation, Process, Setting
from tests.model.table import FEED, PREFIX_KEY, ROOM, Server, View

RANK = {status.name: int(status) for status in KVPoll}
WROTE_NOTHING = (Outcome.UNCHANGED, Outcome.SKIPPED, Outcome.STALE)


@dataclass(frozen=True)
class Step:
    """One call that was carried out."""

    setting: Setting
    process: Process
    operation: Operation
    before: View
    after: View
    said: tuple[str, ...]
    """The ranks that have said Success, after it."""
    value: Any
    """The decoded reply, or the exception that the caller gets."""

    @property
    def rank(self) -> str:
        return self.setting.kinds[self.process.kind].rank

    @property
    def fence(self) -> str | None:
        return self.operation.fence(self.process)

    @property
    def is_same_generation(self) -> bool:
        return bool(self.before.room and self.after.room) and self.before.generation == self.after.generation


def said(
    setting: Setting, before: Server, after: View, process: Process, operation: Operation, value: Any
) -> tuple[str, ...]:
    """The ranks that have said Success in the room's generation, after a call."""
    was = View(before.state)
    ranks = set(before.said) if was.room and after.room and was.generation == after.generation else set()
    if operation.says == "Success" and isinstance(value, Update) and value.changed:
        ranks.add(setting.kinds[process.kind].rank)
    return tuple(sorted(ranks)) if after.room else ()


def wrong(step: Step) -> Iterator[str]:
    """What a step breaks."""
    for check in (_ttl, _creation, _order, _fences, _success, _outcome, _end, _feed):
        yield from check(step)


def _ttl(step: Step) -> Iterator[str]:
    for kept in step.after.state:
        if kept.deadline is None:
            yield f"{kept.key.decode()} has no TTL"


def _creation(step: Step) -> Iterator[str]:
    if not step.before.room and step.after.room:
        if step.operation.says in (None, "Failed"):
            yield f"{step.operation.name} created an absent room"
        if step.fence is not None and step.operation is not step.setting.restate:
            yield f"{step.operation.name} created an absent room through a generation"


def _order(step: Step) -> Iterator[str]:
    """Within a generation nothing goes back; only compat's plain writes leave Failed."""
    if not step.is_same_generation:
        return
    may_leave_failed = step.setting.policy == "compat" and step.fence is None
    names = [name for name in step.before.room if name == "status" or name.startswith("status:")]
    for name in names:
        was, now = (
            step.before.room[name],
            step.after.room.get(name, step.after.room.get(name.replace("status:", "cleared:"))),
        )
        if now is None:
            yield f"{name} went away with the room still there"
        elif was == "Failed" and now != "Failed" and not may_leave_failed:
            yield f"{name} left Failed for {now}"
        elif was != "Failed" and now != "Failed" and RANK[now] < RANK[was]:
            yield f"{name} went back from {was} to {now}"


def _fences(step: Step) -> Iterator[str]:
    is_stale = step.fence is not None and step.fence != step.before.generation
    if is_stale and step.operation is not step.setting.restate and step.before.state != step.after.state:
        yield f"{step.operation.name} is stale and changed something"


def _success(step: Step) -> Iterator[str]:
    """Success only when every rank has said so."""
    room = step.after.room
    if room.get("status") == "Success":
        count = int(room.get("world_size", "1"))
        if len(step.said) < count:
            yield f"the room is Success, and only {list(step.said)} of {count} said so"


def _outcome(step: Step) -> Iterator[str]:
    """What the caller is told is what happened."""
    if not isinstance(step.value, Update):
        return
    outcome, before, after = step.value.outcome, step.before, step.after
    if outcome in WROTE_NOTHING and before.without(PREFIX_KEY) != after.without(PREFIX_KEY):
        yield f"{outcome.name}, and something was written"
    if outcome is Outcome.SKIPPED and before.own(step.rank):
        yield "SKIPPED, and the room is there"
    if outcome is Outcome.CREATED and (before.own(step.rank) or not after.own(step.rank)):
        yield "CREATED, and it was there or is not"
    if outcome is Outcome.FAILED and (after.status != "Failed" or not step.operation.says):
        yield f"FAILED, and the room is {after.status}"
    if outcome is Outcome.ADVANCED and before.own(step.rank) == after.own(step.rank):
        yield f"ADVANCED, and it was {before.own(step.rank)} before"


def _end(step: Step) -> Iterator[str]:
    if step.before.room and not step.after.room and not step.operation.clears:
        yield f"{step.operation.name} removed the room"
    if step.operation.clears and step.before.room and not step.after.room and PREFIX_KEY in step.after.kept:
        yield "the prefix length outlived its room's clear"


def _feed(step: Step) -> Iterator[str]:
    """The feed tells of every change of a status, in the same step, and of nothing else but touches."""
    now = step.after.status or "absent"
    news = step.after.entries[len(step.before.entries) :]
    told = {entry[at + 1] for entry in news for at in range(0, len(entry), 2) if entry[at] == str(ROOM)}
    if now != (step.before.status or "absent") and now not in told:
        yield f"the room became {now}, and the feed does not say so"
    if told - {now}:
        yield f"the feed says {told}, and the room is {now}"


__all__ = ["FEED", "Step", "said", "wrong"]
