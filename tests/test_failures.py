"""What a call does when its reply is lost, or the server cannot be reached, or says no (DESIGN, section 8)."""

from __future__ import annotations

import time

import pytest
import redis

from redis_kvpoll import (
    EvictionWarning,
    KVPoll,
    KVTransferError,
    NamespaceMismatchError,
    Outcome,
    OutcomeUnknownError,
    ServerRefusedError,
    StatusStore,
    StoreUnavailableError,
    Update,
)
from tests import real
from tests.proxy import Proxy

# Far above what the machine may lose on a slow day, far below what a wrong retry or time limit would cost.
MARGIN = 15.0

REPEATED = {
    "update_status": (
        "update",
        lambda store: store.update_status(1, 3),
        Update(Outcome.UNCHANGED, KVPoll.Transferring),
    ),
    "update_many": (
        "update",
        lambda store: store.update_many({1: 3}),
        {1: Update(Outcome.UNCHANGED, KVPoll.Transferring)},
    ),
    "abort": ("abort", lambda store: store.abort(1), Update(Outcome.UNCHANGED, KVPoll.Failed)),
    "record_failure": ("record_failure", lambda store: store.record_failure(1, "why"), True),
    "touch": ("touch", lambda store: store.touch([1]), 1),
    "set_decode_prefix_len": ("set_prefix", lambda store: store.set_decode_prefix_len(1, 7), None),
    "check_status": ("poll", lambda store: store.check_status(1), KVPoll.Bootstrapping),
    "poll": ("poll", lambda store: store.poll([1]), [KVPoll.Bootstrapping]),
    "entry": ("entry", lambda store: store.entry(1).status, KVPoll.Bootstrapping),
    "failure_reason": ("entry", lambda store: store.failure_reason(1), None),
}


def failed(store):
    with pytest.raises(KVTransferError) as caught:
        store.failure_exception(1)
    return caught.value.reason


DESTROYING = {
    "clear": ("clear", lambda store: store.clear(1), KVPoll.Bootstrapping),
    "clear_many": ("clear", lambda store: store.clear_many([1]), {1: KVPoll.Bootstrapping}),
    "pop_decode_prefix_len": ("pop_prefix", lambda store: store.pop_decode_prefix_len(1), 7),
    "failure_exception": ("clear", failed, "no reason was recorded"),
}


@pytest.fixture(params=("sync", "async"))
def world(request):
    with real.World(request.param) as world:
        yield world


@pytest.fixture
def server(world):
    return world.shared()


@pytest.fixture
def client(server):
    with server.client(decode_responses=True) as client:
        yield client


@pytest.fixture
def proxy(server):
    with Proxy(server.socket) as proxy:
        yield proxy


@pytest.fixture
def store(world, proxy):
    """A store behind the proxy, with a room and its decode prefix length."""
    store = world.open(proxy.url)
    store.update_status(1, KVPoll.Bootstrapping)
    store.set_decode_prefix_len(1, 7)
    # All scripts are known to the server, so that a call is an EVALSHA and nothing else.
    store.abort(9), store.touch([9]), store.poll([9]), store.entry(9)
    store.record_failure(9, "?"), store.clear(9), store.pop_decode_prefix_len(9)
    proxy.commands.clear()
    return store


