"""Callers that leave a batch (cancelled, interrupted, out of time) leave the connection and other callers alone."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import threading

import pytest

from redis_kvpoll import AsyncStatusStore, KVPoll, OutcomeUnknownError, StatusStore, StoreUnavailableError
from redis_kvpoll.aio.connecting import AsyncConnector
from redis_kvpoll.sync.connecting import Connector
from tests.support import pace, real
from tests.support.calls import calls_may_take, until
from tests.support.internals import fill_write_buffer, idle_connections_of, queue_of
from tests.support.wire import Tally, total, verifications

BOOT, MOVE = KVPoll.Bootstrapping, KVPoll.Transferring


@pytest.fixture
def server():
    with real.World("sync") as world:
        yield world.shared()


@pytest.fixture
def client(server):
    with server.client() as client:
        yield client


class Connecting:
    """Holds up the stores that open a connection."""

    def __init__(self, monkeypatch):
        self._goes_on, self._is_held = threading.Event(), threading.Event()
        self._goes_on.set()
        connect, connect_async = Connector.connect, AsyncConnector.connect

        def held(*arguments):
            self._pass()
            return connect(*arguments)

        async def held_async(*arguments):
            await asyncio.to_thread(self._pass)
            return await connect_async(*arguments)

        monkeypatch.setattr(Connector, "connect", held)
        monkeypatch.setattr(AsyncConnector, "connect", held_async)

    def _pass(self):
        if not self._goes_on.is_set():
            self._is_held.set()
        self._goes_on.wait(60)

    def hold(self):
        self._goes_on.clear()

    def wait_until_held(self):
        assert self._is_held.wait(60)

    def release(self):
        self._goes_on.set()


@pytest.fixture
def connecting(monkeypatch):
    connecting = Connecting(monkeypatch)
    yield connecting
    connecting.release()


class TestImpatientTask:
    """One task gives up each read before its reply can be there; five others of the store are patient."""

    async def test_others_proceed_and_none_fails(self, proxy):
        second = pace.seconds(1)
        async with AsyncStatusStore.from_url(proxy.url, shards=8, deadline=60.0) as store:
            handles = [await store.open(room) for room in range(64)]
            async with store.lease("prefill-0", ttl=60 * second, heartbeat=0.5 * second):
                proxy.delay = 0.01 * second
                for _ in range(3):  # a busy spell may fall into one window alone
                    alone = await self.calls_of_five(handles, 3 * second)
                    impatient = asyncio.create_task(self.read_impatiently(store, 0.016 * second))
                    beside = await self.calls_of_five(handles, 3 * second)
                    impatient.cancel()
                    left = (await asyncio.gather(impatient, return_exceptions=True))[0]
                    alone_again = await self.calls_of_five(handles, 3 * second)
                    if beside.calls >= min(alone.calls, alone_again.calls) / 2:
                        break
                proxy.delay = 0.0
        assert isinstance(left, asyncio.CancelledError)
        assert (alone.errors, beside.errors, alone_again.errors) == ([], [], [])
        assert beside.calls >= min(alone.calls, alone_again.calls) / 2

    @staticmethod
    async def read_impatiently(store, seconds):
        for room in itertools.count():
            try:
                async with asyncio.timeout(seconds):
                    await store.get(room % 64)
            except TimeoutError:
                pass

    @staticmethod
    async def calls_of_five(handles, seconds):
        """What five tasks meet that call one after the other for so long; a pause of the machine does not count."""

        async def repeat(number):
            tally = Tally()
            turns = itertools.cycle(handles[number::5])
            while watch.seconds < seconds:
                try:
                    await next(turns).status()
                except StoreUnavailableError as error:
                    tally.errors.append(error)
                else:
                    tally.calls += 1
            return tally

        with pace.Stopwatch() as watch:
            return total(await asyncio.gather(*map(repeat, range(5))))


class TestCancelled:
    """In asyncio. The proxy holds the call back until its caller is gone."""

    @pytest.fixture
    async def store(self, proxy):
        async with AsyncStatusStore.from_url(proxy.url, deadline=pace.seconds(5)) as store:
            await store.update_many(dict.fromkeys(range(3), MOVE))
            await store.poll([1, 2]), await store.clear(9)  # loads the scripts
            yield store

    @pytest.fixture
    async def handle(self, store):
        handle = await store.open(10)
        await handle.update(BOOT), await handle.status()
        return handle

    async def cancelled_once_sent(self, proxy, script, calls, leaving):
        """Make calls at once; cancel those of some numbers when they are on their way. Returns the results of all."""
        sent = proxy.calls(script)
        proxy.hold(script)
        tasks = [asyncio.create_task(call) for call in calls]
        await asyncio.to_thread(real.until, lambda: proxy.calls(script) > sent, "it is sent")
        for number in leaving:
            tasks[number].cancel()
        await asyncio.wait([tasks[number] for number in leaving])
        proxy.release()
        return await asyncio.gather(*tasks, return_exceptions=True)

    @pytest.mark.parametrize("callers", [1, 3])
    async def test_their_connection_stays_open(self, store, handle, proxy, callers):
        connections = proxy.connections
        for _ in range(5):
            calls = [store.get(room) for room in range(callers)]
            results = await self.cancelled_once_sent(proxy, "poll", calls, range(callers))
            assert {type(result) for result in results} == {asyncio.CancelledError}
            assert await store.get(2) is MOVE
        assert proxy.connections <= connections + 1  # a call may pass by the one whose reply is still to come

    @pytest.mark.parametrize("callers", [1, 3])
    async def test_nothing_is_sent_for_it(self, store, handle, proxy, callers):
        """Neither the call once more nor a verification."""
        proxy.commands.clear()
        calls = [store.get(room) for room in range(callers)]
        await self.cancelled_once_sent(proxy, "poll", calls, range(callers))
        assert await store.get(2) is MOVE
        assert proxy.calls("poll") == 2
        assert verifications(proxy) == []

    async def test_clear_of_another_in_batch_succeeds(self, store, handle, proxy):
        proxy.commands.clear()
        calls = [store.clear(room) for room in range(3)]
        results = await self.cancelled_once_sent(proxy, "clear", calls, [0, 2])
        assert results[1] is MOVE
        assert proxy.calls("clear") == 1
        assert verifications(proxy) == []

    async def test_reply_still_counts(self, store, handle, proxy, client):
        """What the server has answered is replayed after a loss of data, although nobody waited for it."""
        await self.cancelled_once_sent(proxy, "write", [handle.update(MOVE)], [0])
        await store.get(2)  # the queue keeps its order, so the reply is there
        client.flushall()
        assert await handle.status() is MOVE

    async def test_other_connections_stay_while_it_is_written(self, store):
        """redis-py closes that of a call which is cancelled while it writes. Nothing was lost."""
        await asyncio.gather(*(store.settings() for _ in range(3)))
        *others, last = idle_connections_of(store)
        assert others
        fill_write_buffer(last)
        task = asyncio.create_task(store.settings())
        await until(lambda: last not in idle_connections_of(store), "it writes")
        task.cancel()
        await asyncio.wait([task])
        await until(lambda: asyncio.all_tasks() == {asyncio.current_task()}, "nothing goes on")
        assert idle_connections_of(store) == others
        assert await store.get(2) is MOVE


class TestOutOfTime:
    """Of two callers in one batch, one was queued much earlier, so that its deadline is earlier, too."""

    @pytest.mark.parametrize("script", ["poll", "clear"])
    def test_later_caller_gets_its_reply(self, side, proxy, threads, script):
        """A clear, which is never sent twice, would have an unknown outcome if its connection were closed."""
        store = side.open(proxy.url, deadline=60.0)
        call = store.get if script == "poll" else store.clear
        store.open(9).status()
        store.update_many({1: MOVE, 2: MOVE, 3: MOVE})
        store.clear(9), store.poll([9])
        proxy.commands.clear()
        proxy.hold(script)
        in_flight = threads.submit(call, 1)
        real.until(lambda: proxy.calls(script) == 1, "the first is sent")
        with calls_may_take(store, pace.seconds(1)):
            early = threads.submit(call, 2)
            real.until(lambda: early.done() or len(queue_of(store).waiting) == 1, "the early one is queued")
        late = threads.submit(call, 3)
        real.until(lambda: early.done() or len(queue_of(store).waiting) == 2, "the late one is queued behind it")
        first = proxy.released
        proxy.hold(script)
        first.set()
        assert in_flight.result(pace.seconds(120)) is MOVE
        real.until(lambda: proxy.calls(script) == 2, "both are sent")
        before = set(proxy.open_connections)
        assert early.exception(pace.seconds(30)) is not None
        still_open = before <= set(proxy.open_connections)
        proxy.release()
        assert late.result(pace.seconds(30)) is MOVE
        assert still_open
        assert proxy.calls(script) == 2
        assert verifications(proxy) == []

    def test_clear_that_left_before_it_was_sent_may_have_run(self, side, proxy, threads, connecting):
        """Its batch was waiting for a connection. The words of both calls are sent then."""
        store = side.open(proxy.url, deadline=60.0)
        store.clear(9), store.get(9)

        def attempt():
            store.update_many({1: MOVE, 2: MOVE, 3: MOVE})
            proxy.commands.clear()
            proxy.hold("clear")
            in_flight = threads.submit(store.clear, 1)
            real.until(lambda: proxy.calls("clear") == 1, "the first is sent")
            with calls_may_take(store, pace.seconds(1)):
                early = threads.submit(store.clear, 2)
                real.until(lambda: early.done() or len(queue_of(store).waiting) == 1, "the early one is queued")
            late = threads.submit(store.clear, 3)
            real.until(lambda: early.done() or len(queue_of(store).waiting) == 2, "the late one is queued behind it")
            connecting.hold()
            proxy.cut()
            in_flight_error = in_flight.exception(pace.seconds(60))
            proxy.release()
            connecting.wait_until_held()
            early_error = early.exception(pace.seconds(60))
            connecting.release()
            assert late.result(pace.seconds(60)) is MOVE
            assert (type(in_flight_error), type(early_error)) == (OutcomeUnknownError, OutcomeUnknownError)
            assert store.get(2) is None

        pace.undisturbed(attempt)

    def test_lone_caller_unsettles_nothing(self, side, proxy):
        """Its connection may be closed, since nobody waits for the reply; the next one reports the same server."""
        store = side.open(proxy.url, deadline=pace.seconds(0.5))
        with calls_may_take(store, 60.0):
            handle = store.open(1)
            handle.status()
        proxy.commands.clear()
        proxy.hold("poll")
        with pytest.raises(StoreUnavailableError):
            store.get(1)
        proxy.release()
        with calls_may_take(store, 60.0):
            assert handle.status() is BOOT
        assert verifications(proxy) == []


class TestInterrupted:
    """In blocking code: a signal handler raises while the main thread waits for a reply."""

    class Interrupted(BaseException):
        pass

    @pytest.fixture
    def interrupt(self):
        """Interrupts the main thread."""

        def handler(*_):
            raise self.Interrupted

        former = signal.signal(signal.SIGUSR1, handler)
        yield lambda: os.kill(os.getpid(), signal.SIGUSR1)
        signal.signal(signal.SIGUSR1, former)

    def test_others_are_not_unsettled(self, proxy, threads, interrupt):
        with StatusStore.from_url(proxy.url, deadline=pace.seconds(20)) as store:
            handle = store.open(1)
            handle.status(), store.get(2)
            proxy.commands.clear()
            proxy.hold("poll")

            def interrupt_once_sent():
                real.until(lambda: proxy.calls("poll"), "it is sent")
                interrupt()

            interrupted = threads.submit(interrupt_once_sent)
            with pytest.raises(self.Interrupted):
                store.get(2)
            interrupted.result()
            proxy.release()
            assert handle.status() is BOOT
            assert verifications(proxy) == []
