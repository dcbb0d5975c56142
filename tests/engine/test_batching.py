"""Concurrent calls of one event loop share batches, and each gets the answer that it would get alone."""

from __future__ import annotations

import asyncio
import gc

import pytest

from chaos.proxy import Proxy
from redis_kvpoll import (
    AsyncStatusStore,
    KVPoll,
    KVTransferError,
    Outcome,
    OutcomeUnknownError,
    RoomNotFoundError,
    StoreUnavailableError,
    Update,
)
from redis_kvpoll.aio.callers import CallFuture
from redis_kvpoll.engine.batching import Batch
from redis_kvpoll.engine.effects import PendingCall
from tests.support import pace, real
from tests.support.calls import gather, objects_of
from tests.support.internals import executor_of, queues_of

BOOT, WAIT, MOVE = KVPoll.Bootstrapping, KVPoll.WaitingForInput, KVPoll.Transferring


@pytest.fixture
def server():
    with real.World("sync") as world:
        yield world.shared()


@pytest.fixture
async def store(proxy):
    """A store behind the proxy that has checked its settings."""
    async with AsyncStatusStore.from_url(f"{proxy.url}?socket_timeout=60", deadline=60.0) as store:
        await store.update_many(dict.fromkeys(range(5), BOOT))
        await asyncio.gather(store.get(9), store.clear(9))  # the server knows the scripts
        proxy.commands.clear()
        yield store
        proxy.release()


async def sent(proxy, script, count):
    await asyncio.to_thread(real.until, lambda: proxy.calls(script) == count, f"{count} calls of {script}")


async def assert_idle(store, proxy):
    """Assert that the store works, and that no call is queued or under way."""
    proxy.release()
    async with asyncio.timeout(60):
        assert await store.get(77) is None
    assert all(queue.is_free and not queue.has_sender for queue in queues_of(store).values())
    assert asyncio.all_tasks() == {asyncio.current_task()}


class TestBatchSize:
    @pytest.mark.parametrize(("callers", "calls"), [(1, 1), (10, 1), (2_000, 2), (10_000, 10)])
    async def test_concurrent_calls_share_one_call_per_thousand(self, store, proxy, callers, calls):
        await store.update_status(99_999, WAIT)  # the server has the script of single calls from then on
        before = proxy.connections
        proxy.commands.clear()
        updates = await gather(*(store.update_status(room, WAIT) for room in range(callers)))
        assert [update.outcome for update in updates[:6]] == ([Outcome.ADVANCED] * 5 + [Outcome.CREATED])[:callers]
        assert set(updates[5:]) <= {Update(Outcome.CREATED, WAIT)}
        assert proxy.calls("update") == len(proxy.commands) == calls
        assert proxy.connections == before

    async def test_first_calls_share_one_settings_check(self, server):
        async with AsyncStatusStore.from_url(server.tcp, namespace="other") as other:
            await other.update_many({1: BOOT, 2: BOOT})  # the server knows the scripts
        with Proxy(server.socket) as proxy:
            async with AsyncStatusStore.from_url(proxy.url, deadline=60.0) as store:
                await gather(*(store.update_status(room, BOOT) for room in range(500)))
                assert proxy.calls("settings") == 1
                assert proxy.calls("update") == 1
                assert proxy.connections <= 2

    async def test_first_calls_run_in_their_order(self, server):
        """The first one to wake must not do more than the others before it queues its call."""
        async with AsyncStatusStore.from_url(server.tcp, deadline=60.0) as store:
            updates = await gather(store.update_status(1, BOOT), store.update_status(1, KVPoll.Failed))
            assert [update.outcome for update in updates] == [Outcome.CREATED, Outcome.FAILED]

    async def test_call_during_the_first_ones_check_comes_after_it(self, server):
        with Proxy(server.socket) as proxy:
            async with AsyncStatusStore.from_url(proxy.url, deadline=60.0) as store:
                proxy.delay = 0.1
                first = asyncio.create_task(store.update_status(1, BOOT))
                await asyncio.to_thread(
                    real.until, lambda: b"INFO" in {command[0] for command in proxy.commands}, "INFO"
                )
                outcomes = [update.outcome for update in await gather(first, store.abort(1))]
        assert outcomes == [Outcome.CREATED, Outcome.FAILED]

    async def test_concurrent_calls_make_one_call_per_shard(self, server):
        with Proxy(server.socket) as proxy:
            async with AsyncStatusStore.from_url(proxy.url, shards=4, deadline=60.0) as store:
                await store.poll(range(100))
                proxy.commands.clear()
                await gather(*(store.update_status(room, BOOT) for room in range(100)))
                assert proxy.calls("update") == 4

    async def test_calls_made_during_a_call_join_the_next_batch(self, store, proxy):
        proxy.hold("poll")
        first = asyncio.create_task(store.get(1))
        await sent(proxy, "poll", 1)
        others = [asyncio.create_task(store.get(room)) for room in range(20)]
        await asyncio.sleep(0)
        proxy.release()
        assert await gather(first, *others) == [BOOT] * 6 + [None] * 15
        assert proxy.calls("poll") == 2

    async def test_many_room_call_shares_batch_with_single_calls(self, store, proxy):
        answers = await gather(store.poll(range(3)), store.get(1), store.poll(range(2_500)), store.get(2_000))
        assert answers[0] == [BOOT] * 3
        assert answers[1] is BOOT
        assert answers[2] == [BOOT] * 5 + [None] * 2_495
        assert answers[3] is None
        assert proxy.calls("poll") <= 4


