"""Calls on one room that are sent as prepared bytes: when, with what, and what else comes of them."""

from __future__ import annotations

import asyncio
import contextlib
import os
from types import SimpleNamespace

import pytest

from redis_kvpoll import (
    AsyncStatusStore,
    InvalidInputError,
    KVPoll,
    Outcome,
    ReadOnlyStoreError,
    RoomNotFoundError,
    StatusStore,
)
from redis_kvpoll.model import Update
from redis_kvpoll.protocol import fenced_commands, keys, packed
from redis_kvpoll.transport.connection_options import pack
from tests.support import real
from tests.support.contexts import context
from tests.support.internals import age_settings, idle_connections_of, known_server_of, node_pool_of

BOOT, WAIT, MOVE, DONE = list(KVPoll)[1:]
SCRIPT = packed.UPDATE_ONE.script
SHORT = {packed.UPDATE_ONE.script.sha.encode(): "update_one", packed.ADVANCE_ONE.script.sha.encode(): "advance_one"}


@pytest.fixture
def server(world):
    return world.shared()


@pytest.fixture
def stack():
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.fixture
def opened(world, proxy):
    """Opens a store behind the proxy, whose settings are verified, with a room of its own."""

    def open_store(**options):
        store = world.open(proxy.url, **options)
        if not options.get("read_only"):
            store.update_status(1, BOOT)
            store.update_many({2: BOOT, 3: BOOT})
            store.update_status(1, BOOT)  # the server knows the scripts
        store.poll([1])
        proxy.commands.clear()
        return store

    return open_store


def sent(proxy):
    """What was sent since the last look: each command, or the name of the script."""
    found = [SHORT.get(one[1], "full") if one[0] == b"EVALSHA" else one[0].decode() for one in proxy.commands]
    proxy.commands.clear()
    return found


class TestPacked:
    CONTEXT = context(ttl_ms="60000", terminal_ttl_ms="30000")

    @pytest.mark.parametrize("room", [0, 9, 10, 2**63, 2**64 - 1])
    @pytest.mark.parametrize("status", list(KVPoll)[1:])
    def test_bytes_are_those_of_the_words(self, room, status):
        ttl = "30000" if status is DONE else "60000"
        words = packed.UPDATE_ONE.call(self.CONTEXT, "ns", [room], [ttl, status.name], [0]).words()
        assert packed.update_command(self.CONTEXT).pack(room, status) == pack(words)
        assert packed.update_command(self.CONTEXT).pack(room, int(status)) == pack(words)
        with_source = ["EVAL", SCRIPT.source, *words[2:]]
        assert packed.update_command(self.CONTEXT, has_source=True).pack(room, status) == pack(with_source)
        (key,) = keys.rooms("ns", [room])
        assert packed.get_command(self.CONTEXT).pack(room, None) == pack(["HGET", key, "status"])

    @pytest.mark.parametrize(
        "owner",
        [{}, {"owner": "me", "incarnation": "1700000000000001"}, {"mode": "prefill"}],
        ids=["", "lease", "prefill"],
    )
    @pytest.mark.parametrize("room", [0, 9, 2**64 - 1])
    @pytest.mark.parametrize("status", KVPoll)
    def test_fenced_update_is_its_script_and_the_full_call(self, room, status, owner):
        made = context(**owner)
        (call,) = fenced_commands.update(room, 1_700_000_000_000_123, status).calls(made)
        ttl = made.terminal_ttl_ms if status is DONE else made.ttl_ms
        args = [ttl, status.name, "1700000000000123"]
        words = packed.ADVANCE_ONE.call(made, "ns", [room], args, [0]).words()
        for has_source in (False, True):
            if has_source:
                words[:2] = ["EVAL", packed.ADVANCE_ONE.script.source]
            found = packed.PackedWrite(made, has_source).pack(room, 1_700_000_000_000_123, int(status))
            assert found == (None if status is KVPoll.Failed else (pack(words), call))

    @pytest.mark.parametrize(
        ("room", "status"),
        [
            (-1, 1),
            (2**64, 1),
            (True, 1),
            ("1", 1),
            (1.0, 1),
            (1, True),
            (1, 5),
            (1, "Success"),
            (1, 0),
            (1, None),
            (1, 1.0),
            (1, []),
        ],
    )
    def test_unusual_arguments_are_not_packed(self, room, status):
        assert packed.update_command(self.CONTEXT).pack(room, status) is None


