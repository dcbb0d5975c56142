"""Stores over clients that the user made: each kind works, and stays as it was."""

from __future__ import annotations

import asyncio
import copy
import os
import subprocess
import sys
import textwrap
import threading

import fakeredis
import pytest
import redis
import redis.asyncio
from redis.backoff import ConstantBackoff
from redis.cluster import LoadBalancingStrategy
from redis.retry import Retry

from redis_kvpoll import (
    AsyncStatusStore,
    InvalidInputError,
    KVPoll,
    Outcome,
    StatusStore,
    StoreClosedError,
    StoreUnavailableError,
)
from tests import cluster, real
from tests.proxy import Proxy


@pytest.fixture(params=("sync", "async"))
def world(request):
    with real.World(request.param) as world:
        yield world


@pytest.fixture
def server(world):
    return world.shared()


def use(store):
    """Every kind of reply there is."""
    assert store.update_status(1, 1).outcome is Outcome.CREATED
    assert store.update_many({1: 3, 2: 1})[1].outcome is Outcome.ADVANCED
    store.set_decode_prefix_len(1, 7)
    assert store.poll([1, 2, 3]) == [KVPoll.Transferring, KVPoll.Bootstrapping, None]
    assert store.abort(1, "naïve ☃").outcome is Outcome.FAILED
    entry = store.entry(1)
    assert (entry.reason, entry.decode_prefix_len) == ("naïve ☃", 7)
    assert sorted(store.rooms()) == [1, 2]
    assert store.settings().policy == "compat"
    assert store.pop_decode_prefix_len(1) == 7
    assert store.clear_many([1, 2]) == {1: KVPoll.Failed, 2: KVPoll.Bootstrapping}