async def test_errors_reach_their_own_caller(store):
    await gather(*(store.abort(room, f"reason {room}") for room in range(3)))
    answers = await gather(
        *(store.failure_exception(room) for room in range(4)), *(store.check_status(room) for room in (4, 8, 9))
    )
    assert [type(answer) for answer in answers] == [KVTransferError] * 4 + [KVPoll] + [RoomNotFoundError] * 2
    assert [(error.room, error.reason) for error in answers[:3]] == [(room, f"reason {room}") for room in range(3)]
    assert [error.room for error in answers[5:]] == [8, 9]


class TestLostReplies:
    async def test_lost_clears_are_unknown_to_each_and_sent_once(self, store, proxy):
        proxy.lose_next_reply("clear")
        answers = await gather(*(store.clear(room) for room in range(5)), store.get(4))
        assert [type(answer) for answer in answers[:5]] == [OutcomeUnknownError] * 5
        assert [str(error).split(":")[0] for error in answers[:5]] == [f"clear of room {room}" for room in range(5)]
        assert len(set(map(id, answers[:5]))) == 5, "an exception has one traceback"
        assert proxy.calls("clear") == 1
        assert answers[5] is None

    async def test_lost_updates_are_repeated_for_all(self, store, proxy):
        proxy.lose_next_reply("update")
        answers = await gather(*(store.update_status(room, MOVE) for room in range(5)))
        assert answers == [Update(Outcome.UNCHANGED, MOVE)] * 5
        assert proxy.calls("update") == 2

    async def test_call_queued_behind_lost_batch_is_unaffected(self, store, proxy):
        proxy.hold("clear")
        clear = asyncio.create_task(store.clear(1))
        await sent(proxy, "clear", 1)
        others = [asyncio.create_task(store.clear(room)) for room in (2, 3)]
        await asyncio.sleep(0)
        proxy.cut()
        proxy.release()
        first, *rest = await gather(clear, *others)
        assert type(first) is OutcomeUnknownError
        assert rest == [BOOT, BOOT]


