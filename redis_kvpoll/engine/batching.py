"""The queue of each shard, and the batches that are taken from it. No I/O and no locks.

A shard has one batch in flight. Calls that arrive during it are queued, and those of one kind form the next batch, so
more callers need fewer round trips each. Calls for the same room are executed in the order in which they were queued,
also when a batch is retried.

CPython runs signal handlers, which may raise, only at calls, backward jumps and the entry of a function. An assignment
to several targets has none of these between its stores: so where a comment says that no interrupt comes between them,
either all are done or none.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice, zip_longest
from operator import attrgetter
from typing import Any

from redis_kvpoll.engine.effects import PendingCall, Send
from redis_kvpoll.engine.retry import MAY_HAVE_RUN, CallFailed, after_some
from redis_kvpoll.errors import OutcomeUnknownError, StoreUnavailableError
from redis_kvpoll.protocol.script_call import Call


class Batch:
    """Pending calls of one kind that are sent as one script call."""

    __slots__ = ("call", "limit", "pending_calls", "replied", "send")

    def __init__(self, pending_calls: list[PendingCall], limit: float = math.inf, replied: Sequence[Any] = ()) -> None:
        self.limit = limit
        """The deadline of its sender, which must not wait for the deadlines of others."""
        self.send: Send | None = None
        """Its attempts, once there is one."""
        self.replied: list[Any] = []
        """The reply so far, if a script has left out the last rooms of its reply."""
        self._set(pending_calls)
        if replied:
            self.add(replied)

    def _set(self, pending_calls: list[PendingCall]) -> None:
        self.pending_calls = pending_calls
        first, *others = pending_calls
        self.call = first.call.merged_with([pending.call for pending in others]) if others else first.call

    def words_again(self) -> list[str] | None:
        """Return the words of a further attempt; None if nobody waits for the reply any more.

        What was never sent is not sent any more for a caller that has left.
        """
        waiting = [pending for pending in self.pending_calls if not pending.done]
        if not waiting:
            return None
        if self.send is not None and not self.send.is_sent and not self.replied:
            self._set(waiting)
        return self.call.words()

    def add(self, reply: Sequence[Any]) -> None:
        """Add a reply that lacks the last rooms; ``call`` is for those from now on."""
        _, self.call = self.call.split(reply)
        self.replied += reply

    @property
    def give_up_at(self) -> float:
        """The latest deadline of its callers. One whose deadline is earlier leaves the batch, and fails alone."""
        return min(self.limit, max(pending.give_up_at for pending in self.pending_calls))

    def distribute(self, reply: list[Any]) -> None:
        """Give each pending call its part of the reply, which consists of the fields of each room in turn."""
        if self.replied:
            reply = self.replied + reply
        if len(self.pending_calls) == 1 or not self.pending_calls[0].call.rooms:
            for pending in self.pending_calls:
                pending.reply = reply
            return
        width, at = len(self.pending_calls[0].call.spec.reply), 0
        for pending in self.pending_calls:
            end = at + width * len(pending.call.rooms)
            pending.reply, at = reply[at:end], end

    def fail(self, failure: Exception) -> None:
        """Fail the pending calls, except those whose reply has come. A timeout leaves out those with a later deadline
        than the batch had: they are queued again."""
        until = failure.until if isinstance(failure, CallFailed) else math.inf
        width, end = len(self.call.spec.reply), 0
        for pending in self.pending_calls:
            at, end = end, end + width * len(pending.call.rooms)
            own = self.replied[at:end]
            if pending.done:
                pass
            elif own and at + len(own) == end:
                pending.reply = own
            elif own and not pending.call.spec.repeatable:
                pending.failure = after_some(failure)
            elif pending.give_up_at <= until:
                pending.failure = failure


class ShardQueue:
    """The batch in flight to one shard, and the calls that are queued for the next.

    One caller sends for all (flat combining): ``elect_sender`` names it. The first queued call is never
    a cancelled one.
    """

    __slots__ = ("batch", "next_sender", "sender", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[PendingCall] = deque()
        self.batch: Batch | Call | bytes | None = None
        """The batch in flight. A Call, or its bytes, is sent by its caller without a PendingCall: the fast path of a
        single call."""
        self.next_sender: PendingCall | None = None
        """The call whose caller was elected to send the next batch."""
        self.sender: Any = None
        """The sender of the batch in flight: the driver's thread id or task."""

    @property
    def is_free(self) -> bool:
        """Whether no batch is in flight and no call is queued."""
        return self.batch is None and not self.waiting

    def enqueue(self, pending: PendingCall) -> None:
        """Queue a call."""
        pending.queued_behind = self.batch
        self.waiting.append(pending)

    def elect_sender(self) -> PendingCall | None:
        """Return the queued call whose caller must send the next batch: the one with the latest deadline.

        So few calls are in a batch that ends before their deadline. A call that is queued later, or whose caller was
        busy, may be: ``take_batch`` limits the batch to its sender's deadline, and that call is queued again.

        Returns None while a batch is in flight, or while every queued caller is busy sending for another shard; then
        the first caller to become idle calls this again.
        """
        if self.batch is not None:
            return None
        if self.next_sender is None:
            eligible = (pending for pending in self.waiting if not pending.done and not pending.waiter.busy)
            self.next_sender = max(eligible, key=_give_up_at, default=None)
        return self.next_sender

    def take_batch(self, limit: float = math.inf) -> Batch:
        """Return the next batch, now in flight: the first queued call and every later one that can be merged with it.

        A call is not merged if it would overtake another call for one of its rooms. ``limit`` as in Batch.
        """
        first = self.waiting[0]
        pending_calls, left = [first], deque[PendingCall]()
        capacity = first.call.spec.max_rooms - len(first.call.rooms)
        passed: set[int] = set()
        seen = 1
        for pending in islice(self.waiting, 1, None):
            if capacity <= 0:
                break
            seen += 1
            rooms = pending.call.rooms
            if pending.done:
                pass  # cancelled
            elif len(rooms) <= capacity and pending.call.can_merge_with(first.call) and passed.isdisjoint(rooms):
                pending_calls.append(pending)
                capacity -= len(rooms)
            else:
                left.append(pending)
                passed.update(rooms)
        left.extend(islice(self.waiting, seen, None))
        for pending in pending_calls:
            pending.queued_behind = None
        batch = Batch(pending_calls, limit)
        # In one assignment and last, so that no interrupt comes between the stores, and none loses a call.
        self.next_sender, self.batch, self.waiting = None, batch, left
        self._drop_cancelled()
        return batch

    def end_batch(self, batch: Batch) -> list[PendingCall]:
        """End a batch: queue its unfinished calls again, first; return the finished ones, whose callers to wake.

        Idempotent, because a caller that is interrupted here has to call it again.
        """
        if self.batch is batch:
            back = [pending for pending in batch.pending_calls if not pending.done]
            waiting = deque([*back, *self.waiting]) if back else self.waiting
            self.waiting, self.batch = waiting, None  # in one assignment, so that no interrupt comes between
            self._drop_cancelled()
        return [pending for pending in batch.pending_calls if pending.done]

    def cancel(self, pending: PendingCall) -> None:
        """Cancel a call. A batch that contains it goes on; a queued call is skipped."""
        pending.queued_behind = None
        if not pending.done:
            pending.failure = _CANCELLED
        if self.next_sender is pending:
            self.next_sender = None
        self._drop_cancelled()

    def leave(self, pending: PendingCall, what: str) -> None:
        """Fail a call whose deadline has passed. A batch that contains it goes on for its other callers.

        The words of an attempt are made before its connection, so even a batch that was not sent yet may still run
        for this call.
        """
        batch = self.batch
        if pending.done:
            pass
        elif not pending.call.spec.repeatable and isinstance(batch, Batch) and pending in batch.pending_calls:
            pending.failure = CallFailed(OutcomeUnknownError, f"{what}: {MAY_HAVE_RUN}")
        else:
            pending.failure = CallFailed(StoreUnavailableError, what)
        self.cancel(pending)

    def requeue_or_fail(self, batch: Batch | Call | bytes) -> list[PendingCall]:
        """End the batch of an interrupted sender: queue its calls again, or fail them if they are not repeatable.

        Returns the finished calls, whose callers to wake.
        """
        if self.batch is not batch:
            return []
        if not isinstance(batch, Batch):
            self.batch = None
            return []
        if not batch.pending_calls[0].call.spec.repeatable:
            batch.fail(CallFailed(OutcomeUnknownError, f"sent, but its sender was interrupted: {MAY_HAVE_RUN}"))
        return self.end_batch(batch)

    def _drop_cancelled(self) -> None:
        """Drop cancelled calls at the head of the queue; ``take_batch`` skips those further back."""
        while self.waiting and self.waiting[0].done:
            self.waiting.popleft()


def waves(calls: list[Call]) -> Iterator[list[Call]]:
    """Yield the calls of a command that are sent at once: one per shard, then the next of each."""
    by_tag: dict[str, list[Call]] = {}
    for call in calls:
        by_tag.setdefault(call.tag, []).append(call)
    for wave in zip_longest(*by_tag.values()):
        yield [call for call in wave if call is not None]


_give_up_at = attrgetter("give_up_at")
_CANCELLED = CallFailed(StoreUnavailableError, "cancelled")
