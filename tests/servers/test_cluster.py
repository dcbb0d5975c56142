"""A namespace spread over shards: on a real cluster, and on one server."""

from __future__ import annotations

import asyncio
import threading
from contextlib import ExitStack
from queue import SimpleQueue

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from redis_kvpoll import AsyncStatusStore, KVPoll, Outcome, ServerRefusedError, StatusStore
from redis_kvpoll.engine.effects import Send
from redis_kvpoll.protocol.feed_reader import Tail
from redis_kvpoll.protocol.keys import tag, tags
from redis_kvpoll.transport.slot_map import SlotMap
from tests.support import real
from tests.support.cluster import meet, node
from tests.support.feeds import a_round
from tests.support.internals import idle_connections_in, pool_at, transport_of

SHARDS = 8
ROOMS = range(400)


class TestShardOfRoom:
    """The shard must be the same in every process and version, or a room would not be found again."""

    def test_shard_of_room_never_changes(self):
        rooms = (0, 1, 2, 7, 42, 2**31, 1655955501905217457, 2**63 - 1)
        assert [tag("prod", 8, room) for room in rooms] == [f"prod/{shard}" for shard in (1, 7, 5, 2, 0, 1, 3, 6)]
        assert [tag("prod", 3, room) for room in rooms] == [f"prod/{shard}" for shard in (2, 2, 1, 0, 2, 0, 2, 1)]
        assert tag("prod", 1024, 123456789) == f"prod/{0xCBF43926 % 1024}"  # the check value of CRC-32
        assert {tag("prod", 1, room) for room in rooms} == {"prod"}

    @pytest.mark.parametrize("stride", [1, 8, 1000, 2**40])
    def test_shards_are_even_for_strided_rooms(self, stride):
        """SGLang routes by room % dp_size, so the rooms of one worker share it."""
        found = [tag("prod", 8, number * stride) for number in range(8000)]
        assert set(found) == set(tags("prod", 8))
        assert max(found.count(name) for name in tags("prod", 8)) < 2 * 8000 / 8


class TestShardsOnOneServer:
    def test_each_room_has_its_tag_and_is_listed_once(self, make_store, client):
        store = make_store(namespace="prod", shards=SHARDS)
        store.update_many(dict.fromkeys(ROOMS, KVPoll.Transferring))
        names = set(client.scan_iter("*:room:*"))
        assert names == {f"kvpoll:{{{tag('prod', SHARDS, room)}}}:room:{room}" for room in ROOMS}
        assert sorted(store.rooms()) == list(ROOMS)
        assert store.counts()[KVPoll.Transferring] == len(ROOMS)

    def test_similar_namespace_names_are_separate(self, make_store):
        stores = [make_store(namespace="prod", shards=SHARDS), make_store(namespace="prod.x", shards=SHARDS)]
        stores.append(make_store(namespace="pro"))
        for room, store in enumerate(stores):
            store.update_status(room, 1)
        assert [list(store.rooms()) for store in stores] == [[0], [1], [2]]


@pytest.fixture(params=("sync", "async"))
def world(request, cluster):
    with real.World(request.param) as world:
        world.share(*cluster.nodes)
        yield world


@pytest.fixture
def store(world, cluster):
    return world.open(cluster.url, namespace="prod", shards=SHARDS, deadline=60.0)


def test_connection_to_a_node_found_after_close_is_not_kept(cluster):
    """As of a call that was under way at ``close``, and is then redirected to a node that the store has not used."""
    port = cluster.nodes[1].port
    time = Send("prod", ["TIME"])
    store = StatusStore.from_url(cluster.url, namespace="prod")
    store.close()
    pool = pool_at(store, port)
    pool.call(time)
    assert not idle_connections_in(pool)

    async def asyncio_too():
        store = AsyncStatusStore.from_url(cluster.url, namespace="prod")
        await store.aclose()
        pool = pool_at(store, port)
        await pool.call(time)
        assert not idle_connections_in(pool)

    asyncio.run(asyncio_too())


