"""AsyncStatusStore under what asyncio does to it: cancellation, crowds, one event loop after another."""

from __future__ import annotations

import asyncio
import select
import subprocess
import sys
import textwrap
import time

import pytest

from chaos.proxy import Proxy
from redis_kvpoll import AsyncStatusStore, KVPoll, Outcome, StoreUnavailableError
from tests.support import pace, real
from tests.support.calls import calls_may_take, until
from tests.support.internals import idle_connections_of, socket_of, tracked_rooms_of, transport_of


@pytest.fixture
def server_alone():
    with real.World("sync") as world:
        yield world.shared()


class TestAsyncioStore:
    async def test_cancelled_call_leaves_other_replies_right(self, server_alone):
        """Whenever it is cancelled: while connecting, sending or waiting; no later call gets its reply."""
        with Proxy(server_alone.socket) as proxy:
            async with AsyncStatusStore.from_url(proxy.url) as store:
                await store.update_many({room: KVPoll(1 + room % 4) for room in range(100)})
                for number in range(150):
                    task = asyncio.create_task(store.get(number % 100))
                    for _ in range(number % 15):
                        await asyncio.sleep(0)
                    task.cancel()
                    rooms = [(number + more) % 100 for more in range(3)]
                    found = await asyncio.gather(*(store.get(room) for room in rooms))
                    assert found == [KVPoll(1 + room % 4) for room in rooms]
                    await asyncio.gather(task, return_exceptions=True)

    async def test_cancelled_call_costs_no_connection(self, server_alone):
        """The rest of its reply is read for it, and the connection stays."""
        async with AsyncStatusStore.from_url(server_alone.tcp) as store:
            await store.get(1)
            await asyncio.gather(*(store.settings() for _ in range(32)))  # which go past the queues, each by itself
            idle = idle_connections_of(store)
            task = asyncio.create_task(store.get(1))
            for _ in range(3):
                await asyncio.sleep(0)
            assert len(idle_connections_of(store)) == len(idle) - 1, "it is on its way"
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert task.cancelled()
            await store.get(2)
            await until(lambda: len(idle_connections_of(store)) == len(idle), "its reply was read")
            assert set(idle_connections_of(store)) == set(idle)

    async def test_reply_as_late_as_the_deadline_is_returned(self, server_alone):
        """It and the timer that closes the connection come in one turn of the loop, which stood still."""
        deadline = pace.seconds(1)
        with Proxy(server_alone.socket) as proxy:
            async with AsyncStatusStore.from_url(proxy.url, deadline=deadline) as store:
                await store.update_status(1, KVPoll.Bootstrapping)
                (connection,) = idle_connections_of(store)
                socket = socket_of(connection)

                def stand_still():
                    select.select([socket], [], [], deadline)
                    time.sleep(deadline)

                proxy.delay = 0.1
                asyncio.get_running_loop().call_later(0.01, stand_still)
                assert await store.get(1) is KVPoll.Bootstrapping
                assert connection not in idle_connections_of(store)
                proxy.delay = 0.0
                with calls_may_take(store, 60.0):
                    assert await store.get(1) is KVPoll.Bootstrapping

    async def test_call_cancelled_in_queue_frees_its_place(self, server_alone):
        with Proxy(server_alone.socket) as proxy:
            async with AsyncStatusStore.from_url(proxy.url, deadline=60.0) as store:
                await store.poll([1])
                proxy.stalled = True
                tasks = [asyncio.create_task(store.settings()) for _ in range(40)]
                await asyncio.to_thread(real.until, lambda: proxy.connections == 16, "as many as may be")
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                proxy.stalled = False
                found = await asyncio.gather(*(store.settings() for _ in range(40)))
                assert len({settings.policy for settings in found}) == 1

    async def test_cancelled_call_unsettles_nothing(self, server_alone):
        """The next call needs no check, and no new connection."""
        with Proxy(server_alone.socket) as proxy:
            async with AsyncStatusStore.from_url(proxy.url) as store:
                await store.poll([1])
                before, connections = proxy.calls("poll"), proxy.connections
                proxy.hold("poll")
                task = asyncio.create_task(store.poll([1]))
                await asyncio.to_thread(real.until, lambda: proxy.calls("poll") > before, "it is sent")
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                proxy.commands.clear()
                proxy.release()
                await store.poll([1])
                assert len(proxy.commands) == proxy.calls("poll") == 1
                assert proxy.connections == connections

    async def test_reply_to_cancelled_call_is_observed(self, server_alone):
        """A room that it has opened is tracked: nobody else could bring it back after a loss of data."""
        with Proxy(server_alone.socket) as proxy:
            async with AsyncStatusStore.from_url(proxy.url) as store:
                await (await store.open(1)).status()
                proxy.hold("open")
                before = proxy.calls("open")
                task = asyncio.create_task(store.open(2))
                await asyncio.to_thread(real.until, lambda: proxy.calls("open") > before, "it is sent")
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                proxy.release()
                await until(lambda: 2 in tracked_rooms_of(store).in_shard("default"), "its reply was read")

    async def test_cancelled_connect_is_kept_for_next_call(self, server_alone):
        with Proxy(server_alone.socket) as proxy:
            async with AsyncStatusStore.from_url(proxy.url) as store:
                proxy.delay = 0.01
                task = asyncio.create_task(store.poll([1]))
                await asyncio.to_thread(real.until, lambda: proxy.commands, "it is connecting")
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                await until(lambda: idle_connections_of(store), "it is connected")
                await store.poll([1])
                assert proxy.connections == 1

    async def test_cancelled_connect_ends_with_the_store(self, server_alone):
        with Proxy(server_alone.socket) as proxy:
            proxy.stalled = True
            store = AsyncStatusStore.from_url(proxy.url, deadline=60.0)
            task = asyncio.create_task(store.poll([1]))
            await asyncio.to_thread(real.until, lambda: proxy.commands, "it is connecting")
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await store.aclose()
            await asyncio.to_thread(real.until, lambda: not proxy.open_connections, "the connection is closed")

    async def test_call_that_connects_while_store_closes_ends(self, server_alone):
        """It is not cancelled: nobody has cancelled its task."""
        with Proxy(server_alone.socket) as proxy:
            store = AsyncStatusStore.from_url(proxy.url, deadline=60.0)
            proxy.stalled = True
            call = asyncio.create_task(store.settings())
            await until(lambda: proxy.connections, "it connects")
            await store.aclose()
            proxy.stalled = False
            await call

    async def test_two_thousand_concurrent_calls_succeed(self, server_alone):
        async with AsyncStatusStore.from_url(server_alone.tcp, deadline=60.0) as store:
            updates = await asyncio.gather(*(store.update_status(room, 1) for room in range(2_000)))
            assert {update.outcome for update in updates} == {Outcome.CREATED}
            assert len(idle_connections_of(store)) <= 16

    async def test_time_in_queue_counts_towards_deadline(self, server_alone):
        """Else the last of these would wait for every one before it to give up."""
        with Proxy(server_alone.socket) as proxy:
            deadline = pace.seconds(0.5)
            async with AsyncStatusStore.from_url(proxy.url, deadline=deadline) as store:
                await store.poll([1])
                proxy.stalled = True
                calls = [store.poll([room]) for room in range(16 * 40)]
                with pace.Stopwatch() as took:
                    answers = await asyncio.gather(*calls, return_exceptions=True)
                assert took.seconds < 30 * deadline  # in turn it would be 40
                assert {type(answer) for answer in answers} == {StoreUnavailableError}

    def test_store_works_in_one_event_loop_after_another(self, server_alone):
        store = AsyncStatusStore.from_url(server_alone.tcp)

        async def work(room):
            try:
                return await store.update_status(room, 1)
            finally:
                await transport_of(store).close()

        assert [asyncio.run(work(room)).outcome for room in range(3)] == [Outcome.CREATED] * 3

    def test_store_left_open_works_in_next_event_loop(self, server_alone):
        """The next loop works. In a process of its own: Python complains of the open connection, rightly."""
        program = f"""
            import asyncio
            from redis_kvpoll import AsyncStatusStore
            store = AsyncStatusStore.from_url({server_alone.tcp!r})
            for room in range(3):
                print(asyncio.run(store.update_status(room, 1)).outcome.name)
        """
        ran = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=pace.seconds(60)
        )
        assert (ran.stdout.split(), ran.stderr) == (["CREATED"] * 3, "")
