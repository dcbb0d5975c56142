"""Which calls share a batch, and in which order: calls, batches and failures at random, without I/O."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from redis_kvpoll import KVPollError, OutcomeUnknownError, ServerRefusedError, StoreUnavailableError
from redis_kvpoll.engine.batching import Batch, ShardQueue
from redis_kvpoll.engine.effects import PendingCall, Send
from redis_kvpoll.engine.executor import Executor
from redis_kvpoll.engine.retry import CallFailed
from redis_kvpoll.engine.session import Session
from redis_kvpoll.protocol import room_commands
from redis_kvpoll.protocol.script_specs import CLEAR
from redis_kvpoll.protocol.settings import ExpectedSettings
from tests.support.contexts import context
from tests.support.fuzzing import examples

CONTEXT = context(namespace="default")
OTHER = context(namespace="default", policy="strict")
MAKE = {
    "update": lambda rooms: room_commands.update_many(dict.fromkeys(rooms, 2)),
    "poll": room_commands.poll,
    "clear": room_commands.clear_many,
}
NEVER = 1e9
SHARED = range(6)
"""The rooms that several calls ask for; other rooms only fill batches."""


def pending(kind="poll", rooms=(1,), give_up_at=NEVER, context=CONTEXT, busy=False):
    (call,) = MAKE[kind](rooms).calls(context)
    made = PendingCall(call, give_up_at)
    made.waiter = SimpleNamespace(busy=busy)
    return made


def queue_of_calls(*pending_calls):
    queue = ShardQueue()
    for one in pending_calls:
        queue.enqueue(one)
    return queue


def answer(batch):
    """A reply in which each word names its room."""
    width = len(batch.pending_calls[0].call.spec.reply)
    return [f"{room}.{word}" for room in batch.call.rooms for word in range(width)]


def run_out(batch, until):
    batch.fail(CallFailed(StoreUnavailableError, "no answer", until))


class QueueMachine(RuleBasedStateMachine):
    """One queue. ``asked`` holds the calls on each room, in order."""

    @initialize()
    def begin(self):
        self.queue = ShardQueue()
        self.now = 0.0
        self.asked = {}
        self.calls = []
        self.cancelled = []

    @rule(
        kind=st.sampled_from(sorted(MAKE)),
        rooms=st.lists(st.sampled_from(SHARED), min_size=1, max_size=3, unique=True),
        many=st.sampled_from([0, 0, 0, 200, CLEAR.max_rooms - 3]),
        context=st.sampled_from([CONTEXT, CONTEXT, CONTEXT, OTHER]),
        patience=st.sampled_from([1.0, 5.0]),
        busy=st.booleans(),
    )
    def enqueue(self, kind, rooms, many, context, patience, busy):
        made = pending(kind, [*rooms, *range(1000, 1000 + many)], self.now + patience, context, busy)
        self.queue.enqueue(made)
        self.calls.append(made)
        for room in rooms:
            self.asked.setdefault(room, []).append(made)

    @precondition(lambda self: self.queue.elect_sender())
    @rule()
    def take_batch(self):
        next_sender, line = self.queue.next_sender, list(self.queue.waiting)
        assert next_sender in line
        batch = self.queue.take_batch()
        assert batch.pending_calls[0] is line[0], "the first call in the queue is sent"
        assert self.queue.elect_sender() is None, "one batch at a time"
        assert len(batch.call.rooms) <= batch.call.spec.max_rooms
        assert {(one.call.spec, tuple(one.call.shared_args)) for one in batch.pending_calls} == {
            (line[0].call.spec, tuple(line[0].call.shared_args))
        }
        assert not any(one.done for one in batch.pending_calls)
        for one in batch.pending_calls:  # no call overtakes an earlier one on the same room
            for room in filter(SHARED.__contains__, one.call.rooms):
                before = self.asked[room][: self.asked[room].index(one)]
                assert all(other.done or other in batch.pending_calls for other in before)
        assert batch.call.rooms == [room for one in batch.pending_calls for room in one.call.rooms]

    @precondition(lambda self: self.queue.batch)
    @rule()
    def distribute(self):
        batch = self.queue.batch
        batch.distribute(answer(batch))
        for one in batch.pending_calls:
            width = len(one.call.spec.reply)
            assert one.reply == [f"{room}.{word}" for room in one.call.rooms for word in range(width)]
        self.end(batch)

    @precondition(lambda self: self.queue.batch)
    @rule(passed=st.sampled_from([0.5, 2.0, 6.0]))
    def run_out_of_time(self, passed):
        self.now += passed
        batch = self.queue.batch
        run_out(batch, self.now)
        for one in batch.pending_calls:
            assert one.done is (one.give_up_at <= self.now or one in self.cancelled)
        self.end(batch)

    @precondition(lambda self: self.queue.batch)
    @rule()
    def be_refused(self):
        batch = self.queue.batch
        batch.fail(CallFailed(ServerRefusedError, "no"))
        assert all(one.done for one in batch.pending_calls)
        self.end(batch)

    @precondition(lambda self: self.queue.batch)
    @rule()
    def be_abandoned(self):
        batch = self.queue.batch
        done_calls = self.queue.requeue_or_fail(batch)
        for one in batch.pending_calls:
            if one not in self.cancelled:
                assert one.done is (not batch.pending_calls[0].call.spec.repeatable)
            assert one.done is (one in done_calls)
        assert self.queue.requeue_or_fail(batch) == []

    @precondition(lambda self: any(not one.done for one in self.calls))
    @rule(data=st.data())
    def leave(self, data):
        one = data.draw(st.sampled_from([one for one in self.calls if not one.done]))
        self.queue.cancel(one)
        self.cancelled.append(one)
        assert self.queue.next_sender is not one

    @rule()
    def all_are_free(self):
        for one in self.calls:
            one.waiter.busy = False

    def end(self, batch):
        done_calls = self.queue.end_batch(batch)
        assert done_calls == [one for one in batch.pending_calls if one.done]
        line = list(self.queue.waiting)
        assert self.queue.end_batch(batch) == done_calls, "it may be repeated"
        assert list(self.queue.waiting) == line

    @invariant()
    def no_call_is_lost(self):
        under_way = [*(self.queue.batch.pending_calls if self.queue.batch else []), *self.queue.waiting]
        assert len(set(map(id, under_way))) == len(under_way)
        assert all(one in under_way for one in self.calls if not one.done)

    @invariant()
    def queue_is_in_call_order(self):
        line = [one for one in self.queue.waiting if not one.done]
        for room, askers in self.asked.items():
            waiting = [one for one in line if room in one.call.rooms[:3]]
            assert waiting == [one for one in askers if one in waiting]

    @invariant()
    def free_queue_is_free(self):
        assert self.queue.is_free is (not self.queue.batch and all(one.done for one in self.calls))

    @invariant()
    def a_sender_is_elected(self):
        """Unless a batch is under way, or all callers are busy with other queues."""
        waiting = [one for one in self.queue.waiting if not one.done]
        if not self.queue.batch and any(not one.waiter.busy for one in waiting):
            assert self.queue.elect_sender() in waiting


TestQueueMachine = QueueMachine.TestCase
TestQueueMachine.settings = examples(80)


class TestTakeBatch:
    @pytest.mark.parametrize(
        ("line", "first"),
        {
            "alike": ([("poll", [1]), ("poll", [1]), ("poll", [2])], [0, 1, 2]),
            "another kind stays": ([("update", [1]), ("poll", [2]), ("update", [3])], [0, 2]),
            "a later call on the same room stays behind": ([("update", [1]), ("clear", [1]), ("update", [1])], [0]),
            "and so does a call that shares a room with it": (
                [("update", [1]), ("clear", [2, 3]), ("update", [3, 4]), ("update", [4]), ("update", [5])],
                [0, 4],
            ),
            "by other settings": ([("update", [1], OTHER), ("update", [2]), ("update", [3], OTHER)], [0, 2]),
            "a batch has at most a thousand rooms": (
                [("poll", range(600)), ("poll", range(400)), ("poll", [1])],
                [0, 1],
            ),
            "a small call passes a large one that does not fit": (
                [("poll", range(600)), ("poll", range(1000, 1500)), ("poll", [7])],
                [0, 2],
            ),
        }.values(),
    )
    def test_batch_takes_compatible_calls_in_order(self, line, first):
        pending_calls = [pending(kind, rooms, context=(more or [CONTEXT])[0]) for kind, rooms, *more in line]
        batch = queue_of_calls(*pending_calls).take_batch()
        assert [pending_calls.index(one) for one in batch.pending_calls] == first

    def test_ten_thousand_calls_take_ten_batches(self):
        queue = queue_of_calls(*(pending(rooms=[room]) for room in range(10_000)))
        batches = 0
        while queue.waiting:
            batch = queue.take_batch()
            batch.distribute(answer(batch))
            queue.end_batch(batch)
            batches += 1
        assert batches == 10

    def test_settings_checks_share_the_whole_reply(self):
        call = ExpectedSettings.checked("default", None, None, None, None).call()
        pending_calls = [PendingCall(call, NEVER) for _ in range(3)]
        queue_of_calls(*pending_calls).take_batch().distribute([b"2", b"compat"])
        assert [one.reply for one in pending_calls] == [[b"2", b"compat"]] * 3


class TestDeadlines:
    def test_caller_with_latest_deadline_sends(self):
        """So no caller waits beyond its own deadline for the calls of others."""
        early, late, busy = pending(give_up_at=1.0), pending(give_up_at=5.0), pending(give_up_at=9.0, busy=True)
        assert queue_of_calls(early, late, busy).elect_sender() is late

    def test_batch_goes_on_until_its_latest_deadline(self):
        early, late = pending(give_up_at=1.0), pending(rooms=[2], give_up_at=5.0)
        assert queue_of_calls(early, late).take_batch().give_up_at == 5.0
        assert queue_of_calls(early, late).take_batch(limit=3.0).give_up_at == 3.0

    @pytest.mark.parametrize(("kind", "error"), [("poll", StoreUnavailableError), ("clear", OutcomeUnknownError)])
    @pytest.mark.parametrize("send", [None, Send("default", []), Send("default", [], is_sent=True)])
    def test_caller_leaves_batch_at_its_deadline(self, kind, error, send):
        """A batch that is not sent yet may be later, with this call: only one that was not taken never runs."""
        early, late = pending(kind, [1], give_up_at=1.0), pending(kind, [2], give_up_at=5.0)
        queue = queue_of_calls(early, late)
        batch = queue.take_batch()
        batch.send = send
        queue.leave(early, "no answer")
        assert early.failure.kind is error
        assert (queue.batch, late.done) == (batch, False)

    @pytest.mark.parametrize(("kind", "error"), [("poll", StoreUnavailableError), ("clear", OutcomeUnknownError)])
    def test_half_executed_batch_fails_by_what_was_executed(self, kind, error):
        whole, part, nothing = (pending(kind, rooms) for rooms in ([1], [2, 3], [4]))
        batch = queue_of_calls(whole, part, nothing).take_batch()
        width = len(whole.call.spec.reply)
        batch.add(answer(batch)[: 2 * width])
        batch.fail(CallFailed(StoreUnavailableError, "no answer"))
        assert whole.reply == [f"1.{word}" for word in range(width)]
        assert [one.failure.kind for one in (part, nothing)] == [error, StoreUnavailableError]

    @pytest.mark.parametrize("failure", [CallFailed(ServerRefusedError, "refused"), KVPollError("refused")])
    def test_half_executed_clear_says_what_was_refused(self, failure):
        whole = pending("clear", [1, 2])
        batch = queue_of_calls(whole).take_batch()
        batch.add(answer(batch)[: len(whole.call.spec.reply)])
        batch.fail(failure)
        assert whole.failure.kind is OutcomeUnknownError
        assert "for the others: refused" in str(whole.failure)

    def test_clear_that_leaves_the_queue_was_not_sent(self):
        first, second = pending("clear", [1]), pending("update", [1])
        queue = queue_of_calls(second, first)
        queue.take_batch()
        queue.leave(first, "no answer")
        assert first.failure.kind is StoreUnavailableError


class TestCancelAndRequeue:
    def test_cancelled_call_of_failed_batch_is_not_requeued(self):
        """It would be the first in the queue, and no call would be elected."""
        first, second = pending("clear", [1]), pending("clear", [2])
        queue = queue_of_calls(first, second)
        batch = queue.take_batch()
        queue.cancel(first)
        run_out(batch, 0.0)
        assert queue.end_batch(batch) == [first]
        assert queue.elect_sender() is second
        assert queue.take_batch().pending_calls == [second]

    def test_queue_with_all_calls_cancelled_is_free(self):
        pending_calls = [pending(rooms=[room]) for room in range(3)]
        queue = queue_of_calls(*pending_calls)
        for at in (1, 0, 2):
            queue.cancel(pending_calls[at])
        assert queue.is_free

    def test_next_call_is_elected_after_cancel(self):
        first, second = pending(), pending()
        queue = queue_of_calls(first, second)
        assert queue.elect_sender() is first
        queue.cancel(first)
        assert queue.elect_sender() is second

    def test_lone_call_given_up_frees_queue(self):
        queue = ShardQueue()
        queue.batch = pending().call
        assert queue.requeue_or_fail(queue.batch) == []
        assert queue.is_free

    def test_given_up_clears_are_unknown_and_not_requeued(self):
        pending_calls = [pending("clear", [1]), pending("clear", [2])]
        queue = queue_of_calls(*pending_calls)
        assert queue.requeue_or_fail(queue.take_batch()) == pending_calls
        assert {one.failure.kind for one in pending_calls} == {OutcomeUnknownError}
        assert queue.is_free

    def test_requeued_call_is_first_in_queue(self):
        """Otherwise later calls on its room would overtake it."""
        first, second = pending("update", [1]), pending("clear", [1])
        queue = queue_of_calls(first, second)
        assert queue.end_batch(queue.take_batch()) == []
        assert list(queue.waiting) == [first, second]

    def test_old_batch_does_not_complete_the_next(self):
        """A batch is given up by its callers, and then completes after all."""
        one, other = pending(rooms=[1]), pending("update", [1])
        queue = queue_of_calls(one, other)
        old = queue.take_batch()
        queue.requeue_or_fail(old)
        new = queue.take_batch()
        old.distribute(["late"])
        queue.end_batch(old)
        assert queue.batch is new


def test_queue_keeps_no_batch_but_the_last():
    """Otherwise each batch would keep the one before it alive while the queue is busy."""
    queue = ShardQueue()
    for _ in range(3):
        queue.enqueue(pending())
        queue.enqueue(pending("update"))
        batch = queue.take_batch()
        assert all(one.queued_behind is None for one in batch.pending_calls)
        batch.distribute(answer(batch))
        queue.end_batch(batch)
    assert isinstance(batch, Batch)


@pytest.mark.parametrize("others", [0, 1], ids=["alone", "among others"])
def test_reply_after_the_failure_counts(others):
    """A sender that was given up on may get on. Then the call was executed; the error would say that it was not."""
    calls = [pending("update", [room]) for room in range(1 + others)]
    queue = queue_of_calls(calls[0])
    late = queue.take_batch()
    queue.requeue_or_fail(late)
    run_out(queue.take_batch(), until=NEVER)
    for batch in (late, *(Batch([one]) for one in calls[1:])):
        batch.distribute(["2", "Transferring"])
    executor = Executor(Session.checked("default", (900, 300, 5), (None, None, None, None, False), (None, None)))
    assert calls[0].failure is not None
    assert executor.replies_of("update_many", calls) == [["2", "Transferring"]] * len(calls)
    assert executor.reply_of("update_many", calls[0]) == ["2", "Transferring"]