class TestUsualCase:
    def test_one_command_a_call(self, opened, proxy):
        store = opened()
        assert store.update_status(1, MOVE) == Update(Outcome.ADVANCED, MOVE)
        assert store.update_status(1, BOOT) == Update(Outcome.UNCHANGED, MOVE)
        assert store.update_status(4, BOOT) == Update(Outcome.CREATED, BOOT)
        assert (store.get(1), store.check_status(1), store.get(9), store.get(9, "gone")) == (MOVE, MOVE, None, "gone")
        with pytest.raises(RoomNotFoundError, match="9"):
            store.check_status(9)
        assert sent(proxy) == ["update_one"] * 3 + ["HGET"] * 5

    def test_socket_may_take_less_than_a_command(self, opened, proxy, monkeypatch):
        store = opened()
        taking = SimpleNamespace(write=lambda number, data: os.write(number, data[:5]))
        monkeypatch.setattr("redis_kvpoll.sync.connections.os", taking)
        assert store.update_status(1, MOVE) == Update(Outcome.ADVANCED, MOVE)
        assert sent(proxy) == ["update_one"]

    def test_missing_script_is_sent_with_its_source(self, world, opened, proxy):
        server = world.serve()
        proxy.target = server.socket
        store = opened()
        with server.client() as client:
            client.script_flush()
        assert store.update_status(1, MOVE) == Update(Outcome.ADVANCED, MOVE)
        assert store.update_status(2, MOVE) == Update(Outcome.ADVANCED, MOVE)
        assert sent(proxy) == ["update_one", "EVAL", "update_one"]

    def test_handle_sends_one_command_a_call(self, world, side, proxy):
        server = world.serve()
        proxy.target = server.socket
        store = side.open(proxy.url)
        with store.lease("me"), server.client() as client:
            handle = store.open(1)
            handle.update(BOOT)
            sent(proxy)
            assert handle.update(WAIT) == Update(Outcome.ADVANCED, WAIT)
            assert handle.update(BOOT) == Update(Outcome.UNCHANGED, WAIT)
            assert sent(proxy) == ["advance_one"] * 2
            client.script_flush()
            assert handle.update(MOVE) == Update(Outcome.ADVANCED, MOVE)
            assert handle.update(DONE) == Update(Outcome.ADVANCED, DONE)
            assert sent(proxy) == ["advance_one", "EVAL", "advance_one"]
            store.abort(1)
            sent(proxy)
            assert handle.update(MOVE) == Update(Outcome.UNCHANGED, KVPoll.Failed)
            assert sent(proxy)[:2] == ["advance_one", "full"]

    def test_write_through_handle_is_in_a_mirror_at_once(self, side, proxy):
        store = side.open(proxy.url)
        with store.lease("me"), store.mirror() as mirror:
            handle = store.open(1)
            assert handle.update(MOVE) == Update(Outcome.ADVANCED, MOVE)
            assert mirror.get(1) is MOVE
            assert handle.update(BOOT) == Update(Outcome.UNCHANGED, MOVE)
            with pytest.raises(InvalidInputError, match="update: a status is one of"):
                handle.update(7)
            handle.clear()
            assert handle.update(DONE) == Update(Outcome.STALE, None)

    def test_handles_of_a_store_do_not_matter_to_reads(self, opened, proxy):
        store = opened()
        with store.open(5):
            sent(proxy)
            assert store.get(5) is BOOT
            assert sent(proxy) == ["HGET"]


