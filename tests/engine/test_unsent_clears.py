"""A clear keeps its room from a recovery only if it was sent: one that was not has cleared nothing."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from redis_kvpoll import AsyncStatusStore, KVPoll, Outcome, StoreUnavailableError, Update
from redis_kvpoll.aio.rank_group import AsyncRankGroup
from redis_kvpoll.engine.batching import Batch
from redis_kvpoll.engine.retry import Attempts, CallFailed
from redis_kvpoll.protocol.keys import feed
from redis_kvpoll.protocol.rank_commands import RankChange
from tests.support import pace, real
from tests.support.calls import calls_may_take, until
from tests.support.internals import queue_of
from tests.support.servers import rooms_on_server

BOOT, MOVE = KVPoll.Bootstrapping, KVPoll.Transferring
A, B = 1, 2
RANKS = pytest.mark.parametrize("ranks", [{}, {"rank": 0, "world_size": 2}], ids=["plain", "rank"])


@pytest.fixture
def servers():
    with real.World("sync") as world:
        yield world


@pytest.fixture
def server(servers):
    return servers.shared()


@pytest.fixture
def client(server):
    with server.client(decode_responses=True) as client:
        yield client


def opened(store):
    """A handle of room A, whose calls find their scripts on the server."""
    room, other = store.open(A), store.open(B)
    room.update(BOOT), other.clear(), store.touch([B])
    return room


@contextlib.contextmanager
def queue_in_use(store, proxy, threads):
    """Another call has the queue of the shard, and no reply."""
    before = proxy.calls("touch")
    proxy.hold("touch")
    in_flight = threads.submit(store.touch, [B])
    real.until(lambda: proxy.calls("touch") > before, "it is sent")
    yield
    proxy.release()
    in_flight.result(60)


def fails(store, call):
    with calls_may_take(store, pace.seconds(0.2)), pytest.raises(StoreUnavailableError):
        call()


def lose_connections(store, proxy):
    """The next call of the store has to open one, and finds nobody until ``proxy.refusing`` ends."""
    proxy.refusing = True
    proxy.cut()
    fails(store, lambda: store.touch([B]))


@contextlib.contextmanager
def moved(store, proxy, servers):
    """The next call opens a connection, and finds an empty server. Returns a client of that."""
    lose_connections(store, proxy)
    empty = servers.serve()
    proxy.target, proxy.refusing = str(empty.socket), False
    with empty.client(decode_responses=True) as client:
        yield client
        proxy.cut()


class TestNeverSent:
    @RANKS
    def test_clear_that_fails_in_the_queue(self, side, proxy, client, threads, ranks):
        store = side.open(proxy.url, deadline=60.0, **ranks)
        room = opened(store)
        before = proxy.calls("clear")
        with queue_in_use(store, proxy, threads):
            fails(store, room.clear)
        assert proxy.calls("clear") == before
        assert room.update(MOVE) == Update(Outcome.ADVANCED, MOVE)
        client.flushall()
        assert room.status() is MOVE

    @RANKS
    def test_clear_without_a_connection(self, side, proxy, client, ranks):
        store = side.open(proxy.url, deadline=60.0, **ranks)
        room = opened(store)
        lose_connections(store, proxy)
        fails(store, room.clear)
        fails(store, lambda: store.clear_many([A, B]))
        proxy.refusing = False
        client.flushall()
        assert room.status() is BOOT

    async def test_clear_that_is_cancelled_in_the_queue(self, proxy, client):
        async with AsyncStatusStore.from_url(proxy.url, deadline=60.0) as store:
            room = await store.open(A)
            await room.status()
            proxy.hold("poll")
            before = proxy.calls("poll")
            reading = asyncio.create_task(store.poll([B]))
            await until(lambda: proxy.calls("poll") > before, "it is sent")
            clearing = asyncio.create_task(room.clear())
            await asyncio.sleep(0)
            clearing.cancel()
            await asyncio.wait([clearing])
            proxy.release()
            await reading
            assert proxy.calls("clear") == 0
            client.flushall()
            assert await room.status() is BOOT

    async def test_clear_that_leaves_its_batch(self, proxy, client):
        """What is sent of the batch then is the clear of another."""
        async with AsyncStatusStore.from_url(proxy.url, deadline=60.0) as store:
            room, other = await store.open(A), await store.open(B)
            proxy.refusing = True
            proxy.cut()
            with calls_may_take(store, pace.seconds(0.2)), pytest.raises(StoreUnavailableError):
                await store.touch([B])
            clearing = [asyncio.create_task(one.clear()) for one in (room, other)]
            await until(lambda: isinstance(queue_of(store).batch, Batch), "both are in it")
            clearing[0].cancel()
            await asyncio.wait(clearing[:1])
            tries = proxy.connections
            await until(lambda: proxy.connections > tries + 1, "a try without it")
            proxy.refusing = False
            assert await clearing[1] == Update(Outcome.CLEARED, BOOT)
            client.flushall()
            assert await room.status() is BOOT

    async def test_clear_of_a_group(self, proxy, client):
        async with AsyncStatusStore.from_url(proxy.url, deadline=60.0) as store, AsyncRankGroup(store) as group:
            one = await group.join(0, 1)
            generation = (await group.open(A, "rid", BOOT, one)).generation
            await store.poll([B])
            proxy.hold("poll")
            before = proxy.calls("poll")
            reading = asyncio.create_task(store.poll([B]))
            await until(lambda: proxy.calls("poll") > before, "it is sent")
            with calls_may_take(store, pace.seconds(0.2)), pytest.raises(StoreUnavailableError):
                await group.write([RankChange(A, one, generation, clears=True)])
            proxy.release()
            await reading
            client.flushall()
            assert await group.write([RankChange(A, one, generation, MOVE)]) == [Update(Outcome.ADVANCED, MOVE)]


class TestSent:
    @RANKS
    def test_room_stays_away_without_a_reply(self, side, proxy, client, ranks):
        store = side.open(proxy.url, deadline=60.0, **ranks)
        room = opened(store)
        proxy.refusing = True
        proxy.lose_next_reply("clear")
        fails(store, room.clear)
        proxy.refusing = False
        client.flushall()
        assert store.open(B).status() is BOOT
        assert rooms_on_server(client) == {B: "Bootstrapping"}


class TestDuringRecovery:
    """The clear opens a connection, and finds another server, without data. The recovery comes before it."""

    @pytest.fixture
    def held(self, side, proxy, servers, request):
        """A store and its handle of room A, after the loss, and a client of the new server."""
        store = side.open(proxy.url, deadline=60.0, **request.param)
        room = opened(store)
        room.update(MOVE)
        with moved(store, proxy, servers) as client:
            yield store, room, client

    AS = pytest.mark.parametrize("held", [{}, {"rank": 0, "world_size": 2}], ids=["plain", "rank"], indirect=True)

    @AS
    def test_room_is_not_there_for_a_moment(self, held):
        """Mirrors would see it."""
        store, room, client = held
        assert room.clear() == Update(Outcome.STALE, None)
        assert store.open(B).status() is BOOT
        told = {name for _, fields in client.xrange(feed("default")) for name in fields}
        assert str(B) in told
        assert str(A) not in told

    @AS
    @pytest.mark.parametrize("script", ["replay", "clear"])
    def test_clear_that_fails_meanwhile(self, held, monkeypatch, script):
        """The next call brings the room back, however late it comes: it awaits no other creator."""
        _, room, _ = held
        monkeypatch.setattr("redis_kvpoll.engine.recovery.tracked_rooms.CREATOR_TIMEOUT", 0.0)
        send = Attempts.send

        def out_of_time(attempts, effect, repeatable=True, sent=None, error=None, *arguments):
            if sent is not None and sent.name == script and error is None:  # else its first attempt has found the loss
                raise CallFailed(StoreUnavailableError, "no time left")
            return (yield from send(attempts, effect, repeatable, sent, error, *arguments))

        with monkeypatch.context() as patch:
            patch.setattr(Attempts, "send", out_of_time)
            with pytest.raises(StoreUnavailableError):
                room.clear()
        assert room.update(KVPoll.Success) == Update(Outcome.ADVANCED, KVPoll.Success)

    def test_clear_of_a_former_generation(self, side, proxy, servers, monkeypatch):
        """It holds back nothing."""
        monkeypatch.setattr("redis_kvpoll.engine.executor.CREATOR_POLL_INTERVAL", 60.0)  # no call waits for the creator
        store = side.open(proxy.url, deadline=60.0)
        old = opened(store)
        old.fail("why")
        store.open(A, request="new")
        with moved(store, proxy, servers) as client:
            assert old.clear().outcome is Outcome.STALE
            assert rooms_on_server(client) == {A: "Bootstrapping"}