class TestDeadlines:
    async def test_later_call_with_time_left_is_retried(self, proxy):
        """Two calls share a batch: the first gives up, the second is sent again."""
        async with AsyncStatusStore.from_url(proxy.url, deadline=60.0) as store:
            await store.get(1)
            proxy.stalled = True
            first = asyncio.create_task(store.get(1))
            await sent(proxy, "poll", 2)
            executor_of(store).deadline = 0.2
            early = asyncio.create_task(store.get(2))
            await asyncio.sleep(0)
            executor_of(store).deadline = 60.0
            late = asyncio.create_task(store.get(3))
            await asyncio.sleep(0)
            first.cancel()
            await gather(first)
            await gather(asyncio.wait([early]))
            assert isinstance(early.exception(), StoreUnavailableError)
            assert not late.done()
            proxy.stalled = False
            proxy.cut()
            assert await gather(late) == [None]

    async def test_call_expired_in_queue_is_not_sent(self, proxy):
        """Its caller has gone; above all a clear must not be sent."""
        async with AsyncStatusStore.from_url(proxy.url, deadline=60.0) as store:
            await store.update_status(1, BOOT)
            await store.get(1)  # now the server knows the script, so the held call needs no second try
            before = proxy.calls("poll")
            proxy.hold("poll")
            first = asyncio.create_task(store.get(1))
            await sent(proxy, "poll", before + 1)
            executor_of(store).deadline = 0.0
            late = asyncio.create_task(store.clear(1))
            await asyncio.sleep(0)
            proxy.release()
            found, failure = await gather(first, late)
            assert found is BOOT
            assert type(failure) is StoreUnavailableError
            assert str(failure).startswith("clear of room 1: no answer within")
            assert "was queued" in str(failure)
            assert proxy.calls("clear") == 0

    async def test_each_call_fails_at_its_deadline_without_server(self):
        async with AsyncStatusStore.from_url(f"redis://127.0.0.1:{real.free_port()}", deadline=0.3) as store:
            for _ in range(3):
                answers = await gather(*(store.get(room) for room in range(3)))
                assert {type(answer) for answer in answers} == {StoreUnavailableError}


