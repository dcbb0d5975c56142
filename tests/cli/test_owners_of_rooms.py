"""Whose rooms: owners, their ranks and processes, in ls, show, tail, owners and the commands for many rooms."""

from __future__ import annotations

import json
import os
import socket
import time

import pytest
from click.testing import CliRunner

from redis_kvpoll import KVPoll, StatusStore
from redis_kvpoll.cli import found, owner_rows
from redis_kvpoll.cli.app import kvpoll
from redis_kvpoll.cli.selection import Owners
from redis_kvpoll.doctor.replica import replica_in
from redis_kvpoll.model import Owner
from redis_kvpoll.protocol import keys
from redis_kvpoll.transport.urls import parse
from tests.support import real
from tests.support.leasing import ManualLease, begin_long_ago, pass_time, reap_lost

BOOT, MOVE, FAILED = KVPoll.Bootstrapping, KVPoll.Transferring, KVPoll.Failed


@pytest.fixture
def client(url, real_servers):
    client = real_servers.get("valkey").client(decode_responses=True)
    begin_long_ago(client, ["prod"])
    yield client
    client.close()


@pytest.fixture
def stores(url, client):
    """The stores of two ranks under leases, with room 1 of both."""
    stores = [StatusStore.from_url(url, namespace="prod", rank=rank, world_size=2) for rank in (0, 1)]
    with stores[0], stores[1]:
        for rank, store in enumerate(stores):
            ManualLease(store, f"pre-r{rank}").take()
            store.open(1, request="rid-1")
        yield stores


def listed(result):
    return [int(line.split("\t")[0]) for line in result.stdout.splitlines()[1:]]


def table(result):
    """[{column: cell}] of tab-separated lines."""
    header, *lines = (line.split("\t") for line in result.stdout.splitlines())
    return [dict(zip(header, line, strict=True)) for line in lines]


@pytest.mark.parametrize("owner", ["pre-r0", "pre-r1"])
def test_ls_by_owner_finds_rooms_of_every_rank(stores, run, owner):
    assert listed(run("ls", "--owner", owner)) == [1]
    assert listed(run("ls", "--owner", "nobody")) == []


def test_room_that_a_lost_rank_failed_is_listed_as_its(stores, run, client, url):
    with StatusStore.from_url(url, namespace="prod") as other:
        for store in stores:
            store.update_status(1, MOVE)
        lost = next(owner for owner in other.owners() if owner.name == "pre-r1")
        client.hset(keys.leases("prod"), f"lost {lost.incarnation}", "owner pre-r1 lost")
        assert reap_lost(other, {str(lost.incarnation): "owner pre-r1 lost"}) == 1
    assert listed(run("ls", "--owner", "pre-r1")) == [1]
    assert "pre-r1 rank 1" in run("show", "1").stdout


def test_abort_by_owner_ends_rooms_of_a_later_rank(stores, run):
    result = run("abort", "--owner", "pre-r1", "--reason", "drained", "--yes")
    assert result.stdout == "Failed 1 room of 1 that matched.\n"
    assert stores[0].failure_reason(1) == "Aborted by hand: drained"


def test_show_names_the_owner_of_each_rank(stores, run):
    shown = [line.split() for line in run("show", "1").stdout.splitlines()]
    assert ["rank", "0", "Bootstrapping", "pre-r0", "(alive)"] in shown
    assert ["rank", "1", "Bootstrapping", "pre-r1", "(alive)"] in shown
    assert json.loads(run("show", "1", "--json").stdout)["rank_owners"] == {
        "0": "pre-r0 (alive)",
        "1": "pre-r1 (alive)",
    }


def test_owners_have_their_rank_and_process(stores, run, url):
    with StatusStore.from_url(url, namespace="prod", rank=0, world_size=2) as store, store.lease("pre-r2"):
        store.open(2)
        found = {row["owner"]: row for row in table(run("owners"))}
    assert found["pre-r1"]["ranks"] == "1"
    assert found["pre-r2"]["process"] == f"{socket.gethostname()}:{os.getpid()}"


def test_process_of_a_lease_is_forgotten_with_it(url, client):
    with StatusStore.from_url(url, namespace="prod") as store:
        with store.lease("prefill-0"):
            assert any(name.startswith("by ") for name in client.hkeys("kvpoll:{prod}:leases"))
        assert not any(name.startswith("by ") for name in client.hkeys("kvpoll:{prod}:leases"))


def test_owners_say_when_one_was_lost(url, run, client):
    with StatusStore.from_url(url, namespace="prod") as store, StatusStore.from_url(url, namespace="prod") as other:
        ManualLease(store).take()
        store.open(1)
        pass_time(client, 10, ["prod"])
        other.reap()
        pass_time(client, 2, ["prod"])
        before = client.time()[0]
        assert other.reap() == 1
        row = table(run("owners"))[0]
        found = json.loads(run("owners", "--json").stdout)["owners"][0]
    assert (row["state"], row["failed"], row["lost at"] > row["lease since"]) == ("lost", "1", True)
    assert before - 1 <= found["lost_at"] <= client.time()[0] + 1


