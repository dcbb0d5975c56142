"""The invariants of a single step, by any process in any state."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from redis_kvpoll import KVPoll, Outcome, Update
from redis_kvpoll.errors import KVPollError, RoomBusyError
from tests.model.operations import Operation, Process, Setting
from tests.model.table import EPOCH_KEY, PREFIX_KEY, ROOM, Server, View

RANK = {status.name: int(status) for status in KVPoll}
WROTE_NOTHING = (Outcome.UNCHANGED, Outcome.SKIPPED, Outcome.STALE)


@dataclass(frozen=True)
class Effect:
    """One call that was carried out."""

    setting: Setting
    process: Process
    operation: Operation
    before: View
    after: View
    said: tuple[str, ...]
    """The ranks that have reported Success, after it."""
    value: Any
    """The decoded reply, or the exception that the caller gets."""

    @property
    def rank(self) -> str:
        return self.setting.kinds[self.process.kind].rank

    @property
    def says(self) -> str | None:
        return self.operation.says(self.process)

    @property
    def replays(self) -> bool:
        return self.operation is self.setting.replay

    @property
    def ends_by_replay(self) -> bool:
        """Whether it repeats the last clear of the room, which is gone then."""
        return self.replays and bool(self.before.room) and not self.after.room

    @property
    def fence(self) -> str | None:
        return self.operation.fence(self.process)

    @property
    def is_same_generation(self) -> bool:
        return bool(self.before.room and self.after.room) and self.before.generation == self.after.generation


def said(
    setting: Setting, before: Server, after: View, process: Process, operation: Operation, value: Any
) -> tuple[str, ...]:
    """The ranks that have reported Success in the room's generation, after a call."""
    was = View(before.state)
    ranks = set(before.said) if was.room and after.room and was.generation == after.generation else set()
    if operation.saying is not None:
        ranks.update(
            rank
            for rank, answer in zip(operation.all_ranks, value, strict=False)
            if rank in operation.saying and isinstance(answer, Update) and answer.changed
        )
    elif operation.says(process) == "Success" and isinstance(value, Update) and value.changed:
        ranks.add(setting.kinds[process.kind].rank)
    return tuple(sorted(ranks)) if after.room else ()


def wrong(step: Effect) -> Iterator[str]:
    """The invariants that a step breaks, in words."""
    for check in (
        _ttl,
        _creation,
        _generations,
        _order,
        _expected,
        _fences,
        _success,
        _outcome,
        _end,
        _feed,
        _failures,
        _observe_replay,
    ):
        yield from check(step)


def _ttl(step: Effect) -> Iterator[str]:
    for kept in step.after.state:
        if kept.deadline is None:
            yield f"{kept.key.decode()} has no TTL"


def _creation(step: Effect) -> Iterator[str]:
    """Only a status other than Failed, or open, creates an absent room; a generation never does."""
    if step.before.room or not step.after.room:
        return
    if not step.operation.creates and step.says in (None, "Failed"):
        yield f"{step.operation.name} created an absent room"
    if step.fence is not None and not step.operation.creates:
        yield f"{step.operation.name} created an absent room through a generation"
    if step.replays and step.process.held.role != b"creator":
        yield f"one who is {step.process.held.role.decode()} created an absent room"


def _generations(step: Effect) -> Iterator[str]:
    """A generation ends by clear, by open once Failed, or by the replay of a higher one. New ones are higher."""
    before, after = step.before.generation, step.after.generation
    if after is None or before == after:
        return
    if before is not None:
        if step.replays and not before < after:
            yield f"{before} was replaced by {after}, which is older"
        if not step.replays and (step.before.status != "Failed" or not step.operation.creates):
            yield f"{step.operation.name} took the room from generation {before}, which was {step.before.status}"
    epoch = dict(step.before.kept[EPOCH_KEY].value) if EPOCH_KEY in step.before.kept else {}
    known = max(epoch.get(b"generation", b""), step.process.seen if step.operation.creates else b"").decode()
    if not step.replays and known >= after:
        yield f"generation {after} was given after {known}"


def _order(step: Effect) -> Iterator[str]:
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


def _fences(step: Effect) -> Iterator[str]:
    is_stale = step.fence is not None and step.fence != step.before.generation
    if is_stale and not step.replays and step.before.state != step.after.state:
        yield f"{step.operation.name} is stale and changed something"


def _success(step: Effect) -> Iterator[str]:
    """A room is Success only when every rank has reported it."""
    room = step.after.room
    if room.get("status") == "Success":
        count = int(room.get("world_size", "1"))
        if len(step.said) < count:
            yield f"the room is Success, and only {list(step.said)} of {count} said so"


def _expected(step: Effect) -> Iterator[str]:
    """The consensus follows from the ranks' statuses."""
    room = step.after.room
    if "world_size" not in room:
        return
    ranks = [text for name, text in room.items() if name.startswith(("status:", "cleared:"))]
    if twice := [name for name in room if name.startswith("status:") and name.replace("status", "cleared") in room]:
        yield f"{twice} has cleared, and is there again"
    everybody = len(ranks) == int(room["world_size"])
    due = "Failed" if "Failed" in ranks else min(ranks, key=RANK.__getitem__) if everybody else "Bootstrapping"
    live = [text for name, text in room.items() if name.startswith("status:")]
    counts = [ranks.count(name) for name in (*sorted(RANK, key=RANK.__getitem__)[1:], "Failed")]
    if room["counts"] != " ".join(map(str, [*counts, len(ranks) - len(live)])):
        yield f"the counts are {room['counts']}, of {ranks}"
    if room["status"] != due:
        yield f"the consensus is {room['status']}, and of {ranks} it should be {due}"


