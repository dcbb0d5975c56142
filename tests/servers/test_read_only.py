"""A store with read_only=True writes nothing: on a replica, on a server that refuses writes, for a reader."""

from __future__ import annotations

import contextlib
import json
import shlex
import signal
import subprocess
import sys

import pytest
from click.testing import CliRunner

from chaos.proxy import Proxy
from redis_kvpoll import InvalidInputError, KVPoll, Outcome, ReadOnlyStoreError, RoomNotFoundError, StatusStore
from redis_kvpoll.cli.app import kvpoll
from redis_kvpoll.protocol import acl, scripts
from tests.support import real
from tests.support.calls import DESTROYING, REPEATED
from tests.support.leasing import ManualLease
from tests.support.servers import KINDS

REAL = [kind for kind in KINDS if kind != "fakeredis"]
OBSTACLES = ("replica", "cannot save", "too few replicas", "full", "reader", "reader of one namespace")
WRITING = {
    **{name: call for name, (script, call, _) in REPEATED.items() if script not in ("poll", "entry")},
    **{name: call for name, (_, call, _) in DESTROYING.items() if name != "failure_exception"},
    "failure_exception": lambda store: store.failure_exception(1),
    "open": lambda store: store.open(1),
    "reap": lambda store: store.reap(),
}