class TestCancelling:
    async def begin(self, store, proxy, count):
        """A call under way, and ``count`` calls queued behind it."""
        proxy.hold("poll", "update", "clear")
        first = asyncio.create_task(store.get(0))
        await sent(proxy, "poll", 1)
        tasks = [asyncio.create_task(store.get(room)) for room in range(count)]
        await asyncio.sleep(0)
        return first, tasks

    async def test_cancelled_queued_calls_are_not_sent(self, store, proxy):
        first, tasks = await self.begin(store, proxy, 8)
        for task in tasks[::2]:
            task.cancel()
        proxy.release()
        assert await gather(first, *tasks[1::2]) == [BOOT, BOOT, BOOT, None, None]
        assert proxy.commands[-1].count(b"kvpoll:{default}:room:0") == 0, "a cancelled call is not sent"
        await assert_idle(store, proxy)

    @pytest.mark.parametrize("whom", [[0], [1, 2], [0, 1, 2]])
    async def test_cancelled_calls_leave_their_batch_to_others(self, store, proxy, whom):
        proxy.hold("poll")
        tasks = [asyncio.create_task(store.get(room)) for room in (3, 4, 5)]
        await sent(proxy, "poll", 1)
        behind = asyncio.create_task(store.get(1))
        await asyncio.sleep(0)
        for at in whom:
            tasks[at].cancel()
        await asyncio.sleep(0.01)
        assert proxy.calls("poll") == 1, "the batch goes on, even without callers: the next waits for its reply"
        proxy.release()
        answers = await gather(*tasks, behind)
        for at, answer in enumerate([BOOT, BOOT, None]):
            assert isinstance(answers[at], asyncio.CancelledError) if at in whom else answers[at] is answer
        assert answers[3] is BOOT
        await assert_idle(store, proxy)

    @pytest.mark.parametrize("turns", range(6))
    async def test_cancelled_first_call_leaves_others_answered(self, store, proxy, turns):
        tasks = [asyncio.create_task(store.get(room)) for room in range(4)]
        for _ in range(turns):
            await asyncio.sleep(0)
        tasks[0].cancel()
        answers = await gather(*tasks)
        assert answers[1:] == [BOOT] * 3
        await assert_idle(store, proxy)

    async def test_cancelled_call_is_not_retried(self, store, proxy):
        """Two calls share a batch that fails; after one is cancelled, only the other is sent again."""
        executor_of(store).deadline = pace.seconds(2)
        left, gone = (asyncio.create_task(store.clear(room)) for room in (2, 1))
        proxy.refusals = 10_000
        proxy.cut()
        await asyncio.to_thread(real.until, lambda: proxy.refusals < 9_998, "it was tried")
        gone.cancel()
        _, error = await gather(gone, left)
        assert type(error) is StoreUnavailableError
        proxy.refusals, executor_of(store).deadline = 0, 60.0
        await assert_idle(store, proxy)
        assert await store.get(1) is BOOT

    async def test_time_limit_around_call_leaves_room_alone(self, store, proxy):
        first, tasks = await self.begin(store, proxy, 1)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await store.clear(1)
        proxy.release()
        assert await gather(first, *tasks) == [BOOT, BOOT]
        assert await store.get(1) is BOOT
        await assert_idle(store, proxy)

    @pytest.mark.parametrize("turns", range(4))
    async def test_cancelling_all_other_tasks_stops_no_call(self, store, proxy, turns):
        """The task that sends is among them; the calls that it sends were not cancelled."""
        mine = [asyncio.create_task(store.get(room)) for room in range(3)]
        for _ in range(turns):
            await asyncio.sleep(0)
        for task in asyncio.all_tasks() - {asyncio.current_task(), *mine}:
            task.cancel()
        assert await gather(*mine) == [BOOT] * 3
        await assert_idle(store, proxy)

    async def test_ten_thousand_cancelled_calls_are_not_sent(self, store, proxy):
        first, tasks = await self.begin(store, proxy, 10_000)
        for task in tasks:
            task.cancel()
        proxy.release()
        assert await gather(first) == [BOOT]
        await gather(*tasks)
        assert proxy.calls("poll") == 1
        await assert_idle(store, proxy)

    async def test_internal_error_reaches_every_waiter(self, store, proxy, monkeypatch):
        monkeypatch.setattr(executor_of(store).session, "sync_tokens", lambda: 1 / 0)
        answers = await gather(*(store.get(room) for room in range(3)))
        assert [type(answer) for answer in answers] == [ZeroDivisionError] * 3
        monkeypatch.undo()
        await assert_idle(store, proxy)


def test_calls_left_by_closed_event_loop_block_no_other(server):
    """asyncio.run cancels the tasks that are left; closing a loop does not."""
    with Proxy(server.socket) as proxy:
        store = AsyncStatusStore.from_url(proxy.url)

        async def leave(count):
            await store.update_status(1, BOOT)
            proxy.hold("poll")
            for room in range(count):
                asyncio.ensure_future(store.get(room))  # noqa: RUF006
            await sent(proxy, "poll", 1)

        async def work():
            proxy.release()
            async with asyncio.timeout(60):
                found = await asyncio.gather(*(store.get(1) for _ in range(3)))
            await store.aclose()
            return found

        asyncio.run(leave(3))
        assert asyncio.run(work()) == [BOOT] * 3


async def test_finished_calls_leave_nothing_in_memory(server):
    types = (PendingCall, CallFuture, Batch)
    of_others = objects_of(*types)
    async with AsyncStatusStore.from_url(server.tcp, deadline=60.0) as store:
        await gather(*(store.update_status(room, BOOT) for room in range(50)), store.poll(range(3_000)), store.get(1))
        tasks = [asyncio.create_task(store.get(room)) for room in range(9)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        await gather(*tasks)
        del tasks
        await store.get(1)
        gc.collect()
        assert not objects_of(*types).keys() - of_others.keys()
        assert list(queues_of(store)) == ["default"]