class TestReplyLost:
    @pytest.mark.parametrize("operation", REPEATED)
    def test_what_does_no_harm_is_repeated(self, store, proxy, operation):
        script, call, answer = REPEATED[operation]
        proxy.lose_next_reply(script)
        assert call(store) == answer
        assert proxy.calls(script) == 2
        assert proxy.calls("settings") == 1  # the server might have been another one

    @pytest.mark.parametrize("operation", DESTROYING)
    def test_what_destroys_is_not(self, store, proxy, client, operation):
        script, call, _ = DESTROYING[operation]
        proxy.lose_next_reply(script)
        with pytest.raises(OutcomeUnknownError, match=rf"^{operation} of room 1: .*may have happened or not"):
            call(store)
        assert proxy.calls(script) == 1
        assert store.get(1) is (KVPoll.Bootstrapping if script == "pop_prefix" else None)
        assert not client.exists("kvpoll:{default}:prefix:1")

    @pytest.mark.parametrize("operation", DESTROYING)
    def test_a_lost_reply_to_the_settings_costs_nothing(self, world, store, proxy, operation):
        script, call, answer = DESTROYING[operation]
        second = world.open(proxy.url)
        proxy.lose_next_reply("settings")
        assert call(second) == answer
        assert (proxy.calls("settings"), proxy.calls(script)) == (2, 1)

    def test_the_walk_over_rooms_goes_on(self, store, proxy):
        proxy._lose = lambda command: command[0] == b"SCAN"
        assert list(store.rooms()) == [1]

    def test_of_a_batch_only_what_was_lost_is_sent_again(self, store, proxy):
        proxy.lose_next_reply("update")
        assert len(store.update_many(dict.fromkeys(range(3_000), 2))) == 3_000
        assert proxy.calls("update") == 4

    def test_of_a_batch_that_destroys_it_says_how_far_it_came(self, store, proxy):
        calls = iter((False, True))
        proxy._lose = lambda command: len(command) > 1000 and next(calls)
        with pytest.raises(OutcomeUnknownError, match=r"clear_many of rooms 0, 1, 2 and 2,997 more \(1,000 done\)"):
            store.clear_many(range(3_000))


class TestNotSent:
    """What was not sent may be sent again, whatever it does."""

    @pytest.mark.parametrize("operation", DESTROYING)
    def test_no_connection_could_be_made(self, store, proxy, operation):
        script, call, answer = DESTROYING[operation]
        proxy.cut()
        proxy.refusals = 3
        assert call(store) == answer
        assert proxy.calls(script) == 1

    @pytest.mark.parametrize("operation", DESTROYING)
    def test_the_server_had_closed_the_idle_connection(self, store, proxy, client, operation):
        script, call, answer = DESTROYING[operation]
        client.client_kill_filter(_type="normal", skipme=True)
        real.until(lambda: len(proxy._open) == 0, "the proxy has seen it")
        assert call(store) == answer
        assert proxy.calls(script) == 1
        assert proxy.calls("settings") == 1

    @pytest.mark.parametrize("operation", DESTROYING)
    def test_the_server_was_restarted(self, world, operation):
        _, call, _ = DESTROYING[operation]
        server = world.serve()
        store = world.open(server.tcp)
        call(store)
        world.restart(server)
        call(store)

    def test_the_server_is_there_only_later(self, world, monkeypatch):
        port = real.free_port()
        store = world.open(f"redis://127.0.0.1:{port}", deadline=60.0)
        real.at_the_second_pause(monkeypatch, lambda: world.serve(port=port))
        assert store.update_status(1, 1).outcome is Outcome.CREATED


class TestForgottenScripts:
    def test_after_script_flush_nothing_fails(self, store, client):
        for _, call, _ in (*REPEATED.values(), *DESTROYING.values()):
            client.script_flush()
            call(store)

    def test_a_script_is_sent_whole_only_once(self, store, client, proxy):
        client.script_flush()
        for _ in range(3):
            store.clear(1)
        assert [c[0] for c in proxy.commands] == [b"EVALSHA", b"EVAL", b"EVALSHA", b"EVALSHA"]

    def test_after_a_restart_nothing_fails(self, world):
        server = world.serve()
        store = world.open(server.tcp)
        for _, call, _ in (*REPEATED.values(), *DESTROYING.values()):
            store.update_status(1, 1)
            call(store)
        world.restart(server)
        store.update_status(1, 1)
        for _, call, _ in (*REPEATED.values(), *DESTROYING.values()):
            call(store) if call is not REPEATED["entry"][1] else store.entry(1)


