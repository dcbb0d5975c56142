"""A cluster of which one primary is dead: its shards fail, and no others, blocking and asyncio."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal

import pytest

from chaos.proxy import Proxy
from redis_kvpoll import KVPoll, StatusStore, StoreUnavailableError
from redis_kvpoll.engine import session
from redis_kvpoll.engine.effects import Send
from redis_kvpoll.protocol import keys
from redis_kvpoll.sync import fan_out
from tests.support import cluster as clusters
from tests.support import pace, real
from tests.support.calls import calls_may_take
from tests.support.internals import asked_last_for_slot_map, make_touch_due, queues_of, transport_of
from tests.support.leasing import ManualLease
from tests.support.wire import crowd, verifications

SHARDS = 8
OLD_MS = 300_000
"""The TTL of rooms that are to be touched: less than a new one, more than a slow machine needs for the test."""
DEAD = 1
"""The number of the node that dies; the URL names the node 0."""


@pytest.fixture
def cluster():
    """A cluster of this test's own, whose healthy nodes go on without the dead one."""
    cluster = clusters.Cluster()
    for client in cluster.clients:
        client.config_set("cluster-require-full-coverage", "no")
    yield cluster
    for client in cluster.clients:
        client.close()
    for node in cluster.nodes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(node.pid, signal.SIGCONT)
        node.stop()


@pytest.fixture
def proxies(cluster):
    """A proxy before each node, which the node announces in its place."""
    with contextlib.ExitStack() as stack:
        proxies = [stack.enter_context(Proxy(node.port)) for node in cluster.nodes]
        for client, proxy in zip(cluster.clients, proxies, strict=True):
            client.config_set("cluster-announce-port", proxy.port)
        ports = {proxy.port for proxy in proxies}
        real.until(lambda: all(announced(client) == ports for client in cluster.clients), "all announce their proxies")
        yield proxies


def announced(client):
    """The ports of the primaries that a node tells clients of."""
    return {slots[2][1] for slots in client.execute_command("CLUSTER SLOTS")}


def test_rooms_in_healthy_shards_are_touched(cluster, world):
    """Heartbeats fail because of the dead node, for its shards alone; when it is back, they touch its rooms, too."""
    world.share(*cluster.nodes)
    store = world.open(cluster.url, namespace="prod", shards=SHARDS, deadline=pace.seconds(0.3))
    tags = keys.tags("prod", SHARDS)
    of_tags = dict.fromkeys(tags, 0)
    with calls_may_take(store, 60.0):
        held = ManualLease(store, ttl=600.0).take()
        rooms = [(store.open(room).id, keys.tag("prod", SHARDS, room)) for room in range(64)]
    for room, tag in rooms:
        cluster.owner(tag).pexpire(*keys.rooms(tag, [room]), OLD_MS)
        of_tags[tag] += 1
    dead = next(client for client in cluster.clients if client is not cluster.owner(tags[0]))
    healthy = {tag: cluster.owner(tag) for tag in tags if cluster.owner(tag) is not dead}

    def touched(owners):
        """How many rooms of each shard have got a new TTL."""
        found = dict.fromkeys(owners, 0)
        for room, tag in rooms:
            if tag in owners:
                found[tag] += owners[tag].pttl(*keys.rooms(tag, [room])) > OLD_MS
        return found

    def touch_healthy():
        for room, tag in rooms:
            if tag in healthy:
                healthy[tag].pexpire(*keys.rooms(tag, [room]), OLD_MS)
        make_touch_due(held.keeper)
        for _ in range(SHARDS - len(healthy)):
            with pytest.raises(StoreUnavailableError):
                held.heartbeat()
        assert touched(healthy) == {tag: of_tags[tag] for tag in healthy}

    def touch_all():
        with contextlib.suppress(StoreUnavailableError):
            held.heartbeat()
        return touched(dict.fromkeys(tags, dead) | healthy) == of_tags

    with hanging(cluster.nodes[cluster.clients.index(dead)]):
        pace.undisturbed(touch_healthy)
    real.until(touch_all, "all were touched")
    assert not held.lost


