"""Calls whose reply is lost, or that could not be sent."""

from __future__ import annotations

import pytest
from redis import exceptions

from redis_kvpoll import KVPoll, NamespaceMismatchError, Outcome, OutcomeUnknownError, StatusStore
from redis_kvpoll.protocol import keys
from tests.support import real
from tests.support.calls import DESTROYING, REPEATED
from tests.support.servers import room_keys


@pytest.fixture
def server(world):
    return world.shared()


@pytest.fixture
def client(server):
    with server.client(decode_responses=True) as client:
        yield client


@pytest.fixture
def store(world, proxy):
    """A store behind the proxy, with a room and its decode prefix length."""
    store = world.open(proxy.url)
    store.update_status(1, KVPoll.Bootstrapping)
    store.set_decode_prefix_len(1, 7)
    # Load all scripts, so that a call is one EVALSHA.
    store.update_status(1, KVPoll.Bootstrapping), store.abort(9), store.touch([9]), store.poll([9]), store.entry(9)
    store.record_failure(9, "?"), store.clear(9), store.pop_decode_prefix_len(9)
    proxy.commands.clear()
    return store


class TestLostReply:
    @pytest.mark.parametrize("operation", REPEATED)
    def test_repeatable_call_is_sent_again(self, store, proxy, operation):
        script, call, answer = REPEATED[operation]
        proxy.lose_next_reply(script)
        assert call(store) == answer
        assert proxy.calls(script) == 2
        assert proxy.calls("settings") == 0  # the new connection leads to the same server: nothing is unsettled

    @pytest.mark.parametrize("operation", DESTROYING)
    def test_clear_is_not_sent_again(self, store, proxy, client, operation):
        script, call, _ = DESTROYING[operation]
        proxy.lose_next_reply(script)
        with pytest.raises(OutcomeUnknownError, match=rf"^{operation} of room 1: .*may have been executed or not"):
            call(store)
        assert proxy.calls(script) == 1
        assert store.get(1) is (KVPoll.Bootstrapping if script == "pop_prefix" else None)
        assert not client.exists("kvpoll:{default}:prefix:1")

    @pytest.mark.parametrize("around", [exceptions.ReadOnlyError("x"), exceptions.TryAgainError("x")])
    def test_clear_inside_exception_handler_is_not_sent_again(self, store, proxy, around):
        """Python sets the exception being handled as the context of a new one; it has no meaning for this call."""
        proxy.lose_next_reply("clear")
        try:
            raise around
        except exceptions.ResponseError:
            with pytest.raises(OutcomeUnknownError):
                store.clear(1)
        assert proxy.calls("clear") == 1

    @pytest.mark.parametrize("operation", DESTROYING)
    def test_lost_settings_reply_costs_nothing(self, world, store, proxy, operation):
        script, call, answer = DESTROYING[operation]
        second = world.open(proxy.url)
        proxy.lose_next_reply("settings")
        assert call(second) == answer
        assert (proxy.calls("settings"), proxy.calls(script)) == (2, 1)

    def test_scan_over_rooms_continues(self, store, proxy):
        proxy.lose = lambda command: command[0] == b"SCAN"
        assert list(store.rooms()) == [1]

    def test_only_lost_part_of_batch_is_sent_again(self, store, proxy):
        proxy.lose_next_reply("update")
        assert len(store.update_many(dict.fromkeys(range(3_000), 2))) == 3_000
        assert proxy.calls("update") == 4

    def test_lost_clear_many_error_counts_what_was_done(self, store, proxy):
        calls = iter((False, True))
        proxy.lose = lambda command: len(command) > 500 and next(calls)
        with pytest.raises(OutcomeUnknownError, match=r"clear_many of rooms 0, 1, 2 and 2,997 more \(250 done\)"):
            store.clear_many(range(3_000))

    def test_partly_executed_clear_many_is_not_safe_to_retry(self, world, proxy, client):
        """Another process may have opened one of the cleared rooms again."""
        store = world.open(proxy.url, deadline=60.0)
        store.update_many(dict.fromkeys(range(3_000), 1))
        store.clear(9_999)  # loads the script, so that the first data from the server is a reply

        def refuse_from_now_on(reply):
            client.config_set("min-replicas-to-write", 1)
            return reply

        proxy.rewrite = refuse_from_now_on
        try:
            with real.three_tries(), pytest.raises(OutcomeUnknownError, match=r"\(250 done\)") as caught:
                store.clear_many(range(3_000))
        finally:
            proxy.rewrite = None
            client.config_set("min-replicas-to-write", 0)
        assert "safe to retry" not in str(caught.value)
        assert len(room_keys(client)) == 2_750

    @pytest.mark.parametrize("refusing", [0, 1])
    def test_partly_refused_clear_many_is_unknown(self, world, proxy, client, refusing):
        """It says what was refused, too."""
        store = world.open(proxy.url, shards=2)
        rooms = range(10)
        store.update_many(dict.fromkeys(rooms, 1))
        client.set(keys.epoch(f"default/{refusing}"), "made by hand", ex=600)
        with pytest.raises(OutcomeUnknownError, match=r"^clear_many of .*executed for some rooms.*the server refused"):
            store.clear_many(rooms)
        refused = {room for room in rooms if keys.tag("default", 2, room) == f"default/{refusing}"}
        assert set(store.rooms()) == refused != set(rooms)

    @pytest.mark.parametrize("refusing", [0, 1])
    def test_unknown_part_of_a_clear_many_is_told(self, world, proxy, client, refusing):
        """Though another part was certainly not executed."""
        store = world.open(proxy.url, shards=2)
        store.update_many(dict.fromkeys(range(10), 1))
        store.clear_many(range(10, 20))  # loads the script
        client.set(keys.epoch(f"default/{refusing}"), "made by hand", ex=600)
        lost = keys.epoch(f"default/{1 - refusing}").encode()
        proxy.lose = lambda command: command[0] == b"EVALSHA" and lost in command
        with pytest.raises(OutcomeUnknownError, match="may have been executed or not"):
            store.clear_many(range(10))