@contextlib.contextmanager
def obstacle(server, name, folder):
    """A reason for which a server refuses writes; yields the user and the password of a URL."""
    with server.client() as client:
        if name == "replica":
            client.replicaof("127.0.0.1", real.free_port())
        elif name == "cannot save":
            folder.rmdir()
            client.config_set("save", "1000000 1000000")
            client.bgsave()
            real.until(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err", "saving fails")
        elif name == "too few replicas":
            client.config_set("min-replicas-to-write", 1)
        elif name == "full":
            client.config_set("maxmemory", 1)
        else:
            options = ["-n", "prod"] if name == "reader of one namespace" else []
            line = CliRunner().invoke(kvpoll, ["acl", "--read-only", "--user", "eyes", *options]).stdout
            client.execute_command(*shlex.split(line.replace("PASSWORD", "pa55")))
        try:
            yield "eyes:pa55@" if name.startswith("reader") else ""
        finally:
            accept_writes(client)


def accept_writes(client):
    client.replicaof("NO", "ONE")
    client.config_set("save", "")
    client.config_set("min-replicas-to-write", 0)
    client.config_set("maxmemory", 0)
    client.acl_deluser("eyes")


@pytest.fixture
def table(world, request, tmp_path):
    """(a server, its keys): with rooms 1, 2 and 3, and an owner, in namespace prod."""
    folder = tmp_path / "data"
    folder.mkdir()
    server = world.serve("--dir", str(folder), kind=request.param)
    with StatusStore.from_url(server.tcp, namespace="prod", shards=3) as writer:
        writer.update_many({1: KVPoll.Bootstrapping, 2: KVPoll.Success})
        writer.abort(3, "peer gone") if writer.update_status(3, 1) else None
        writer.set_decode_prefix_len(1, 7)
        held = ManualLease(writer).take()
        with server.client() as client:
            client.persist("kvpoll:{prod}:settings")
            client.pexpire("kvpoll:{prod}:settings", 10**8)
        yield server
        with contextlib.suppress(Exception):
            held.release()


def keys_of(server):
    with server.client() as client:
        return {key: client.dump(key) for key in client.scan_iter(count=1000)}


@pytest.mark.parametrize("name", OBSTACLES)
@pytest.mark.parametrize("table", REAL, indirect=True)
class TestReading:
    def test_every_read_works_and_writes_nothing(self, world, table, tmp_path, name):
        before = keys_of(table)
        with obstacle(table, name, tmp_path / "data") as user:
            store = world.open(f"redis://{user}127.0.0.1:{table.port}", namespace="prod", read_only=True)
            assert store.poll([1, 2, 3, 4]) == [1, 4, 0, None]
            assert (store.get(1), store.check_status(2)) == (1, 4)
            assert store.entry(1).decode_prefix_len == 7
            assert store.failure_reason(3) == "peer gone"
            assert store.consensus([2])[0].status is KVPoll.Success
            assert store.collect(2) == {}
            assert sorted(store.rooms()) == [1, 2, 3]
            assert list(store.rooms(KVPoll.Failed)) == [3]
            assert store.counts()[KVPoll.Success] == 1
            assert [change.status for change in store.history(3)][-1] is KVPoll.Failed
            assert store.settings().shards == 3
            assert len(store.owners()) == 1
            assert store.attach(1).status() is KVPoll.Bootstrapping
            assert store.wait(2) is KVPoll.Success
        assert keys_of(table) == before
        with table.client() as client:
            assert client.pttl("kvpoll:{prod}:settings") <= 10**8

    def test_mirror_works(self, table, tmp_path, name):
        with (
            obstacle(table, name, tmp_path / "data") as user,
            StatusStore.from_url(f"redis://{user}127.0.0.1:{table.port}", namespace="prod", read_only=True) as store,
            store.mirror() as mirror,
        ):
            assert [mirror.get(room) for room in (1, 2, 3)] == [1, 4, 0]

    def test_looking_commands_work(self, table, tmp_path, name):
        with obstacle(table, name, tmp_path / "data") as user:
            where = ["-n", "prod", "--redis", f"redis://{user}127.0.0.1:{table.port}"]
            for command, found in (
                (["ls"], "Bootstrapping"),
                (["show", "3"], "peer gone"),
                (["owners"], "alive"),
                (["history", "3"], "peer gone"),
            ):
                result = CliRunner().invoke(kvpoll, [*command, *where])
                assert (result.exit_code, found in result.output) == (0, True), result.output
            tail = [sys.executable, "-m", "redis_kvpoll.cli", "tail", "--json", "--last", "9", *where]
            with subprocess.Popen(tail, stdout=subprocess.PIPE, preexec_fn=real.hear_signals) as process:
                assert json.loads(process.stdout.readline())["room"] in (1, 2, 3)
                process.send_signal(signal.SIGINT)


class TestWriting:
    @pytest.mark.parametrize("name", WRITING)
    def test_write_is_refused_before_anything_is_sent(self, world, name):
        with Proxy(world.shared().socket) as proxy:
            store = world.open(proxy.url, read_only=True)
            with pytest.raises(ReadOnlyStoreError, match=rf"^{name}: .* read_only=True; make another without it"):
                WRITING[name](store)
            assert proxy.commands == []

    def test_writes_through_a_handle_and_leases_are_refused(self, world):
        server = world.shared()
        world.open(server.tcp).update_status(1, 1)
        with StatusStore.from_url(server.tcp, read_only=True) as store:
            room = store.attach(1)
            for call in (room.clear, lambda: room.update(3), lambda: room.fail("x"), store.lease("a").__enter__):
                with pytest.raises(ReadOnlyStoreError):
                    call()
            assert room.status() is KVPoll.Bootstrapping

    @pytest.mark.parametrize("value", [None, 1, "yes"])
    def test_anything_but_a_bool_is_refused(self, world, value):
        with pytest.raises(InvalidInputError, match="read_only is True or False"):
            world.open("redis://127.0.0.1:1", read_only=value)


class TestAbsentNamespace:
    def test_absent_namespace_is_empty_until_it_is_created(self, world):
        server = world.shared()
        reader = world.open(server.tcp, namespace="new", read_only=True)
        assert reader.get(1) is None
        assert list(reader.rooms()) == []
        assert reader.settings() is None
        with server.client() as client:
            assert client.dbsize() == 0
        writer = world.open(server.tcp, namespace="new", shards=5, policy="strict")
        assert writer.update_status(1, 1).outcome is Outcome.CREATED
        assert reader.get(1) is KVPoll.Bootstrapping
        assert reader.settings().shards == 5

    def test_mirror_of_absent_namespace_is_refused(self, world):
        with (
            StatusStore.from_url(world.shared().tcp, namespace="new", read_only=True) as store,
            pytest.raises(InvalidInputError, match="namespace 'new' does not exist"),
        ):
            store.mirror().__enter__()


class TestLoss:
    """What a reader has attached to is not its to bring back."""

    def test_reader_brings_nothing_back_after_flushall(self, world):
        server = world.serve()
        with StatusStore.from_url(server.tcp, shards=3) as writer:
            writer.open(1)
            writer.open(2)
        reader = world.open(server.tcp, read_only=True)
        room = reader.attach(1)
        with server.client() as client:
            client.flushall()
            with StatusStore.from_url(server.tcp, shards=3) as writer:
                writer.update_status(3, 1)
            before = keys_of(server)
            with pytest.raises(RoomNotFoundError):
                reader.attach(2)
            assert room.status() is None
            assert reader.poll([1, 2, 3]) == [None, None, 1]
        assert keys_of(server) == before

    def test_reader_brings_nothing_back_to_another_server(self, world):
        server = world.serve()
        with StatusStore.from_url(server.tcp) as writer:
            writer.open(1)
        reader = world.open(server.tcp, deadline=60.0, read_only=True)
        room = reader.attach(1)
        server = world.restart(server)
        assert room.status() is None
        assert reader.settings() is None
        assert keys_of(server) == {}


def test_readers_rule_has_no_command_that_writes():
    """By the server's own list of commands."""
    with real.shared("valkey").client(protocol=2) as client:
        for command in acl.commands(read_only=True):
            (info,) = client.execute_command("COMMAND", "INFO", command).values()
            assert "write" not in info["flags"], command
    assert "hset" in acl.commands()


def test_scripts_of_reads_are_the_read_only_ones():
    found = {name for name in scripts.names() if scripts.called(scripts.load(name)) <= scripts.READS}
    assert scripts.READING - found == {"snapshot", "snapshot_ranks", "failures"}
    assert found <= scripts.READING
