"""kvpoll doctor on a cluster: it asks every node."""

from __future__ import annotations

import os
import signal
from functools import cache

import pytest

from redis_kvpoll import KVPoll, StatusStore
from redis_kvpoll.doctor import examination, sampling
from redis_kvpoll.doctor.findings import Level
from redis_kvpoll.protocol import keys
from tests.support import cluster as clusters
from tests.support import pace, real
from tests.support.examining import doctor_of, examine, raised


@cache
def cluster():
    """A cluster of this module's own, since its tests break it."""
    return clusters.Cluster()


@pytest.fixture
def nodes():
    found = cluster()
    for client in found.clients:
        client.config_set("maxmemory", 2**30)
    with StatusStore.from_url(found.url, shards=8) as store:
        store.update_many(dict.fromkeys(range(1, 50), KVPoll.Success))
    yield found
    for client in found.clients:
        client.flushall()


@pytest.fixture
def hasty(monkeypatch):
    """The examination waits only for a moment for what no node has."""
    monkeypatch.setattr(examination, "DEADLINE", pace.seconds(2))


def test_healthy_cluster_has_no_finding(nodes):
    found = examine(nodes.url)
    assert raised(found) == {"replicas"}
    assert found["replicas"].level is Level.NOTE
    assert found["reach"].found == "3 nodes answer"
    assert found["cluster"].found.startswith("3 nodes serve all slots")


def test_sample_is_of_all_nodes(nodes, monkeypatch):
    """Each node alone has enough keys for it."""
    with StatusStore.from_url(nodes.url, namespace="large", shards=8) as store:
        store.update_many(dict.fromkeys(range(1, 10_000), KVPoll.Success))
    monkeypatch.setattr(sampling, "SAMPLE", 1000)
    facts = doctor_of(nodes.url, "large").look()
    sample = facts.table.sample
    assert (sample.keys, facts.is_sampled) == (1000, True)
    assert len({nodes.owner(keys.tag("large", 8, room.room)) for room in sample.rooms}) == 3


def test_finding_names_its_node(nodes):
    nodes.clients[1].config_set("maxmemory-policy", "allkeys-lru")
    found = examine(nodes.url)["eviction"]
    nodes.clients[1].config_set("maxmemory-policy", "noeviction")
    assert found.level is Level.PROBLEM
    assert found.found.startswith(f"127.0.0.1:{nodes.nodes[1].port}: maxmemory-policy is allkeys-lru")


def test_url_of_a_single_server_is_a_problem(nodes):
    found = examine(nodes.nodes[0].tcp)["cluster"]
    assert (found.level, found.wanted) == (Level.PROBLEM, "redis+cluster://")


def test_whole_table_on_one_node_is_a_note(nodes):
    with StatusStore.from_url(nodes.url, namespace="small") as store:
        store.update_status(1, 1)
    assert examine(nodes.url, "small")["cluster"].level is Level.NOTE


@pytest.mark.usefixtures("hasty")
def test_slots_without_a_node_are_a_problem(nodes):
    slots = list(range(100, 110))
    nodes.clients[0].execute_command("CLUSTER", "DELSLOTS", *slots)
    try:
        found = examine(nodes.url)["cluster"]
    finally:
        nodes.clients[0].execute_command("CLUSTER", "ADDSLOTS", *slots)
        real.until(lambda: all(map(is_whole, nodes.clients)), "it is whole")
    assert (found.level, found.found) == (Level.PROBLEM, "10 of 16,384 slots have no node")


def is_whole(client):
    return client.execute_command("CLUSTER INFO")["cluster_state"] == "ok"


@pytest.mark.usefixtures("hasty")
def test_keys_on_two_nodes_are_a_warning(nodes):
    tag = keys.tag("default", 8, 1)
    nodes.start_moving(tag)
    try:
        nodes.move_key(keys.rooms(tag, [1])[0])
        found = examine(nodes.url)["cluster"]
    finally:
        nodes.finish_moving(tag)
    assert (found.level, found.wanted) == (Level.WARNING, "each shard on one node")


@pytest.mark.usefixtures("hasty")
def test_node_that_hangs_is_a_problem(nodes, monkeypatch):
    """The namespace's settings are on another node, so that nothing else waits for this one."""
    monkeypatch.setattr("redis_kvpoll.doctor.node_look.REACH_SECONDS", 1.0)
    namespace = next(name for name in map(str, range(99)) if nodes.owner(name) is nodes.clients[0])
    os.kill(nodes.nodes[2].pid, signal.SIGSTOP)
    try:
        found = examine(nodes.url, namespace)
    finally:
        os.kill(nodes.nodes[2].pid, signal.SIGCONT)
        # Two node timeouts, if the others have found it failed.
        real.until(lambda: all(map(is_whole, nodes.clients)), "it is whole", 200)
    assert found["reach"].level is Level.PROBLEM
    assert f"127.0.0.1:{nodes.nodes[2].port} gives no answer" in found["reach"].found