@contextlib.contextmanager
def hanging(node):
    os.kill(node.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(node.pid, signal.SIGCONT)


@pytest.mark.parametrize("death", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "hanging"])
def test_calls_to_healthy_shards_succeed(side, cluster, proxies, death, monkeypatch):
    """Rooms of all nodes are held, under a lease, and other threads call the dead one all the time."""
    monkeypatch.setattr(session, "RESTORE_SECONDS", 1e9)  # heartbeats renew the settings as they verify them
    second = pace.seconds(1)
    store = side.open(
        f"redis+cluster://127.0.0.1:{proxies[0].port}", namespace="prod", shards=SHARDS, deadline=2 * second
    )
    with calls_may_take(store, 60.0):
        handles = [store.open(room) for room in range(64)]
    is_dead = [cluster.owner(keys.tag("prod", SHARDS, room)) is cluster.clients[DEAD] for room in range(64)]
    doomed = [handle for handle, dead in zip(handles, is_dead, strict=True) if dead]
    healthy = [handle for handle, dead in zip(handles, is_dead, strict=True) if not dead]
    others = [proxy for number, proxy in enumerate(proxies) if number != DEAD]

    def call_all():
        turns = itertools.cycle(healthy)
        found, *lost = crowd([lambda: next(turns).status(), *(handle.status for handle in doomed[:4])], 5 * second)
        assert found.errors == []
        assert found.calls > len(healthy)
        assert {type(error) for tally in lost for error in tally.errors} == {StoreUnavailableError}

    with store.lease("prefill-0", ttl=60 * second, heartbeat=0.5 * second):
        for proxy in proxies:
            proxy.delay = 0.01 * second
            proxy.commands.clear()
        os.kill(cluster.nodes[DEAD].pid, death)
        pace.undisturbed(call_all)
        for proxy in proxies:
            proxy.delay = 0.0
    assert [verifications(proxy) for proxy in others] == [[], []]


def test_hanging_node_holds_up_no_other_shard(cluster, threads, monkeypatch):
    """A call has timed out there, so the slot map is to be read anew. The next call names that node's rooms first."""
    monkeypatch.setattr(fan_out, "REPLY_GRACE", pace.seconds(2))
    with StatusStore.from_url(cluster.url, namespace="prod", shards=SHARDS, deadline=60.0) as store:
        tags = {room: keys.tag("prod", SHARDS, room) for room in range(64)}
        store.update_many(dict.fromkeys(tags, KVPoll.Bootstrapping))
        doomed = [room for room, tag in tags.items() if cluster.owner(tag) is cluster.clients[DEAD]]
        healthy = [room for room in tags if room not in doomed]
        transport = transport_of(store)
        in_flight = transport.begin(Send(tags[doomed[0]], ["PING"]))
        with hanging(cluster.nodes[DEAD]):
            transport.time_out(*in_flight)
            everywhere = threads.submit(store.poll, [*doomed, *healthy])
            held = {tags[room] for room in doomed}
            busy = lambda: {name for name, one in queues_of(store).items() if one.batch}  # noqa: E731
            real.until(lambda: everywhere.running() and busy() == held, "only the hanging node's shards are under way")
            assert store.poll(healthy) == [KVPoll.Bootstrapping] * len(healthy)
            assert not everywhere.done()
        assert everywhere.result(pace.seconds(60)) == [KVPoll.Bootstrapping] * len(tags)


def test_hanging_node_is_asked_last_for_the_slot_map(side, cluster):
    """Each failed call makes the slot map stale, and the node would take its share of the next call's time."""
    store = side.open(cluster.url, namespace="prod", shards=SHARDS, deadline=pace.seconds(0.5))
    rooms = range(64)
    with calls_may_take(store, 60.0):
        assert store.poll(rooms) == [None] * len(rooms)
    doomed = next(room for room in rooms if cluster.owner(keys.tag("prod", SHARDS, room)) is cluster.clients[DEAD])
    with hanging(cluster.nodes[DEAD]):
        with pytest.raises(StoreUnavailableError):
            store.get(doomed)
        assert [asked_last_for_slot_map(store) for _ in cluster.nodes] == [cluster.nodes[DEAD].port] * 3
