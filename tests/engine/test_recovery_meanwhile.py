"""What comes while a shard or the settings are verified: calls of signal handlers, and losses that others find."""

from __future__ import annotations

import contextlib

import pytest

from redis_kvpoll import KVPoll, StatusStore
from redis_kvpoll.engine.leases.settings_renewal import renew_settings
from redis_kvpoll.protocol import keys
from tests.support import real
from tests.support.internals import executor_of, transport_of
from tests.support.interrupts import every_place, interrupted_at

BOOT, MOVE = KVPoll.Bootstrapping, KVPoll.Transferring
IN_RECOVERY = ("/engine/recovery/", "engine.recovery.")
"""The second is how the code of a mutation is named."""


@pytest.fixture
def server():
    with real.World("sync") as world:
        yield world.shared()


@pytest.fixture
def client(server):
    with server.client() as client:
        yield client


def lose_all(store, client):
    client.flushall()


def find_another_server(store, client):
    executor_of(store).recovery.servers["default"] = b"the former one"


@pytest.mark.parametrize("event", [lose_all, find_another_server])
def test_handler_may_open_rooms_at_any_place(server, client, event):
    """Signal handlers and finalizers interrupt the thread that verifies a shard, or replays its rooms."""
    with StatusStore.from_url(server.tcp, deadline=60.0) as store:
        handles = [store.open(room) for room in range(3)]
        for handle in handles:
            handle.update(MOVE)

        def recover(number):
            opened = []
            event(store, client)
            try:
                was_interrupted = interrupted_at(
                    number, handles[0].status, lambda: opened.append(store.open(100 + number)), IN_RECOVERY
                )
            except RuntimeError as error:
                pytest.fail(f"place {number}: {error}")
            assert [handle.status() for handle in handles] == [MOVE] * 3, f"place {number}"
            for handle in opened:
                assert handle.clear().status is BOOT, f"place {number}"
            return was_interrupted

        every_place(recover, at_least=50)


def test_shard_that_another_thread_marks_is_verified(server):
    """It finds another server for its shard, at any place of the verification of this thread's."""
    mine, others = keys.tags("default", 2)
    with StatusStore.from_url(server.tcp, shards=2, deadline=60.0) as store:
        handles = {keys.tag("default", 2, handle.id): handle for handle in map(store.open, range(8))}
        recovery = executor_of(store).recovery

        def verify(number):
            recovery.server_changed(mine, b"another")
            was_interrupted = interrupted_at(
                number, handles[mine].status, lambda: recovery.server_changed(others, b"another"), IN_RECOVERY
            )
            assert recovery.needs_check([others]) is was_interrupted, f"place {number}"
            assert handles[others].status() is BOOT
            assert not recovery.needs_check([mine, others])
            return was_interrupted

        every_place(verify)


def test_settings_asked_for_before_a_loss_do_not_count(server, client):
    """Those that a heartbeat reads, while another thread finds the loss."""
    with StatusStore.from_url(server.tcp, deadline=60.0) as store:
        store.open(1)
        session = executor_of(store).session
        renewal = renew_settings(session)
        reply = transport_of(store).perform(next(renewal))
        client.flushall()
        session.server_changed()
        with contextlib.suppress(StopIteration):
            renewal.send(reply)
        store.get(1)
        assert client.exists(keys.settings("default"))