def test_read_of_a_clone_is_cut(cluster):
    """A follower's thread that waits for a change ends at once when its mirror is closed."""
    with StatusStore.from_url(cluster.url, namespace="prod", shards=SHARDS, deadline=60.0) as store:
        clone, answers = transport_of(store).clone().clone(), SimpleQueue()
        of_shard = tags("prod", SHARDS)[0]

        def read():
            try:
                clone.perform(
                    Send(of_shard, ["XREAD", "BLOCK", "50000", "STREAMS", f"kvpoll:{{{of_shard}}}:feed", "$"])
                )
            except RedisError as error:
                answers.put(error)

        thread = threading.Thread(target=read)
        thread.start()
        owner = cluster.owner(of_shard)
        real.until(lambda: owner.info("clients")["blocked_clients"], "it waits")
        clone.cut()
        assert isinstance(answers.get(timeout=40), RedisConnectionError)
        thread.join()


class TestSpread:
    def test_rooms_are_on_all_nodes(self, store, cluster):
        updates = store.update_many(dict.fromkeys(ROOMS, KVPoll.Bootstrapping))
        assert list(updates) == list(ROOMS)
        assert {update.outcome for update in updates.values()} == {Outcome.CREATED}
        for client in cluster.clients:
            assert len(list(client.scan_iter("kvpoll:*:room:*"))) > len(ROOMS) / 20

    def test_batches_keep_their_order(self, store):
        store.update_many({room: KVPoll(1 + room % 4) for room in ROOMS})
        backwards = [*reversed(ROOMS), 10**6, 0]
        expected = [KVPoll(1 + room % 4) for room in reversed(ROOMS)]
        assert store.poll(backwards) == [*expected, None, KVPoll.Bootstrapping]
        assert store.touch(ROOMS) == len(ROOMS) * 3 / 4
        cleared = store.clear_many(ROOMS)
        assert list(cleared.items()) == [(room, KVPoll(1 + room % 4)) for room in ROOMS]

    def test_rooms_and_counts_list_each_room_once(self, store):
        store.update_many({room: KVPoll(1 + room % 2) for room in ROOMS})
        found = list(store.rooms())
        assert (len(found), set(found)) == (len(ROOMS), set(ROOMS))
        assert sorted(store.rooms(KVPoll.WaitingForInput)) == list(ROOMS)[1::2]
        assert store.counts()[KVPoll.Bootstrapping] == len(ROOMS) / 2

    def test_every_operation_works_on_every_shard(self, store):
        for room in range(SHARDS * 3):
            assert store.update_status(room, 1).outcome is Outcome.CREATED
            store.set_decode_prefix_len(room, 7)
            assert store.record_failure(room, "why") is True
            assert store.abort(room).outcome is Outcome.FAILED
            assert store.entry(room).reason == "why"
            assert store.pop_decode_prefix_len(room) == 7
            assert store.clear(room) is KVPoll.Failed

    def test_tail_and_history_read_all_shards(self, store):
        store.update_many(dict.fromkeys(ROOMS, 1))
        store.update_many(dict.fromkeys(ROOMS, 2))
        found = a_round(store, Tail(10**6))
        assert len(found) == 2 * len(ROOMS)
        assert {change.room: change.status for change in found} == dict.fromkeys(ROOMS, KVPoll.WaitingForInput)
        assert [change.status for change in store.history(7)] == [KVPoll.Bootstrapping, KVPoll.WaitingForInput]

    def test_script_flush_on_one_node_costs_nothing(self, store, cluster):
        store.update_many(dict.fromkeys(ROOMS, 1))
        cluster.clients[1].script_flush()
        assert store.poll(ROOMS) == [KVPoll.Bootstrapping] * len(ROOMS)
        for room in ROOMS[:20]:
            cluster.clients[2].script_flush()
            assert store.clear(room) is KVPoll.Bootstrapping


