"""What a store decides for the ranks that it speaks for: opening rooms, writing them, and what a lost lease ends.

The first of its ranks opens a room for a request, and the others join it by a write, which many ranks share.

Invariant: nothing is sent for a rank that is not a member, or whose lease is known to be lost.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from redis_kvpoll import validation
from redis_kvpoll.engine.effects import Flow, Sleep
from redis_kvpoll.engine.executor import Executor
from redis_kvpoll.engine.recovery.members import RankMember
from redis_kvpoll.engine.recovery.tracked_rooms import CREATOR_POLL_INTERVAL, TrackedRooms
from redis_kvpoll.engine.recovery.tracked_state import TrackedRoom
from redis_kvpoll.errors import InvalidInputError, LeaseLostError, WorldSizeMismatchError
from redis_kvpoll.model import Entry, KVPoll, Outcome, Update
from redis_kvpoll.protocol import fenced_commands, keys, rank_commands
from redis_kvpoll.protocol.rank_commands import Answer, RankChange, RankIdentity
from redis_kvpoll.protocol.replies import OpenedRoom

_JOINED = {
    Outcome.CREATED: Outcome.CREATED,
    Outcome.ADVANCED: Outcome.UNCHANGED,
    Outcome.UNCHANGED: Outcome.UNCHANGED,
    Outcome.FAILED: Outcome.FAILED,
}
"""The outcome of an opening, by that of the write that stands for it."""


class RankGroup:
    """The ranks that one store speaks for."""

    def __init__(self, executor: Executor) -> None:
        if executor.session.identity.rank:
            raise InvalidInputError("a group is of a store without a rank of its own")
        self._executor = executor
        self.members = executor.recovery.members

    def member(self, rank: int, world_size: int) -> RankMember:
        """Return a rank that is to join."""
        validation.ranks(rank, world_size)
        rooms = TrackedRooms.of(self._executor.session.identity, has_rank=True)
        return RankMember(self.members, rank, world_size, rooms)

    def check(self, operation: str, identity: RankIdentity) -> RankMember:
        """Return the member with an identity.

        Raises:
            LeaseLostError: it is no member any more, or its lease is known to be lost.
        """
        member = self.members.get(identity)
        if member is None:
            raise LeaseLostError(operation, identity.owner)
        if member.lease is not None:
            member.lease.check(operation)
        return member

    def open(self, room: int, request: str, status: KVPoll, identity: RankIdentity) -> Flow[OpenedRoom]:
        """Open a room for one member, as a store of its rank does."""
        context = yield from self._executor.context("open")
        seen = max(rooms.highest_generation for rooms in self.members.all_tracked)
        command = fenced_commands.open(room, request, status, seen)
        calls = command.calls(self.check("open", identity).context(context))
        try:
            return (yield from self._executor.run(command, calls))
        except WorldSizeMismatchError as error:
            raise WorldSizeMismatchError(error.room, "open", error.theirs, str(identity.world_size)) from None

    def opened_by_another(self, room: int, request: str, identity: RankIdentity) -> TrackedRoom | None:
        """Return a room as another member has opened it for a request; None if this one has, too, or nobody has.

        This one joins it by a write of its first status; see ``joined``.
        """
        context, found = self._executor.session.context, None
        if context is None:
            return None
        tag = keys.tag(context.namespace, context.shards, room)
        for other, member in list(self.members.items()):
            tracked = member.tracked_rooms.in_shard(tag).get(room)
            if tracked and tracked.request == request and tracked.role == "creator" and not tracked.is_clearing:
                if other == identity:
                    return None
                if other.world_size == identity.world_size and tracked.awaiting_since is None:
                    found = tracked
        return found

    def joined(self, change: RankChange, known: TrackedRoom, answer: Answer) -> OpenedRoom | None:
        """Return what a write that joins a room has opened; None if that did not do, and it must be opened."""
        if isinstance(answer, LeaseLostError):
            raise answer
        outcome = _JOINED.get(answer.outcome) if isinstance(answer, Update) else None
        if outcome is None or not isinstance(answer, Update):
            return None
        member, context = self.members.get(change.identity), self._executor.session.context
        if member is not None and context is not None:
            tag = keys.tag(context.namespace, context.shards, change.room)
            tracked = member.tracked_rooms.in_shard(tag).get(change.room)
            if tracked is not None and tracked.generation == known.generation:
                tracked.role, tracked.request, tracked.openings = "creator", known.request, known.openings
        return OpenedRoom(outcome, answer.status, known.generation, known.request)

    def adopt(self, entry: Entry, identity: RankIdentity) -> None:
        """Track a room that a member has opened through another store, as the table has it."""
        member, context = self.check("attach", identity), self._executor.session.context
        status = entry.ranks.get(identity.rank)
        if context is None or status is None or not entry.generation or identity.rank in entry.cleared:
            return
        tag, now = keys.tag(context.namespace, context.shards, entry.room), time.monotonic()
        tracked = TrackedRoom(entry.generation, entry.request or "", "creator", status, now)
        tracked = member.tracked_rooms.track(tag, entry.room, tracked, now)
        if status is KVPoll.Failed:
            tracked.reason = entry.reason or ""
        tracked.add_opening(entry.room, (entry.opening or "").encode())
        member.tracked_rooms.unmark(tag, entry.room)

    def record_failure(self, room: int, generation: int, reason: str, identity: RankIdentity) -> Flow[bool]:
        """Record why a generation of a room fails, as a store of a member's rank does."""
        context = yield from self._executor.context("record_failure")
        command = fenced_commands.record_failure(room, generation, reason)
        return (
            yield from self._executor.run(
                command, command.calls(self.check(command.operation, identity).context(context))
            )
        )

    def write(self, changes: Sequence[RankChange]) -> Flow[list[Answer]]:
        """Apply changes, those of one room in their order. Returns an update for each, or the error of its refusal."""
        answers = dict[int, Answer]()
        for number, change in enumerate(changes):
            try:
                self.check("update", change.identity)
            except LeaseLostError as error:
                answers[number] = error
        left = sorted(set(range(len(changes))) - answers.keys(), key=lambda number: changes[number].room)
        give_up_at = time.monotonic() + self._executor.deadline
        while left:
            command = rank_commands.write_ranks([changes[number] for number in left])
            found = yield from self._executor.run(command, [], give_up_at)
            answers |= zip(left, found, strict=True)
            left = [number for number in left if self._awaits_creator(changes[number], answers[number])]
            if time.monotonic() + CREATOR_POLL_INTERVAL >= give_up_at:
                break
            if left:
                yield Sleep(CREATOR_POLL_INTERVAL)
        return [answers[number] for number in range(len(changes))]

    def _awaits_creator(self, change: RankChange, answer: Answer) -> bool:
        """Whether a write was in vain because its room was lost, and its opener has yet to replay it."""
        member = self.members.get(change.identity)
        is_missing = isinstance(answer, Update) and answer.outcome in (Outcome.STALE, Outcome.SKIPPED)
        return is_missing and member is not None and member.tracked_rooms.awaits_creator(change.room)