def _outcome(step: Effect) -> Iterator[str]:
    """The outcome of a call is what happened."""
    before, after, rank = step.before, step.after, step.rank
    outcome = getattr(step.value, "outcome", None)
    is_refused = isinstance(step.value, KVPollError)
    if (is_refused or outcome in WROTE_NOTHING) and not step.replays:
        exempt = (PREFIX_KEY, EPOCH_KEY) if step.operation.creates else (PREFIX_KEY,)
        if before.without(*exempt) != after.without(*exempt):
            yield f"{_name(step.value)}, and something was written"
    is_own = step.operation.name == f"open for {before.room.get('request')}" and f"cleared:{rank}" not in before.room
    if isinstance(step.value, RoomBusyError) and is_own:
        yield "the request that has the room was refused as if it were another"
    if step.replays or not isinstance(step.value, Update):
        return
    if outcome is Outcome.SKIPPED and before.own(rank):
        yield "SKIPPED, and the room is there"
    if outcome is Outcome.CREATED and (before.own(rank) or not after.own(rank)):
        yield "CREATED, and it was there or is not"
    if outcome is Outcome.FAILED and (after.status != "Failed" or not step.says):
        yield f"FAILED, and the room is {after.status}"
    if outcome is Outcome.ADVANCED and before.own(rank) == after.own(rank):
        yield f"ADVANCED, and it was {before.own(rank)} before"
    if outcome is Outcome.CLEARED and (not before.seen(rank) or after.seen(rank)):
        yield "CLEARED, and it was not there or still is"


def _name(value: Any) -> str:
    return value.outcome.name if hasattr(value, "outcome") else type(value).__name__


def _observe_replay(step: Effect) -> Iterator[str]:
    """After a replay the room is at the replayed status or beyond, or of a later generation, or still absent."""
    held = step.process.held
    if not step.replays or isinstance(step.value, KVPollError):
        return
    room, generation = step.after.room, held.generation.decode()
    if getattr(step.value, "outcome", None) is Outcome.STALE:
        later = max(room.get("generation", ""), step.before.tombstone + "+" * bool(step.before.tombstone))
        if not (later > generation or f"cleared:{step.rank}" in room):
            yield f"replaying {generation} was refused as stale"
        return
    if generation == step.process.ended.decode() and not step.before.room and room:
        yield f"{generation} was cleared by the process that brings it back"
    if held.role == b"creator" and not held.is_clearing and (not room or room["generation"] < generation):
        yield f"its creator replayed {generation}, and it is not there"
    # The status at a rank's clear stays: another process of this rank may have known less, and cleared first.
    has_cleared = f"cleared:{step.rank}" in step.before.room
    if room.get("generation") == generation and step.before.generation in (None, generation) and not has_cleared:
        now = step.after.own(step.rank) or room.get(f"cleared:{step.rank}") or "Failed"
        if step.after.status != "Failed" and (held.status == b"Failed" or RANK[now] < RANK[held.status.decode()]):
            yield f"it was replayed as {held.status.decode()}, and is {now}"


def _end(step: Effect) -> Iterator[str]:
    cleared = {f"cleared:{step.rank}", *(name for name in step.before.room if name.startswith("cleared:"))}
    have_all_cleared = len(cleared) >= int(step.before.room.get("world_size", "1"))
    repeats_last_clear = step.replays and step.process.held.role == b"cleared" and have_all_cleared
    if step.before.room and not step.after.room and not (step.operation.clears or repeats_last_clear):
        yield f"{step.operation.name} removed the room"
    if step.rank and "replayed" in step.before.room and not step.after.room and not have_all_cleared:
        yield f"the replayed room went with {cleared} alone"
    others = [name for name in step.before.room if name.startswith("status:") and name != f"status:{step.rank}"]
    if step.rank and others and not step.after.room and step.operation.saying is None:
        yield f"the room went with the clear of one rank, and {others} had not cleared"
    if step.operation.clears and step.before.room and not step.after.room and PREFIX_KEY in step.after.kept:
        yield "the prefix length outlived its room's clear"


def _feed(step: Effect) -> Iterator[str]:
    """The feed has every change of a status, in the same step, and nothing else but touches."""
    now = step.after.status or "absent"
    news = step.after.entries[len(step.before.entries) :]
    words = [entry[at + 1] for entry in news for at in range(0, len(entry), 2) if entry[at] == str(ROOM)]
    # One who speaks for all ranks may say several things, one after the other; and a failure is told before its end.
    says_more = step.operation.saying is not None or (step.ends_by_replay and words[:-1] == ["Failed"])
    told = set(words[-1:] if says_more else words)
    if now != (step.before.status or "absent") and now not in told:
        yield f"the room became {now}, and the feed does not have it"
    if told - {now}:
        yield f"the feed says {told}, and the room is {now}"


def _failures(step: Effect) -> Iterator[str]:
    """The stream of failures has what becomes Failed, and its first reason, with the generation; and nothing else."""
    before, after = step.before, step.after
    was_failed = before.status == "Failed" and step.is_same_generation
    has_first_reason = "reason" in after.room and "reason" not in before.room
    due = after.status == "Failed" and (not was_failed or has_first_reason)
    told = after.failures
    if step.ends_by_replay:
        due, after = before.status != "Failed" and step.process.held.status == b"Failed", before
    if due != bool(told):
        yield f"the room was {before.status} and is {after.status}, and the stream of failures says {told}"
    for is_last_id, words in told:
        if not (is_last_id or step.ends_by_replay):
            yield "a failure is told with an id that the feed does not end with"
        has_its_reason = step.ends_by_replay or words.get("reason", "") == after.room.get("reason", "")
        if words.get(str(ROOM)) != after.generation or not has_its_reason:
            yield f"the stream of failures says {words} of generation {after.generation}"
