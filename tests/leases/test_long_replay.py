"""A replay of many rooms may take longer than a lease lasts, and heartbeats wait for its end: it renews the leases."""

from __future__ import annotations

import time

import pytest

from redis_kvpoll.engine.recovery import tracked_rooms
from tests.support.internals import executor_of
from tests.support.leasing import ManualLease, now_ms, pass_time, record

HEARTBEAT = 0.01


@pytest.mark.parametrize("stands_still", [False, True])
def test_leases_are_renewed_while_rooms_are_replayed(store, client, monkeypatch, stands_still):
    """Once, if the process stands still for which it is: its rooms need it, but it must not last."""
    monkeypatch.setattr(tracked_rooms, "MAX_REPLAYED", 1)
    lease = ManualLease(store, ttl=500.0, heartbeat=HEARTBEAT).take()
    for room in range(4):
        store.open(room)
    losses = executor_of(store).recovery.losses
    replayed = []

    def take_long(count, restored=losses.restored):
        restored(count)
        replayed.append(count)
        pass_time(client, 200)
        time.sleep(HEARTBEAT)

    client.flushall()
    monkeypatch.setattr(losses, "restored", take_long)
    lease.keeper.stands_still = lambda: stands_still
    store.open(9)
    *_, last_heartbeat, _ = record(client)
    assert replayed == [1, 1, 1, 1]
    assert (now_ms(client) - last_heartbeat > 500_000) is stands_still
    assert lease.keeper.lost is False