class TestFullPath:
    """Whatever concerns more than the caller goes the full path, with the same result."""

    @pytest.mark.parametrize(
        "options",
        [{"rank": 0, "world_size": 2}, {"shards": 2}, {"feed_length": 0}],
        ids=["rank", "shards", "no feed"],
    )
    def test_kind_of_store(self, opened, proxy, options):
        store = opened(namespace="other", **options)
        assert store.update_status(1, MOVE).outcome is Outcome.ADVANCED
        assert "update_one" not in sent(proxy)

    def test_status_failed(self, opened, proxy):
        store = opened()
        assert store.update_status(1, KVPoll.Failed) == Update(Outcome.FAILED, KVPoll.Failed)
        assert store.update_status(9, KVPoll.Failed) == Update(Outcome.SKIPPED, None)
        assert store.update_status(1, MOVE) == Update(Outcome.ADVANCED, MOVE)
        assert [name for name in sent(proxy) if name != "EVAL"] == ["full", "full", "update_one", "full"]

    def test_mirror_lease_and_handle(self, side, proxy):
        store = side.open(proxy.url)
        store.update_many(dict.fromkeys((1, 2, 3), BOOT))
        proxy.commands.clear()
        with store.mirror() as mirror:
            store.update_status(1, MOVE)
            assert mirror.get(1) is MOVE
        with store.lease("me"):
            store.update_status(2, MOVE)
        assert "update_one" not in sent(proxy)
        store.update_status(3, MOVE)
        assert "update_one" in sent(proxy)
        handle = store.open(5)
        sent(proxy)
        store.update_status(5, MOVE)
        assert "update_one" not in sent(proxy)
        handle.clear()

    def test_settings_that_are_due_are_verified_first(self, opened, proxy):
        store = opened()
        age_settings(store, 4000)
        assert store.get(1) is BOOT
        assert proxy.calls("settings") == 1
        assert "HGET" not in sent(proxy)

    def test_read_only_store_reads_and_refuses(self, opened, proxy):
        opened(namespace="looked_at")
        store = opened(namespace="looked_at", read_only=True)
        assert store.get(1) is BOOT
        assert sent(proxy) == ["HGET"]
        with pytest.raises(ReadOnlyStoreError, match="update_status"):
            store.update_status(1, MOVE)


class TestMeanwhile:
    def test_mirror_opened_during_the_call_gets_the_write(self, proxy, threads, stack):
        """Its first look may be older than the write, and the next one is far; the reply is not."""
        store = stack.enter_context(StatusStore.from_url(proxy.url))
        store.update_status(1, BOOT)
        store.update_status(1, BOOT)  # the server knows the script
        proxy.commands.clear()
        proxy.hold("update")
        writing = threads.submit(store.update_status, 1, MOVE)
        real.until(lambda: proxy.calls("update"), "it is sent")
        with store.mirror(period=60) as mirror:
            proxy.release()
            assert writing.result(120) == Update(Outcome.ADVANCED, MOVE)
            assert mirror.get(1) is MOVE

    @pytest.mark.parametrize("meanwhile", ["closed", "lost", "nothing"])
    def test_connection_is_kept_if_it_is_still_good(self, opened, proxy, threads, meanwhile):
        """A lost connection has most likely hit this one, too."""
        store = opened()
        proxy.hold("update")
        writing = threads.submit(store.update_status, 1, MOVE)
        real.until(lambda: proxy.calls("update"), "it is sent")
        assert idle_connections_of(store) == []
        if meanwhile == "closed":
            node_pool_of(store).closed = True  # as close does, in the loop of an asyncio store
        elif meanwhile == "lost":
            known_server_of(store).lost()
        proxy.release()
        assert writing.result(120) == Update(Outcome.ADVANCED, MOVE)
        assert len(idle_connections_of(store)) == (meanwhile == "nothing")
        node_pool_of(store).closed = False

    def test_reply_of_a_former_server_does_not_count(self, opened, proxy, threads):
        """The update is sent again, to the newest one: here the same, which has it already."""
        store = opened()
        proxy.hold("update")
        writing = threads.submit(store.update_status, 1, MOVE)
        real.until(lambda: proxy.calls("update"), "it is sent")
        known_server_of(store).current = b"another"
        proxy.release()
        assert writing.result(120) == Update(Outcome.UNCHANGED, MOVE)

    async def test_call_that_needs_more_keeps_its_place(self, proxy):
        """A new table has no feed, so the usual case is none: the later call must not come before the rest of it."""
        async with AsyncStatusStore.from_url(proxy.url, namespace="new") as store:
            await store.get(7)
            proxy.commands.clear()
            proxy.hold("update")
            first = asyncio.create_task(store.update_status(7, BOOT))
            await asyncio.to_thread(real.until, lambda: "update_one" in sent(proxy), "it is sent")
            second = asyncio.create_task(store.update_status(7, KVPoll.Failed))
            await asyncio.sleep(0)  # it is queued
            proxy.release()
            assert [done.outcome for done in await asyncio.gather(first, second)] == [Outcome.CREATED, Outcome.FAILED]
