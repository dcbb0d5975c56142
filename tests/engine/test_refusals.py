"""Calls that the server refuses, temporarily or finally."""

from __future__ import annotations

import http.server
import threading

import pytest
import redis

from chaos.proxy import Proxy
from redis_kvpoll import (
    EvictionWarning,
    KVPoll,
    Outcome,
    ServerRefusedError,
    StatusStore,
    StoreUnavailableError,
    Update,
)
from tests.support import pace, real
from tests.support.calls import DESTROYING, MARGIN, REPEATED
from tests.support.internals import lost_connections_of


class TestTemporaryRefusal:
    """The call is repeated, also a clear, since it was not executed."""

    @pytest.mark.parametrize("kind", ["valkey", "redis", "redis62"])
    @pytest.mark.parametrize("operation", ["update_status", *DESTROYING])
    def test_call_to_replica_waits_until_it_is_primary(self, world, monkeypatch, kind, operation):
        _, call, answer = (REPEATED | DESTROYING)[operation]
        server = world.serve(kind=kind)
        store = world.open(server.tcp, deadline=60.0)
        store.update_status(1, 1)
        store.set_decode_prefix_len(1, 7)
        if operation == "update_status":
            answer = Update(Outcome.ADVANCED, KVPoll.Transferring)
        with server.client() as client:
            client.replicaof("127.0.0.1", real.free_port())
            pauses = real.at_the_second_pause(monkeypatch, lambda: client.replicaof("NO", "ONE"))
            assert call(store) == answer
        assert len(pauses) == 2

    @pytest.mark.parametrize("kind", ["valkey", "redis", "redis62"])
    @pytest.mark.parametrize("operation", ["update_status", "clear"])
    def test_call_to_busy_server_waits(self, world, monkeypatch, kind, operation):
        _, call, answer = (REPEATED | DESTROYING)[operation]
        server = world.serve("--lua-time-limit", "5", kind=kind)
        store = world.open(server.tcp, deadline=60.0)
        store.update_status(1, 3 if operation == "update_status" else 1)
        with server.client(retry=None) as client, server.client() as killer:
            connection = client.connection_pool.get_connection()
            connection.send_command("EVAL", "while true do end", 0)
            real.until(lambda: real.is_busy(killer), "the server says that it is busy")
            pauses = real.at_the_second_pause(monkeypatch, killer.script_kill)
            assert call(store) == answer
            with pytest.raises(redis.ResponseError):
                connection.read_response()
            client.connection_pool.release(connection)
        assert len(pauses) >= 2

    @pytest.mark.parametrize("kind", ["valkey", "redis", "redis62"])
    def test_refused_write_leaves_reads_and_mirror_alone(self, world, kind):
        """The server did not execute the write for want of replicas; that says nothing about what it holds."""
        server = world.serve(kind=kind)
        store = world.open(server.tcp, deadline=60.0)
        store.update_status(1, 1)
        with server.client() as client, StatusStore.from_url(server.tcp) as other, other.mirror() as mirror:
            other.update_status(2, 1)
            losses = lost_connections_of(store), lost_connections_of(other)
            client.config_set("min-replicas-to-write", 1)
            with real.three_tries(), pytest.raises(StoreUnavailableError, match="NOREPLICAS"):
                store.update_status(1, 3)
            assert store.get(1) is KVPoll.Bootstrapping
            assert store.poll([1, 9]) == [KVPoll.Bootstrapping, None]
            assert mirror.get(2) is KVPoll.Bootstrapping
            assert (lost_connections_of(store), lost_connections_of(other)) == losses
            client.config_set("min-replicas-to-write", 0)

    def test_call_to_loading_server_waits(self, world, monkeypatch):
        server = world.serve("--enable-debug-command", "yes")
        store = world.open(server.tcp, deadline=60.0)
        pauses = real.at_the_second_pause(monkeypatch, lambda: None)
        with server.client() as client:
            client.config_set("key-load-delay", str(round(1000 * pace.factor())))  # microseconds
            client.config_set("loading-process-events-interval-bytes", "1024")
            with client.pipeline(transaction=False) as pipe:
                for number in range(300):
                    pipe.set(f"filler:{number}", "x" * 100, ex=600)
                pipe.execute()
            for _ in range(20):  # loading takes about a third of a second: try until a call falls into it
                store.update_status(1, 1)
                client.save()
                loader = client.connection_pool.get_connection()
                loader.send_command("DEBUG", "RELOAD", "NOSAVE")
                real.until(lambda loader=loader: is_loading(server) or loader.can_read(), "the server loads")
                assert store.clear(1) is KVPoll.Bootstrapping
                loader.read_response()
                client.connection_pool.release(loader)
                if pauses:
                    return
        raise AssertionError("the server was never caught loading")