class TestDeadline:
    """How long a call may take, with margins that a slow machine does not use up."""

    def timed(self, call, match):
        began = time.monotonic()
        with pytest.raises(StoreUnavailableError, match=match) as caught:
            call()
        assert type(caught.value) is StoreUnavailableError
        return time.monotonic() - began

    def test_a_server_that_stalls(self, world, proxy):
        store = world.open(proxy.url, deadline=0.3)
        proxy.stalled = True
        took = self.timed(
            lambda: store.update_status(7, 1), r"^update_status of room 7: no answer within 0.3 s \(1 try"
        )
        assert 0.25 < took < MARGIN

    def test_a_server_that_begins_to_stall(self, world, proxy):
        store = world.open(proxy.url, deadline=0.3)
        store.update_many({1: 1, 2: 1})
        proxy.stalled = True
        took = self.timed(lambda: store.poll([1, 2]), r"^poll of rooms 1, 2: no answer within 0.3 s \(1 try")
        assert 0.25 < took < MARGIN
        proxy.stalled = False
        assert store.poll([1, 2]) == [1, 1]

    def test_what_destroys_and_was_sent_is_unknown_after_it(self, world, proxy):
        store = world.open(proxy.url, deadline=0.3)
        store.poll([1])
        proxy.stalled = True
        with pytest.raises(OutcomeUnknownError, match="clear of room 1: sent, but the reply was lost"):
            store.clear(1)

    def test_nobody_listens(self, world):
        store = world.open(f"redis://127.0.0.1:{real.free_port()}", deadline=0.3)
        took = self.timed(lambda: store.clear(7), r"^clear of room 7: no answer within 0.3 s \([0-9]+ tries; last: ")
        assert took < MARGIN

    def test_every_connection_is_closed_at_once(self, world, proxy):
        proxy.refusals = 10_000
        store = world.open(proxy.url, deadline=0.3)
        assert self.timed(lambda: store.settings(), r"^settings of namespace 'default': no answer") < MARGIN
        assert proxy.connections > 3

    def test_a_clients_own_time_limit_gives_several_tries(self, world, proxy):
        store = world.open(f"{proxy.url}?socket_timeout=0.02", deadline=0.4)
        store.poll([1])
        proxy.stalled = True
        took = self.timed(lambda: store.poll([1]), r"\(([3-9]|1[0-9]) tries; last: ")
        assert took < MARGIN

    def test_settling_and_the_call_share_it(self, world, proxy, monkeypatch):
        """A server that answers the first command late and the second never takes one deadline, not two."""
        store = world.open(proxy.url, deadline=2.0)
        limits = []
        route = (store._store if world.is_async else store)._route
        take = route.take

        def late(step):
            limits.append(getattr(step, "timeout", None))
            if len(limits) == 1:
                now = time.monotonic()
                monkeypatch.setattr("redis_kvpoll.delivery.time.monotonic", lambda: now + 1.5)
            return take(step)

        monkeypatch.setattr(route, "take", late)
        store.poll([1])
        assert limits[0] is None
        assert all(0 < limit <= 0.5 for limit in limits[1:])

    @pytest.mark.parametrize("shape", ["redis+sentinel://{0},{1}/main", "redis+cluster://{0},{1}"])
    def test_sentinels_and_cluster_nodes_that_stall_share_it(self, world, server, shape):
        with Proxy(server.socket) as one, Proxy(server.socket) as two:
            one.stalled = two.stalled = True
            url = shape.format(f"127.0.0.1:{one.port}", f"127.0.0.1:{two.port}")
            store = world.open(url, deadline=0.5)
            took = self.timed(lambda: store.clear(1), r"clear of room 1: no answer within 0.5 s")
        assert took < MARGIN
        assert one.connections < 10  # each is asked once or twice, not ten times over


