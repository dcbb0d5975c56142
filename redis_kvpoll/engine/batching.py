"""Calls that travel together: who waits for which shard, and who goes next with whom. No I/O and no locks.

Each shard has one queue, and one batch at a time on it: a script call that carries one caller's rooms, or many
callers'. While it is under way, the calls that come wait in line; those of one kind then go as the next batch. So the
more callers there are, the fewer round trips each of them costs, and what is asked of one room happens in the order
in which it was asked, whatever a batch goes through on its way.
"""

from __future__ import annotations

import math
from collections import deque
from itertools import islice
from typing import Any

from redis_kvpoll.engine.effects import PendingCall
from redis_kvpoll.engine.retry import CallFailed
from redis_kvpoll.errors import OutcomeUnknownError, StoreUnavailableError
from redis_kvpoll.protocol.script_call import MAX_BATCH, Call


class Batch:
    """Riders of one kind, and the one script call that carries them all."""

    __slots__ = ("pending_calls",)

    def __init__(self, pending_calls: list[PendingCall]) -> None:
        self.pending_calls = pending_calls

    @property
    def call(self) -> Call:
        first, *others = self.pending_calls
        return first.call.merged_with([pending.call for pending in others]) if others else first.call

    @property
    def give_up_at(self) -> float:
        return min(pending.give_up_at for pending in self.pending_calls)

    @property
    def is_empty(self) -> bool:
        """Whether all its pending_calls have left."""
        return all(pending.failure is _CANCELLED for pending in self.pending_calls)

    def distribute(self, reply: list[Any]) -> None:
        """Give each pending its part of the reply, which has the words of each room in turn."""
        if len(self.pending_calls) == 1 or not self.pending_calls[0].call.rooms:
            for pending in self.pending_calls:
                pending.reply = reply
            return
        width, at = len(self.pending_calls[0].call.spec.reply), 0
        for pending in self.pending_calls:
            end = at + width * len(pending.call.rooms)
            pending.reply, at = reply[at:end], end

    def fail(self, failure: Exception) -> None:
        """Tell the pending_calls; where only time was short, not those who came later and have some left."""
        until = failure.until if isinstance(failure, CallFailed) else math.inf
        for pending in self.pending_calls:
            if not pending.done and pending.give_up_at <= until:
                pending.failure = failure


class ShardQueue:
    """One shard: the batch that is under way, and who waits for the next.

    Who leads sees to the next batch. The one at the head of the line is always a caller who still waits.
    """

    __slots__ = ("batch", "next_sender", "sender", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[PendingCall] = deque()
        self.batch: Batch | Call | None = None
        """A Call is flown by its caller, who sees to its reply without a pending."""
        self.next_sender: PendingCall | None = None
        self.sender: Any = None
        """Who flies, as the driver knows them."""

    @property
    def is_free(self) -> bool:
        """Whether nobody flies and nobody waits to."""
        return self.batch is None and not self.waiting

    def enqueue(self, pending: PendingCall) -> None:
        """Stand in line."""
        pending.queued_behind = self.batch
        self.waiting.append(pending)

    def elect_sender(self) -> PendingCall | None:
        """Who is to see to the next batch: the first in line who is not busy with another queue's.

        None while one is under way. A queue whose waiting callers are all busy is led by the first to be free.
        """
        if self.batch is not None:
            return None
        if self.next_sender is None:
            self.next_sender = next(
                (pending for pending in self.waiting if not pending.done and not pending.waiter.busy), None
            )
        return self.next_sender

    def take_batch(self) -> Batch:
        """The next batch: the first in line, and all behind that may go along without passing one of their rooms."""
        first = self.waiting[0]
        pending_calls, left = [first], deque[PendingCall]()
        capacity = MAX_BATCH - len(first.call.rooms)
        passed: set[int] = set()
        seen = 1
        for pending in islice(self.waiting, 1, None):
            if capacity <= 0:
                break
            seen += 1
            rooms = pending.call.rooms
            if pending.done:
                pass  # its caller has left
            elif len(rooms) <= capacity and pending.call.can_merge_with(first.call) and passed.isdisjoint(rooms):
                pending_calls.append(pending)
                capacity -= len(rooms)
            else:
                left.append(pending)
                passed.update(rooms)
        left.extend(islice(self.waiting, seen, None))
        for pending in pending_calls:
            pending.queued_behind = None
        batch = Batch(pending_calls)
        # Only now, and with nothing between: who is connection_lost here loses nobody.
        self.next_sender, self.batch, self.waiting = None, batch, left
        self._drop_cancelled()
        return batch

    def complete(self, batch: Batch) -> list[PendingCall]:
        """A batch is over: who has not done goes back to the head of the line. Those who have, to be done_calls of it.

        May be repeated: whoever is connection_lost here must be able to begin again.
        """
        if self.batch is batch:
            back = [pending for pending in batch.pending_calls if not pending.done]
            # An interrupt cannot come between these two.
            self.waiting, self.batch = deque([*back, *self.waiting]) if back else self.waiting, None
            self._drop_cancelled()
        return [pending for pending in batch.pending_calls if pending.done]

    def cancel(self, pending: PendingCall) -> None:
        """A caller gives up. A batch that carries its pending goes on; a pending that stands in line is left behind."""
        pending.queued_behind = None
        if not pending.done:
            pending.failure = _CANCELLED
        if self.next_sender is pending:
            self.next_sender = None
        self._drop_cancelled()

    def requeue_or_fail(self, batch: Batch | Call) -> list[PendingCall]:
        """The sender is gone: requeue the batch, or fail it as unknown. Return the calls to wake."""
        if self.batch is not batch:
            return []
        if not isinstance(batch, Batch):
            self.batch = None
            return []
        if not batch.pending_calls[0].call.spec.repeatable:
            what = "sent, but its sender was interrupted: it may have happened or not; look before doing it again"
            batch.fail(CallFailed(OutcomeUnknownError, what))
        return self.complete(batch)

    def _drop_cancelled(self) -> None:
        """Drop those who have left from the head of the line; further back, they are passed over by ``depart``."""
        while self.waiting and self.waiting[0].done:
            self.waiting.popleft()


_CANCELLED = CallFailed(StoreUnavailableError, "its caller has left")