def is_loading(server):
    with server.client() as client:
        return client.info("persistence")["loading"] == 1


class TestFinalRefusal:
    """The error is raised at once, with a remedy."""

    def refused(self, call, hint, proxy=None):
        with pace.Stopwatch() as took, pytest.raises(ServerRefusedError, match=hint) as caught:
            call()
        assert took.seconds < MARGIN
        return str(caught.value)

    @pytest.mark.parametrize("kind", ["valkey", "redis", "redis62"])
    def test_user_without_permission_is_refused(self, world, kind):
        server = world.shared(kind)
        with server.client() as client:
            client.execute_command("ACL", "SETUSER", "reader", "on", ">pw", "~*", "+@all", "-evalsha", "-eval")
            client.execute_command("ACL", "SETUSER", "other", "on", ">pw", "~elsewhere:*", "+@all")
            try:
                for user in ("reader", "other"):
                    with Proxy(server.socket) as proxy:
                        store = world.open(f"redis://{user}:pw@127.0.0.1:{proxy.port}")
                        self.refused(
                            lambda store=store: store.clear(1), r"NOPERM.*kvpoll acl prints .* the keys kvpoll:\*"
                        )
                        assert proxy.calls("settings") == 1
            finally:
                client.acl_deluser("reader", "other")

    @pytest.mark.parametrize("command", ["xadd", "hsetnx", "hdel", "pexpire"])
    @pytest.mark.parametrize("kind", ["valkey", "redis", "redis62"])
    def test_partly_permitted_script_changes_nothing(self, world, kind, command):
        """Otherwise rooms would change and no mirror would see it."""
        server = world.shared(kind)
        boot, rooms = KVPoll.Bootstrapping, (1, 2)
        with server.client() as client, StatusStore(server.store_client(), namespace="half") as peer:
            client.execute_command("ACL", "SETUSER", "half", "on", ">pw", "~*", "+@all", f"-{command}")
            try:
                peer.update_status(1, boot)
                store = world.open(f"redis://half:pw@127.0.0.1:{server.port}", namespace="half")
                with_remedy = "NOPERM.*kvpoll acl prints"
                self.refused(lambda: store.update_many({1: KVPoll.Success, 2: KVPoll.Success}), with_remedy)
                self.refused(lambda: store.abort(1), with_remedy)
                assert peer.poll(rooms) == [boot, None]
            finally:
                client.acl_deluser("half")

    @pytest.mark.parametrize("command", ["hget", "hgetall"])
    @pytest.mark.parametrize("kind", ["valkey", "redis", "redis62"])
    def test_denied_read_in_script_corrupts_no_room(self, world, kind, command):
        """An error would say that the room is to be removed."""
        server = world.shared(kind)
        with server.client() as client, StatusStore(server.store_client(), namespace="half") as peer:
            client.execute_command("ACL", "SETUSER", "half", "on", ">pw", "~*", "+@all", f"-{command}")
            try:
                peer.update_status(1, KVPoll.Bootstrapping)
                store = world.open(f"redis://half:pw@127.0.0.1:{server.port}", namespace="half")
                for call in (store.entry, store.failure_reason, lambda room: store.entries([room])):
                    self.refused(lambda call=call: call(1), "NOPERM.*kvpoll acl prints")
                if command == "hget":
                    self.refused(lambda: store.get(1), "NOPERM.*kvpoll acl prints")
                    self.refused(lambda: store.poll([1, 2]), "^poll of rooms 1, 2: .*NOPERM.*kvpoll acl prints")
            finally:
                client.acl_deluser("half")

    def test_user_refused_in_handshake_fails_at_once(self, world):
        """The error is raised at once, and the connection is not kept."""
        server = world.shared()
        with server.client() as client:
            client.execute_command("ACL", "SETUSER", "limited", "on", ">pw", "~*", "+@all", "-select")
            try:
                store = world.open(f"redis://limited:pw@127.0.0.1:{server.port}/3", deadline=60.0)
                for _ in range(2):
                    self.refused(lambda: store.clear(1), "NOPERM.*select")
            finally:
                client.acl_deluser("limited")

    def test_missing_or_wrong_password_is_refused(self, world):
        server = world.serve()
        with server.client() as client:
            client.config_set("requirepass", "right")
            try:
                store = world.open(server.tcp, deadline=60.0)
                self.refused(lambda: store.clear(1), "NOAUTH.*put it into the URL")
                store = world.open(f"redis://:wrong@127.0.0.1:{server.port}", deadline=60.0)
                assert "wrong@" not in self.refused(lambda: store.clear(1), "WRONGPASS.*check the user name")
            finally:
                client.config_set("requirepass", "")

    def test_password_set_while_connected_is_refused(self, world):
        server = world.serve()
        store = world.open(server.tcp, deadline=60.0)
        store.poll([1])
        with server.client() as client:
            client.config_set("requirepass", "new")
            client.client_kill_filter(_type="normal", skipme=True)
            try:
                self.refused(lambda: store.update_status(1, 1), "NOAUTH")
            finally:
                client.config_set("requirepass", "")
        store.update_status(1, 1)

    @pytest.mark.parametrize("kind", ["valkey", "redis", "redis62"])
    def test_full_server_refuses_writes_and_serves_reads(self, world, kind):
        server = world.serve(kind=kind)
        with server.client() as client, Proxy(server.socket) as proxy:
            store = world.open(proxy.url)
            store.update_status(1, 1)
            client.config_set("maxmemory", "1")
            self.refused(lambda: store.update_status(2, 1), "OOM.*raise it, or choose shorter TTLs")
            # EVALSHA and EVAL of the first; the same of update_one for the second, which it leaves to update.
            assert proxy.calls("update") == 5
            assert store.get(1) is KVPoll.Bootstrapping  # what reads goes on
            client.config_set("maxmemory", "0")
            assert store.update_status(2, 1).outcome is Outcome.CREATED

    def test_missing_database_is_refused(self, world):
        store = world.open(f"{world.shared().tcp}/99", deadline=60.0)
        self.refused(lambda: store.poll([1]), "DB index is out of range")

    def test_http_server_is_an_error(self, world):
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as web:
            threading.Thread(target=web.serve_forever, daemon=True).start()
            store = world.open(f"redis://127.0.0.1:{web.server_address[1]}", deadline=0.3)
            with pytest.raises((ServerRefusedError, StoreUnavailableError), match=r"^poll of room 1"):
                store.poll([1])
            web.shutdown()