class TestNodeDiscovery:
    def test_one_reachable_node_is_enough(self, world, cluster):
        dead = real.free_port()
        url = f"redis+cluster://127.0.0.1:{dead},127.0.0.1:{cluster.nodes[2].port},127.0.0.1:{dead + 1}"
        world.open(url, namespace="prod", shards=SHARDS).update_many(dict.fromkeys(ROOMS, 1))

    def test_plain_client_error_names_cluster_url(self, world, cluster):
        with_one_node = [world.open(node.tcp, namespace="prod", deadline=60.0) for node in cluster.nodes]
        owner = cluster.owner("prod")
        for store, client in zip(with_one_node, cluster.clients, strict=True):
            if client is owner:
                store.update_status(1, 1)
            else:
                with pytest.raises(ServerRefusedError, match=r"room 1: the server refused: MOVED .*redis\+cluster://"):
                    store.update_status(1, 1)

    def test_server_without_cluster_is_refused(self, world):
        store = world.open(world.shared().tcp.replace("redis:", "redis+cluster:"), deadline=60.0)
        with pytest.raises(ServerRefusedError, match="cluster support disabled"):
            store.update_status(1, 1)

    def test_closed_connections_to_nodes_cost_no_error(self, world, cluster):
        store = world.open(cluster.url, namespace="prod", shards=SHARDS, deadline=60.0)
        store.update_many(dict.fromkeys(ROOMS, 1))
        for client in cluster.clients:
            client.client_kill_filter(_type="normal", skipme=True)
        assert store.clear(1) is KVPoll.Bootstrapping
        for client in cluster.clients:
            client.client_kill_filter(_type="normal", skipme=True)
        assert store.poll(ROOMS).count(None) == 1


def test_asyncio_store_works_in_successive_event_loops(cluster):
    store = AsyncStatusStore.from_url(cluster.url, namespace="prod", shards=SHARDS)

    async def work(room):
        try:
            return (await store.update_status(room, 1)).outcome
        finally:
            await transport_of(store).close()

    assert [asyncio.run(work(room)) for room in ROOMS[:3]] == [Outcome.CREATED] * 3
    with StatusStore.from_url(cluster.url, namespace="prod") as other:
        assert len(other.clear_many(ROOMS[:3])) == 3
    for client in cluster.clients:
        client.flushall()


def test_thousand_first_calls_read_slot_map_once(cluster, monkeypatch):
    reads = []
    learn = SlotMap.learn
    monkeypatch.setattr(SlotMap, "learn", lambda *args: reads.append(1) or learn(*args))

    async def work():
        async with AsyncStatusStore.from_url(cluster.url, namespace="prod", shards=SHARDS, deadline=60.0) as store:
            return await asyncio.gather(*(store.update_status(room, 1) for room in range(1000)))

    assert {update.outcome for update in asyncio.run(work())} == {Outcome.CREATED}
    assert len(reads) == 1
    for client in cluster.clients:
        client.flushall()


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_replica_takes_over_from_dead_primary(kind):
    """The URL names only the primary; the store learned of the replica from it."""
    with ExitStack() as stack:
        world, primary, replica = (stack.enter_context(made) for made in (real.World(kind), node(), node()))
        client, other = (stack.enter_context(server.client(decode_responses=True)) for server in (primary, replica))
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        meet(client, replica)
        name = client.execute_command("CLUSTER MYID")
        real.until(lambda: name in str(other.execute_command("CLUSTER NODES")), "the replica knows the primary")
        other.execute_command("CLUSTER", "REPLICATE", name)
        real.until(lambda: len(client.execute_command("CLUSTER SLOTS")[0]) == 4, "the replica is announced")
        real.until(lambda: client.execute_command("CLUSTER INFO")["cluster_state"] == "ok", "all is well")
        store = world.open(f"redis+cluster://127.0.0.1:{primary.port}", shards=SHARDS, deadline=60.0)
        store.update_many(dict.fromkeys(ROOMS, 1))
        real.replicate(client)
        primary.stop()
        other.execute_command("CLUSTER", "FAILOVER", "TAKEOVER")
        assert store.clear(1) is KVPoll.Bootstrapping
        assert store.poll(ROOMS).count(None) == 1
