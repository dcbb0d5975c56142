"""An error names the server, without a password, what is wrong and what to do; only what may heal is tried again."""

from __future__ import annotations

import shutil
import socket
import ssl
import threading

import pytest
import trustme

from chaos.proxy import Proxy
from redis_kvpoll import KVPoll, ServerRefusedError, StoreUnavailableError
from redis_kvpoll.transport.embedded import EmbeddedServer
from tests.support import pace, real
from tests.support.calls import works
from tests.support.cluster import SLOTS
from tests.support.servers import program

SECRET = "s3cr3t"  # noqa: S105


def update(store):
    return store.update_status(1, 1)


def refused(store, remedy, call=update):
    """The text of an error that no retry would change; the store's deadline is a minute."""
    with pytest.raises(ServerRefusedError, match=remedy) as caught:
        call(store)
    return checked(caught.value)


def unavailable(store, remedy, call=update):
    """The text of an error that may have healed, had there been more time."""
    with pytest.raises(StoreUnavailableError, match=remedy) as caught:
        call(store)
    assert "the call is safe to retry" in str(caught.value)
    return checked(caught.value)


def checked(error):
    text = f"{error} {error.__cause__}"
    assert "; server: " in text
    assert "<redis." not in text
    assert SECRET not in text
    return text


@pytest.fixture
def patient(world):
    return lambda url: world.open(url, deadline=60.0)


@pytest.fixture
def hasty(world):
    return lambda url: world.open(url, deadline=pace.seconds(0.5))


