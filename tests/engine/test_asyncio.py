"""AsyncStatusStore under what asyncio does to it: cancellation, crowds, one event loop after another."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap

import pytest

from chaos.proxy import Proxy
from redis_kvpoll import AsyncStatusStore, KVPoll, Outcome, StoreUnavailableError
from tests.support import pace, real


@pytest.fixture
def server_alone():
    with real.World("sync") as world:
        yield world.shared()


class TestAsyncio:
    async def test_a_cancelled_call_harms_no_other(self, server_alone):
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

    async def test_a_cancelled_call_costs_only_its_own_connection(self, server_alone):
        async with AsyncStatusStore.from_url(server_alone.tcp) as store:
            await store.get(1)
            await asyncio.gather(*(store.settings() for _ in range(32)))  # which go past the queues, each by itself
            node_pool = store._transport._node_pool
            idle = len(node_pool._idle)
            task = asyncio.create_task(store.get(1))
            for _ in range(3):
                await asyncio.sleep(0)
            assert len(node_pool._idle) == idle - 1, "it is on its way"
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert idle > 8
            assert len(node_pool._idle) == idle - 1

    async def test_a_call_cancelled_while_it_waits_in_line_gives_its_place_back(self, server_alone):
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

    async def test_after_a_cancelled_call_the_settings_are_checked_again(self, server_alone):
        with Proxy(server_alone.socket) as proxy:
            async with AsyncStatusStore.from_url(proxy.url) as store:
                await store.poll([1])
                proxy.stalled, before = True, proxy.calls("poll")
                task = asyncio.create_task(store.poll([1]))
                await asyncio.to_thread(real.until, lambda: proxy.calls("poll") > before, "it is sent")
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                proxy.stalled = False
                before = proxy.calls("settings")
                await store.poll([1])
                assert proxy.calls("settings") == before + 1

    async def test_a_cancelled_connect_leaves_nothing_open(self, server_alone):
        with Proxy(server_alone.socket) as proxy:
            proxy.stalled = True
            store = AsyncStatusStore.from_url(proxy.url)
            task = asyncio.create_task(store.poll([1]))
            await asyncio.to_thread(real.until, lambda: proxy.commands, "it is connecting")
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await asyncio.to_thread(real.until, lambda: not proxy._open, "the connection is closed")
            await store.aclose()

    async def test_two_thousand_calls_at_once(self, server_alone):
        async with AsyncStatusStore.from_url(server_alone.tcp, deadline=60.0) as store:
            updates = await asyncio.gather(*(store.update_status(room, 1) for room in range(2_000)))
            assert {update.outcome for update in updates} == {Outcome.CREATED}
            assert len(store._transport._node_pool._idle) <= 16

    async def test_waiting_in_line_counts_towards_the_deadline(self, server_alone):
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

    def test_one_event_loop_after_another(self, server_alone):
        store = AsyncStatusStore.from_url(server_alone.tcp)

        async def work(room):
            try:
                return await store.update_status(room, 1)
            finally:
                await store._transport.close()

        assert [asyncio.run(work(room)).outcome for room in range(3)] == [Outcome.CREATED] * 3

    def test_a_store_left_open_in_a_loop_that_ended(self, server_alone):
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