class TestEviction:
    def test_evicting_server_warns_once(self, world):
        server = world.serve("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru")
        for protocol in (2, 3):
            store = world.open(f"{server.tcp}?protocol={protocol}")
            with pytest.warns(EvictionWarning, match="allkeys-lru.*namespace 'default'.*noeviction"):
                store.update_status(1, 1)
            store.update_status(1, 2)  # a second warning would be an error

    def test_warning_as_error_does_not_stop_the_call(self, world, caplog):
        store = world.open(world.serve("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru").tcp)
        assert store.update_status(1, 1).outcome is Outcome.CREATED
        assert "allkeys-lru" in caplog.text

    @pytest.mark.parametrize("options", [("--maxmemory", "100mb"), ("--maxmemory-policy", "allkeys-lru")])
    def test_server_that_cannot_evict_gives_no_warning(self, world, options):
        world.open(world.serve(*options).tcp).update_status(1, 1)

    def test_user_without_info_permission_gets_no_warning(self, world):
        server = world.shared()
        with server.client() as client:
            client.execute_command("ACL", "SETUSER", "careful", "on", ">pw", "~kvpoll:*", "+@all", "-info")
            try:
                store = world.open(f"redis://careful:pw@127.0.0.1:{server.port}")
                assert store.update_status(1, 1).outcome is Outcome.CREATED
            finally:
                client.acl_deluser("careful")