class TestCannotHeal:
    @pytest.mark.parametrize("protocol", [2, 3])
    def test_wrong_or_missing_password(self, world, patient, protocol):
        server = world.serve()
        with server.client() as client:
            client.config_set("requirepass", "right")
            address = f"127.0.0.1:{server.port}"
            text = refused(
                patient(f"redis://:{SECRET}@{address}?protocol={protocol}"), "WRONGPASS.*check the user name"
            )
            assert text.count(f"; server: redis://***@{address}?protocol={protocol}") == 1
            text = refused(patient(f"redis://{address}?protocol={protocol}"), "NOAUTH.*put it into the URL")
            assert "HELLO AUTH" not in text, "how to write a client"
            client.config_set("requirepass", "")

    def test_database_out_of_range(self, world, patient):
        refused(patient(f"{world.shared().tcp}/99"), "out of range.*name a lower one")

    def test_cluster_url_of_plain_server(self, world, patient):
        refused(patient(f"redis+cluster://127.0.0.1:{world.shared().port}"), "use redis:// instead of redis.cluster://")

    def test_sentinel_url_of_plain_server(self, world, patient):
        refused(patient(f"redis+sentinel://127.0.0.1:{world.shared().port}/main"), "no Sentinel answers there")

    def test_plain_url_of_tls_port(self, world, patient):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
        with Proxy(world.shared().socket, context) as proxy:
            refused(patient(f"redis://127.0.0.1:{proxy.port}"), "use rediss:// instead of redis://")

    def test_tls_url_of_port_that_answers_in_clear(self, patient, answering):
        refused(
            patient(f"rediss://127.0.0.1:{answering(b'-ERR unknown command')}"), "use redis:// instead of rediss://"
        )

    def test_other_protocol_than_redis(self, patient, answering):
        refused(patient(f"redis://127.0.0.1:{answering(b'HTTP/1.1 400 no')}"), "what answers there is no Redis")

    def test_missing_certificate_file(self, world, patient):
        port = world.shared().port
        refused(
            patient(f"rediss://127.0.0.1:{port}?ssl_ca_certs=/nowhere.pem"), "file that the URL names cannot be read"
        )

    def test_host_that_is_no_name(self, patient):
        refused(patient("redis://a..b:6379"), "this is no host name")

    def test_server_without_hello(self, patient):
        """A proxy, or a managed server: the password, which HELLO carries, comes back in what it says."""
        port = real.free_port()
        with EmbeddedServer(program("valkey"), ["--port", str(port), "--rename-command", "HELLO", ""]):
            url = f"redis://:{SECRET}@127.0.0.1:{port}"
            refused(patient(url), r"no HELLO: add \?protocol=2 to the URL")
            works(patient(f"redis://127.0.0.1:{port}?protocol=2"))

    @pytest.mark.parametrize("kind", ["valkey", "redis", "redis62"])
    def test_server_that_cannot_save(self, world, patient, kind, tmp_path):
        folder = tmp_path / "data"
        folder.mkdir()
        server = world.serve("--dir", str(folder), kind=kind)
        store = patient(server.tcp)
        update(store)
        shutil.rmtree(folder)
        with server.client() as client:
            client.config_set("save", "1000000 1000000")
            client.bgsave()
            real.until(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err", "saving fails")
            refused(store, "MISCONF.*cannot save its data", lambda store: store.update_status(1, KVPoll.Success))
            client.config_set("save", "")


class TestMayHeal:
    def test_tls_url_of_plain_server(self, world, hasty):
        text = unavailable(hasty(f"rediss://127.0.0.1:{world.shared().port}"), "use redis:// instead of rediss://")
        assert "(1 try" in text

    def test_host_name_that_does_not_resolve(self, world):
        client = world.client(lambda: world.redis.Redis(host="no such host"))
        unavailable(world.over(client, deadline=pace.seconds(0.5)), "this host name does not resolve")

    def test_nothing_listens(self, hasty):
        unavailable(hasty(f"redis://127.0.0.1:{real.free_port()}"), "check that the server is up and reachable")

    def test_missing_socket(self, hasty):
        unavailable(hasty("unix:///nowhere/redis.sock"), "the path of its socket")

    def test_no_sentinel_is_up(self, hasty):
        url = f"redis+sentinel://:{SECRET}@127.0.0.1:{real.free_port()}/main"
        unavailable(hasty(url), "No master found for 'main'.: check that the Sentinels are up")

    @pytest.mark.parametrize("kind", ["valkey", "redis", "redis62"])
    def test_replica(self, world, hasty, kind):
        server = world.serve(kind=kind)
        with server.client() as client:
            client.replicaof("127.0.0.1", real.free_port())
            text = unavailable(hasty(server.tcp), "^update_status of room 1: not executed .*READONLY.*is a replica")
            assert "is up" not in text
            client.replicaof("NO", "ONE")

    @pytest.mark.parametrize("kind", ["valkey", "redis", "redis62"])
    def test_too_few_replicas(self, world, hasty, kind):
        server = world.serve(kind=kind)
        with server.client() as client:
            client.config_set("min-replicas-to-write", 1)
            assert "is up" not in unavailable(hasty(server.tcp), "not executed .*NOREPLICAS.*min-replicas-to-write")
            client.config_set("min-replicas-to-write", 0)

    @pytest.mark.parametrize("mode", ["no", "yes"])
    @pytest.mark.parametrize("kind", ["valkey", "redis", "redis62"])
    def test_maxclients(self, world, patient, kind, mode, monkeypatch):
        """A node of a cluster says it in other words."""
        server = world.serve("--cluster-enabled", mode, kind=kind)
        with server.client(single_connection_client=True) as client:
            if mode == "yes":
                client.execute_command("CLUSTER", "ADDSLOTS", *range(SLOTS))
                real.until(lambda: client.execute_command("CLUSTER INFO")["cluster_state"] == "ok", "it serves")
            client.config_set("maxclients", 1)
            store = patient(server.tcp)
            with real.three_tries():
                unavailable(store, "max number of clients.*raise it, or close other connections")
            pauses = real.at_the_second_pause(monkeypatch, lambda: client.config_set("maxclients", 1000))
            works(store)
            assert len(pauses) == 2

    def test_server_closes_new_connections(self, world, hasty):
        with Proxy(world.shared().socket) as proxy:
            proxy.refusing = True
            unavailable(hasty(proxy.url), "if it is a proxy, check the server behind it")


@pytest.fixture
def answering():
    """Make a port that answers whatever comes with the same line."""
    listeners = []

    def make(line):
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)
        threading.Thread(target=answer_all, args=[listener, line + b"\r\n\r\n"], daemon=True).start()
        return listener.getsockname()[1]

    yield make
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def answer_all(listener, line):
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection:
            connection.recv(65536)
            connection.sendall(line)


def test_error_of_client_names_its_server(world):
    """A client has no URL."""
    server = world.shared()
    client = world.client(lambda: world.redis.Redis(port=server.port, db=99, password=SECRET))
    assert f"a Redis client of localhost:{server.port}" in refused(world.over(client), "out of range")