def test_lost_leases_of_one_name_are_one_row():
    lost = [
        Owner("dup-0", 1_000_000 * n, state="lost", reason="owner dup-0 lost (its name was taken again)")
        for n in range(1, 26)
    ]
    alive = Owner("dup-0", 99_000_000, 5.0, 0.5, time.time())
    found = owner_rows.fold([*lost, alive])
    assert [len(group) for group in found] == [25, 1]
    cells = dict(zip(owner_rows.COLUMNS, owner_rows.cells(found[0], time.time()), strict=True))
    assert (cells["state"], cells["reason"]) == ("lost 25 times", "its name was taken again")


def test_owner_is_told_by_the_end_that_it_caused(stores):
    found = Owners(stores[0], "pre-r1")
    assert (found.ended("owner pre-r1 lost"), found.ended("owner pre-r0 lost"), found.ended(None)) == (
        True,
        False,
        False,
    )


class TestReplica:
    @pytest.fixture
    def replica(self):
        """The URL of a replica of a server with room 1."""
        with real.World("sync") as world:
            primary = world.serve()
            with StatusStore.from_url(primary.tcp, namespace="prod") as store:
                store.update_status(1, BOOT)
            replica = world.serve("--replicaof", "127.0.0.1", str(primary.port))
            with replica.client() as eyes:
                real.until(lambda: eyes.exists("kvpoll:{prod}:room:1"), "copied")
            world.forget(replica)  # it cannot be emptied
            yield f"127.0.0.1:{primary.port}", replica.tcp

    @pytest.fixture
    def empty_replica(self):
        """The URL of a replica that was started while its primary was away."""
        with real.World("sync") as world:
            primary = f"127.0.0.1:{real.free_port()}"
            replica = world.serve("--replicaof", *primary.split(":"))
            world.forget(replica)
            yield primary, replica.tcp

    @pytest.mark.parametrize(
        "words",
        [
            *(("ls",), ("stats",), ("owners",), ("namespaces",), ("show", "1"), ("find", "rid"), ("history", "1")),
            *(("wait", "1", "Bootstrapping"), ("abort", "1", "--dry-run"), ("clear", "--older-than=0s", "--dry-run")),
        ],
        ids=lambda words: words[0],
    )
    def test_reader_is_told_of_a_replica(self, replica, words):
        primary, url = replica
        where = [] if words[0] == "namespaces" else ["-n", "prod"]
        result = CliRunner().invoke(kvpoll, [*words, "--redis", url, *where, "--json"])
        assert f"this server is a replica of {primary}" in result.stderr
        document = json.loads(result.stdout)["replica"]
        assert document is not None
        assert document["primary"] == primary

    @pytest.mark.parametrize(
        "words",
        [
            *(("ls",), ("stats",), ("owners",), ("show", "1"), ("find", "rid"), ("wait", "1")),
            *(("history", "1"), ("tail",), ("namespaces",)),
        ],
        ids=lambda words: words[0],
    )
    def test_reader_of_a_replica_without_data_is_told(self, empty_replica, words):
        """Else it reads only that nothing is there, and looks for who has deleted it."""
        primary, url = empty_replica
        where = ["--redis", url] if words[0] == "namespaces" else ["--redis", url, "-n", "prod"]
        result = CliRunner().invoke(kvpoll, [*words, *where])
        assert result.exit_code == 1
        assert result.stderr.startswith(f"this server is a replica of {primary}: it has ")
        assert "no namespace of kvpoll's" in result.stderr or "not found" in result.stderr

    @pytest.mark.parametrize("words", [("clear", "1"), ("abort", "1"), ("reap",)])
    def test_writer_to_a_replica_without_data_is_told(self, empty_replica, words):
        primary, url = empty_replica
        result = CliRunner().invoke(kvpoll, [*words, "--redis", url, "-n", "prod"])
        assert result.exit_code == 1
        assert result.stderr.startswith(f"Error: {words[0]}: this server is a replica of {primary}")

    @pytest.mark.parametrize(
        "words", [("clear", "1"), ("abort", "1"), ("reap",), ("clear", "--older-than=0s", "--yes")]
    )
    def test_command_that_writes_names_the_primary(self, replica, words):
        primary, url = replica
        result = CliRunner().invoke(kvpoll, [*words, "--redis", url, "-n", "prod"])
        assert (result.exit_code, result.stderr.partition(":")[0]) == (1, "Error")
        assert f"{words[0]}: this server is a replica of {primary}" in result.stderr
        assert f"--redis redis://{primary}" in result.stderr

    def test_advice_keeps_the_rest_of_the_url(self, replica):
        primary, url = replica
        given = url.replace("://", "://default:secret@") + "/0?client_name=ops"
        result = CliRunner().invoke(kvpoll, ["reap", "--redis", given, "-n", "prod"])
        assert f"--redis redis://***@{primary}/0?client_name=ops\n" in result.stderr
        assert "secret" not in result.output

    @pytest.mark.parametrize(
        ("url", "expected"),
        [
            ("rediss://ops:secret@replica:6380/2", "rediss://***@[::1]:6379/2"),
            ("redis://[::2]:6380?db=2", "redis://[::1]:6379?db=2"),
            ("redis://replica", "redis://[::1]:6379"),
            ("unix:///run/redis.sock?db=2", "redis://[::1]:6379/2"),
        ],
    )
    def test_url_of_the_primary_is_valid(self, url, expected):
        link = replica_in({"role": "slave", "master_host": "::1", "master_port": "6379", "master_link_status": "up"})
        assert found.url_of_primary(url, link.primary) == expected
        assert parse(expected).hosts == (("::1", 6379),)
