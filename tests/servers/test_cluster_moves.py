"""All nodes of a cluster get new addresses, behind a service name that stays."""

from __future__ import annotations

import pytest

from chaos.proxy import Proxy
from redis_kvpoll import AsyncStatusStore, KVPoll
from tests.support import cluster, real


@pytest.fixture(params=("sync", "async"))
def world(request):
    with real.World(request.param) as world:
        world.share(*cluster.shared().nodes)
        yield world


def client_of(world, port):
    kept = {"host": "127.0.0.1", "port": port, "dynamic_startup_nodes": False}
    return world.client(lambda: world.redis.RedisCluster(**kept))


@pytest.mark.parametrize("form", ["a URL", "a client"])
def test_store_finds_the_new_nodes_by_the_service_name(world, form):
    old, new = cluster.Cluster(), cluster.shared()
    with Proxy(old.nodes[0].port) as service:
        store = (
            world.over(client_of(world, service.port), deadline=60.0)
            if form == "a client"
            else world.open(f"redis+cluster://127.0.0.1:{service.port}", deadline=60.0)
        )
        room = store.open(1)
        assert room.status() is KVPoll.Bootstrapping
        service.target = new.nodes[0].port
        for client, node in zip(old.clients, old.nodes, strict=True):
            client.close()
            node.stop()
        service.cut()
        assert room.update(3).status is KVPoll.Transferring  # and it has been brought back
        store.clear(1)


def test_help_says_what_a_fork_must_not_do():
    assert "After ``fork``" in (AsyncStatusStore.__doc__ or "")