class TestNotNow:
    """Answers that say "later": the call is repeated, what destroys too, since it did not run."""

    @pytest.mark.parametrize("kind", ["valkey", "redis", "redis62"])
    @pytest.mark.parametrize("operation", ["update_status", *DESTROYING])
    def test_a_replica_that_becomes_primary(self, world, monkeypatch, kind, operation):
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
    def test_a_server_busy_with_a_script(self, world, monkeypatch, kind, operation):
        _, call, answer = (REPEATED | DESTROYING)[operation]
        server = world.serve("--lua-time-limit", "5", kind=kind)
        store = world.open(server.tcp, deadline=60.0)
        store.update_status(1, 3 if operation == "update_status" else 1)
        with server.client(retry=None) as client, server.client() as killer:
            connection = client.connection_pool.get_connection()
            connection.send_command("EVAL", "while true do end", 0)
            real.until(lambda: is_busy(killer), "the server says that it is busy")
            pauses = real.at_the_second_pause(monkeypatch, killer.script_kill)
            assert call(store) == answer
            with pytest.raises(redis.ResponseError):
                connection.read_response()
            client.connection_pool.release(connection)
        assert len(pauses) >= 2

    def test_a_server_that_loads_its_data(self, world, monkeypatch):
        server = world.serve("--enable-debug-command", "yes")
        store = world.open(server.tcp, deadline=60.0)
        pauses = real.at_the_second_pause(monkeypatch, lambda: None)
        with server.client() as client:
            client.config_set("key-load-delay", "1000")  # microseconds
            client.config_set("loading-process-events-interval-bytes", "1024")
            with client.pipeline(transaction=False) as pipe:
                for number in range(300):
                    pipe.set(f"filler:{number}", "x" * 100, ex=600)
                pipe.execute()
            for _ in range(20):  # each time the server loads for about a third of a second: catch it at it
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


def is_busy(client):
    try:
        client.ping()
    except redis.ResponseError as error:
        return str(error).startswith("BUSY")
    return False


def is_loading(server):
    with server.client() as client:
        return client.info("persistence")["loading"] == 1