class TestNotSent:
    """A call that was not sent may be sent again, also a clear."""

    @pytest.mark.parametrize("operation", DESTROYING)
    def test_refused_connections_are_retried(self, store, proxy, operation):
        script, call, answer = DESTROYING[operation]
        proxy.cut()
        proxy.refusals = 3
        assert call(store) == answer
        assert proxy.calls(script) == 1

    @pytest.mark.parametrize("operation", DESTROYING)
    def test_connection_closed_by_server_is_replaced(self, store, proxy, client, operation):
        script, call, answer = DESTROYING[operation]
        client.client_kill_filter(_type="normal", skipme=True)
        real.until(lambda: not proxy.open_connections, "the proxy has seen it")
        assert call(store) == answer
        assert proxy.calls(script) == 1
        assert proxy.calls("settings") == 0

    @pytest.mark.parametrize("operation", DESTROYING)
    def test_restarted_server_is_reconnected(self, world, operation):
        _, call, _ = DESTROYING[operation]
        server = world.serve()
        store = world.open(server.tcp)
        call(store)
        world.restart(server)
        call(store)

    def test_server_that_starts_later_is_reached(self, world, monkeypatch):
        port = real.free_port()
        store = world.open(f"redis://127.0.0.1:{port}", deadline=60.0)
        real.at_the_second_pause(monkeypatch, lambda: world.serve(port=port))
        assert store.update_status(1, 1).outcome is Outcome.CREATED


class TestForgottenScripts:
    def test_calls_work_after_script_flush(self, store, client):
        for _, call, _ in (*REPEATED.values(), *DESTROYING.values()):
            client.script_flush()
            call(store)

    def test_forgotten_script_is_sent_whole_once(self, store, client, proxy):
        client.script_flush()
        for _ in range(3):
            store.clear(1)
        assert [c[0] for c in proxy.commands] == [b"EVALSHA", b"EVAL", b"EVALSHA", b"EVALSHA"]

    def test_calls_work_after_restart(self, world):
        server = world.serve()
        store = world.open(server.tcp)
        for _, call, _ in (*REPEATED.values(), *DESTROYING.values()):
            store.update_status(1, 1)
            call(store)
        world.restart(server)
        store.update_status(1, 1)
        for _, call, _ in (*REPEATED.values(), *DESTROYING.values()):
            call(store) if call is not REPEATED["entry"][1] else store.entry(1)


def test_second_error_during_retry_is_the_one_raised(world):
    """First the connection is lost, then the next server has other settings: the caller must get the second error."""
    server = world.serve()
    store = world.open(server.tcp, policy="strict", deadline=60.0)
    store.poll([1])
    server = world.restart(server)
    with StatusStore.from_url(server.tcp, policy="compat") as other:
        other.poll([1])
    with pytest.raises(NamespaceMismatchError):
        store.poll([1])


def test_command_outside_the_queues_may_reach_another_server(world):
    """Nothing was verified for it, so the server that failed and the next one are as good."""
    server = world.serve()
    store = world.open(server.tcp, deadline=60.0)
    store.update_status(1, KVPoll.Bootstrapping)
    found = store.settings()
    world.restart(server)
    assert found is not None
    assert store.settings() is None