OPTIONS = {
    "plain": {},
    "decoding": {"decode_responses": True},
    "another encoding": {"decode_responses": True, "encoding": "utf-16"},
    "RESP2": {"protocol": 2},
    "RESP3": {"protocol": 3},
    "RESP2, decoding": {"protocol": 2, "decode_responses": True},
    "RESP3, decoding": {"protocol": 3, "decode_responses": True},
    "one connection": {"single_connection_client": True},
    "a name and a health check": {"client_name": "mine", "health_check_interval": 1},
    "retries": {"retry": Retry(ConstantBackoff(0), 7), "retry_on_error": [ValueError]},
    "another database": {"db": 5},
    "no time limit": {"socket_timeout": None, "socket_connect_timeout": None},
    "a tiny pool": {"max_connections": 1},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_every_kind_of_client_works(world, server, name):
    client = world.client(lambda: world.redis.Redis(port=server.port, **OPTIONS[name]))
    use(world.over(client))


def test_a_blocking_pool_that_is_used_up(world, server):
    """The store's connections are its own."""
    module = world.redis
    pool = module.BlockingConnectionPool(host="127.0.0.1", port=server.port, max_connections=1, timeout=1)
    client = world.client(lambda: module.Redis(connection_pool=pool))
    taken = world.finish(pool.get_connection())
    use(world.over(client))
    world.finish(pool.release(taken))
    world.finish(pool.disconnect())


@pytest.mark.parametrize("from_url", [False, True])
def test_a_cluster_client(world, from_url):
    nodes = cluster.shared()
    world.share(*nodes.nodes)
    maker, port = world.redis.RedisCluster, nodes.nodes[1].port
    client = world.client(
        lambda: maker.from_url(f"redis://127.0.0.1:{port}") if from_url else maker(host="127.0.0.1", port=port)
    )
    use(world.over(client, shards=8))
    world.finish(client.set("still", "mine", ex=60))


def test_a_cluster_client_with_its_own_names_for_nodes(world):
    nodes = cluster.shared()
    world.share(*nodes.nodes)
    asked = []

    def remap(address):
        asked.append(address)
        return ("localhost", address[1])

    first = nodes.nodes[0].port
    client = world.client(lambda: world.redis.RedisCluster(host="localhost", port=first, address_remap=remap))
    asked.clear()
    use(world.over(client, shards=8))
    assert {port for _, port in asked} == {node.port for node in nodes.nodes}


def test_a_cluster_client_that_reads_from_replicas(world):
    nodes = cluster.shared()
    world.share(*nodes.nodes)
    port = nodes.nodes[1].port
    options = {"host": "127.0.0.1", "port": port, "load_balancing_strategy": LoadBalancingStrategy.RANDOM_REPLICA}
    client = world.client(lambda: world.redis.RedisCluster(**options))
    use(world.over(client, shards=8))


def test_the_client_stays_as_it_was(world, server):
    """Its pool, its settings, its retries, and it is not closed."""
    retry = Retry(ConstantBackoff(0.1), 7)
    client = world.client(lambda: world.redis.Redis(port=server.port, retry=retry, decode_responses=True))
    world.finish(client.set("mine", "yes", ex=60))
    pool = client.connection_pool
    before = {key: copy.copy(value) for key, value in pool.connection_kwargs.items()}
    free = list(pool._available_connections)
    store = world.over(client)
    use(store)
    store.close()
    after = pool.connection_kwargs
    assert after.keys() == before.keys()
    assert {
        key for key in before if repr(before[key]) != repr(after[key]) and "object at" not in repr(after[key])
    } == set()
    assert after["retry"] is client.get_retry()
    assert retry.get_retries() == 7
    assert client.get_retry().get_retries() == 7
    assert list(pool._available_connections) == free
    assert all(connection.is_connected for connection in free)
    assert world.finish(client.get("mine")) == "yes"


@pytest.mark.parametrize(
    ("maker", "client"),
    [
        (StatusStore, lambda: redis.asyncio.Redis()),
        (AsyncStatusStore, lambda: redis.Redis()),
        (StatusStore, lambda: fakeredis.FakeAsyncRedis()),
        (AsyncStatusStore, lambda: fakeredis.FakeRedis()),
        (StatusStore, lambda: redis.asyncio.RedisCluster(host="127.0.0.1")),
        (StatusStore, lambda: "redis://localhost"),
        (AsyncStatusStore, lambda: None),
        (StatusStore, lambda: redis.ConnectionPool()),
    ],
)
def test_the_wrong_kind_of_client_is_refused(maker, client):
    with pytest.raises(InvalidInputError, match=rf"^{maker.__name__} takes a redis\.(asyncio\.)?Redis or .*, not "):
        maker(client())


class TestClosing:
    def test_a_closed_store_says_so(self, world, server):
        store = world.open(server.tcp)
        store.poll([1])
        for _ in range(2):
            store.close()
        for call in (lambda: store.update_status(1, 1), lambda: list(store.rooms()), store.counts, store.settings):
            with pytest.raises(StoreClosedError, match="make another"):
                call()

    def test_it_leaves_no_connection(self, world, server):
        with server.client() as client:
            before = len(client.client_list())
            store = world.open(server.tcp)
            store.update_status(1, 1)
            assert len(client.client_list()) == before + 1
            store.close()
            real.until(lambda: len(client.client_list()) == before, "the connection is closed")

    def test_an_unused_store_can_be_closed(self, world, server):
        world.open(server.tcp).close()


def test_many_threads_share_one_store(server_alone):
    """More than the connections that are kept; no reply goes to the wrong thread."""
    with StatusStore.from_url(server_alone.tcp) as store:
        wrong = []

        def work(first):
            for room in range(first, first + 50):
                store.update_status(room, 1 + room % 4)
                if store.get(room) is not KVPoll(1 + room % 4):
                    wrong.append(room)

        threads = [threading.Thread(target=work, args=[number * 1000]) for number in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong
        assert sum(store.counts().values()) == 40 * 50
        assert len(store._route._endpoint._idle) <= 16


@pytest.fixture
def server_alone():
    with real.World("sync") as world:
        yield world.shared()


def test_a_fork_may_use_its_parents_store(server_alone):
    """On connections of its own: else one process would read the other's replies."""
    with StatusStore.from_url(server_alone.tcp) as store:
        store.update_status(1, 1)
        child = os.fork()
        if not child:
            code = 1
            try:
                right = all(
                    store.update_status(room, 2).status == 2 and store.get(room) == 2 for room in range(100, 300)
                )
                code = 0 if right else 2
            finally:
                os._exit(code)
        for room in range(400, 600):
            assert store.update_status(room, 3).status is KVPoll.Transferring
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert store.poll([100, 299, 400]) == [2, 2, 3]
        assert len(store._route._endpoint._idle) == 1


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

    async def test_a_call_cancelled_while_it_waits_in_line_gives_its_place_back(self, server_alone):
        with Proxy(server_alone.socket) as proxy:
            async with AsyncStatusStore.from_url(proxy.url, deadline=60.0) as store:
                await store.poll([1])
                proxy.stalled = True
                tasks = [asyncio.create_task(store.poll([1])) for _ in range(40)]
                await asyncio.to_thread(real.until, lambda: proxy.connections == 16, "as many as may be")
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                proxy.stalled = False
                assert await asyncio.gather(*(store.poll([1]) for _ in range(40))) == [[None]] * 40

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
            assert len(store._route._endpoint._idle) <= 16

    async def test_waiting_in_line_counts_towards_the_deadline(self, server_alone):
        """Else the last of these would wait for every one before it to give up."""
        with Proxy(server_alone.socket) as proxy:
            async with AsyncStatusStore.from_url(proxy.url, deadline=0.5) as store:
                await store.poll([1])
                proxy.stalled = True
                calls = [store.poll([room]) for room in range(16 * 40)]
                async with asyncio.timeout(15):  # in turn it would be 20
                    answers = await asyncio.gather(*calls, return_exceptions=True)
                assert {type(answer) for answer in answers} == {StoreUnavailableError}

    def test_one_event_loop_after_another(self, server_alone):
        store = AsyncStatusStore.from_url(server_alone.tcp)

        async def work(room):
            try:
                return await store.update_status(room, 1)
            finally:
                await store._route.close()

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
            [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=60
        )
        assert (ran.stdout.split(), ran.stderr) == (["CREATED"] * 3, "")