class TestRefused:
    """The server's final word is passed on at once, with what to do about it."""

    def refused(self, call, hint, proxy=None):
        began = time.monotonic()
        with pytest.raises(ServerRefusedError, match=hint) as caught:
            call()
        assert time.monotonic() - began < MARGIN
        return str(caught.value)

    @pytest.mark.parametrize("kind", ["valkey", "redis", "redis62"])
    @pytest.mark.parametrize("operation", ["update_status", "clear", "poll"])
    def test_a_key_of_another_type(self, world, kind, operation):
        _, call, _ = (REPEATED | DESTROYING)[operation]
        server = world.shared(kind)
        with server.client() as client, Proxy(server.socket) as proxy:
            client.set("kvpoll:{default}:room:1", "mine", ex=60)
            store = world.open(proxy.url)
            message = self.refused(lambda: call(store), r"WRONGTYPE.*look at it with redis-cli")
            assert message.startswith(f"{operation} of room 1: the server refused: ")
            assert client.get("kvpoll:{default}:room:1") == b"mine"
            store.update_status(2, 1)
            assert proxy.connections == 1  # the connection is as good as before

    @pytest.mark.parametrize("kind", ["valkey", "redis", "redis62"])
    def test_a_user_who_may_not(self, world, kind):
        server = world.shared(kind)
        with server.client() as client:
            client.execute_command("ACL", "SETUSER", "reader", "on", ">pw", "~*", "+@all", "-evalsha", "-eval")
            client.execute_command("ACL", "SETUSER", "other", "on", ">pw", "~elsewhere:*", "+@all")
            try:
                for user in ("reader", "other"):
                    with Proxy(server.socket) as proxy:
                        store = world.open(f"redis://{user}:pw@127.0.0.1:{proxy.port}")
                        self.refused(lambda store=store: store.clear(1), r"NOPERM.*allow it the keys kvpoll:\*")
                        assert proxy.calls("settings") == 1
            finally:
                client.acl_deluser("reader", "other")

    def test_a_user_who_may_not_even_enter(self, world):
        """Who is refused during the handshake is told so at once; the connection is not kept."""
        server = world.shared()
        with server.client() as client:
            client.execute_command("ACL", "SETUSER", "guest", "on", ">pw", "~*", "+@all", "-select")
            try:
                store = world.open(f"redis://guest:pw@127.0.0.1:{server.port}/3", deadline=60.0)
                for _ in range(2):
                    self.refused(lambda: store.clear(1), "NOPERM.*select")
            finally:
                client.acl_deluser("guest")

    def test_a_password_that_is_missing_or_wrong(self, world):
        server = world.serve()
        with server.client() as client:
            client.config_set("requirepass", "right")
            try:
                store = world.open(server.tcp, deadline=60.0)
                self.refused(lambda: store.clear(1), "NOAUTH.*put it into the URL")
                store = world.open(f"redis://:wrong@127.0.0.1:{server.port}", deadline=60.0)
                assert "wrong@" not in self.refused(lambda: store.clear(1), "WRONGPASS.*check the user name")
            finally:
                client.auth("right")
                client.config_set("requirepass", "")

    def test_a_password_that_came_while_it_was_connected(self, world):
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
    def test_a_server_that_is_full(self, world, kind):
        server = world.serve(kind=kind)
        with server.client() as client, Proxy(server.socket) as proxy:
            store = world.open(proxy.url)
            store.update_status(1, 1)
            client.config_set("maxmemory", "1")
            self.refused(lambda: store.update_status(2, 1), "OOM.*give it more, or choose shorter TTLs")
            assert proxy.calls("update") == 3  # EVALSHA and EVAL of the first, and one more
            assert store.get(1) is KVPoll.Bootstrapping  # what reads goes on
            client.config_set("maxmemory", "0")
            assert store.update_status(2, 1).outcome is Outcome.CREATED

    def test_no_such_database(self, world):
        store = world.open(f"{world.shared().tcp}/99", deadline=60.0)
        self.refused(lambda: store.poll([1]), "DB index is out of range")

    def test_a_server_that_is_no_redis(self, world):
        import http.server
        import threading

        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as web:
            threading.Thread(target=web.serve_forever, daemon=True).start()
            store = world.open(f"redis://127.0.0.1:{web.server_address[1]}", deadline=0.3)
            with pytest.raises((ServerRefusedError, StoreUnavailableError), match=r"^poll of room 1"):
                store.poll([1])
            web.shutdown()


class TestEviction:
    def test_a_server_that_may_drop_rooms_is_warned_of_once(self, world):
        server = world.serve("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru")
        for protocol in (2, 3):
            store = world.open(f"{server.tcp}?protocol={protocol}")
            with pytest.warns(EvictionWarning, match="allkeys-lru.*namespace 'default'.*noeviction"):
                store.update_status(1, 1)
            store.update_status(1, 2)  # a second warning would be an error

    @pytest.mark.parametrize("options", [("--maxmemory", "100mb"), ("--maxmemory-policy", "allkeys-lru")])
    def test_no_warning_without_a_cause(self, world, options):
        world.open(world.serve(*options).tcp).update_status(1, 1)

    def test_who_may_not_ask_is_not_bothered(self, world):
        server = world.shared()
        with server.client() as client:
            client.execute_command("ACL", "SETUSER", "careful", "on", ">pw", "~kvpoll:*", "+@all", "-info")
            try:
                store = world.open(f"redis://careful:pw@127.0.0.1:{server.port}")
                assert store.update_status(1, 1).outcome is Outcome.CREATED
            finally:
                client.acl_deluser("careful")


def test_an_error_met_while_recovering_is_judged_by_itself(world, server, proxy, client):
    """First the connection is lost, then the settings differ: the second is what the caller must hear of."""
    store = world.open(proxy.url, policy="strict", deadline=60.0)
    store.poll([1])
    client.delete("kvpoll:{default}:settings")
    with StatusStore.from_url(server.url, policy="compat") as other:
        other.poll([1])
    proxy.lose_next_reply("poll")
    with pytest.raises(NamespaceMismatchError):
        store.poll([1])
