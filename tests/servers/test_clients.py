"""Stores over clients that the user made: each kind works, and is not changed."""

from __future__ import annotations

import copy
import os
import threading

import fakeredis
import pytest
import redis
import redis.asyncio
from redis.backoff import ConstantBackoff
from redis.cluster import LoadBalancingStrategy
from redis.retry import Retry

from chaos.proxy import Proxy
from redis_kvpoll import AsyncStatusStore, InvalidInputError, KVPoll, Outcome, StatusStore, StoreClosedError
from tests.support import cluster, real
from tests.support.internals import give_back_connection, idle_connections_of, take_connection


@pytest.fixture
def server(world):
    return world.shared()


def use_every_reply_type(store):
    """Use operations with every kind of reply."""
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


MINE = "kvpoll:{mine}:own"
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
    use_every_reply_type(world.over(client))


def test_exhausted_blocking_pool_is_not_used(world, server):
    """The store makes connections of its own."""
    module = world.redis
    pool = module.BlockingConnectionPool(host="127.0.0.1", port=server.port, max_connections=1, timeout=1)
    client = world.client(lambda: module.Redis(connection_pool=pool))
    taken = world.finish(pool.get_connection())
    use_every_reply_type(world.over(client))
    world.finish(pool.release(taken))
    world.finish(pool.disconnect())


def test_no_health_check_is_sent(world, server):
    """A health check would add commands; if one failed, a call that was not sent would count as lost."""
    with Proxy(server.socket) as proxy:
        client = world.client(lambda: world.redis.Redis(port=proxy.port, health_check_interval=1))
        use_every_reply_type(world.over(client))
        assert not {b"PING", b"CLIENT MAINT_NOTIFICATIONS"} & {command[0] for command in proxy.commands}


@pytest.mark.parametrize("from_url", [False, True])
def test_cluster_client_works(world, from_url):
    nodes = cluster.shared()
    world.share(*nodes.nodes)
    maker, port = world.redis.RedisCluster, nodes.nodes[1].port
    client = world.client(
        lambda: maker.from_url(f"redis://127.0.0.1:{port}") if from_url else maker(host="127.0.0.1", port=port)
    )
    use_every_reply_type(world.over(client, shards=8))
    assert world.finish(client.hget("kvpoll:{still}:mine", "")) is None


def test_cluster_client_with_address_remap_works(world):
    nodes = cluster.shared()
    world.share(*nodes.nodes)
    asked = []

    def remap(address):
        asked.append(address)
        return ("localhost", address[1])

    first = nodes.nodes[0].port
    client = world.client(lambda: world.redis.RedisCluster(host="localhost", port=first, address_remap=remap))
    asked.clear()
    use_every_reply_type(world.over(client, shards=8))
    assert {port for _, port in asked} == {node.port for node in nodes.nodes}


def test_cluster_client_that_reads_replicas_works(world):
    nodes = cluster.shared()
    world.share(*nodes.nodes)
    port = nodes.nodes[1].port
    options = {"host": "127.0.0.1", "port": port, "load_balancing_strategy": LoadBalancingStrategy.RANDOM_REPLICA}
    client = world.client(lambda: world.redis.RedisCluster(**options))
    use_every_reply_type(world.over(client, shards=8))


def test_client_stays_unchanged(world, server):
    """Its pool, settings and retries are unchanged, and it is not closed."""
    retry = Retry(ConstantBackoff(0.1), 7)
    client = world.client(lambda: world.redis.Redis(port=server.port, retry=retry, decode_responses=True))
    world.finish(client.hset(MINE, "mine", "yes"))
    world.finish(client.pexpire(MINE, 600_000))
    pool = client.connection_pool
    before = {key: copy.copy(value) for key, value in pool.connection_kwargs.items()}
    free = list(pool._available_connections)
    store = world.over(client)
    use_every_reply_type(store)
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
    assert world.finish(client.hget(MINE, "mine")) == "yes"


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
def test_wrong_kind_of_client_is_refused(maker, client):
    with pytest.raises(InvalidInputError, match=rf"^{maker.__name__} takes a redis\.(asyncio\.)?Redis or .*, not "):
        maker(client())


class TestClosing:
    def test_closed_store_raises(self, world, server):
        store = world.open(server.tcp)
        store.poll([1])
        for _ in range(2):
            store.close()
        for call in (lambda: store.update_status(1, 1), lambda: list(store.rooms()), store.counts, store.settings):
            with pytest.raises(StoreClosedError, match="make another"):
                call()

    def test_closed_store_leaves_no_connection(self, world, server):
        with server.client() as client:
            before = real.connections(client)
            store = world.open(server.tcp)
            store.update_status(1, 1)
            assert len(real.connections(client) - before) == 1
            store.close()
            real.until(lambda: not real.connections(client) - before, "the connection is closed")

    def test_unused_store_can_be_closed(self, world, server):
        world.open(server.tcp).close()


def test_many_threads_share_one_store(server_alone):
    """More threads than connections are kept; no reply goes to the wrong thread."""
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
        assert len(idle_connections_of(store)) <= 16


@pytest.fixture
def server_alone():
    with real.World("sync") as world:
        yield world.shared()


def test_forked_child_may_use_the_store(server_alone):
    """On connections of its own: otherwise one process would read the other's replies."""
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
        assert len(idle_connections_of(store)) == 1


def test_store_closed_during_calls_keeps_no_connection():
    store = StatusStore.from_url(real.shared().tcp)
    connections = [take_connection(store) for _ in range(3)]
    give_back_connection(store, connections[0])
    store.close()
    for connection in connections[1:]:
        give_back_connection(store, connection)
    assert not any(connection.is_connected for connection in connections)
