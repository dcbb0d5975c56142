"""An old primary that wakes after its failover: no call of a store goes there any more, blocking and asyncio."""

from __future__ import annotations

from itertools import groupby

import pytest

from redis_kvpoll import KVPoll, Outcome, OutcomeUnknownError
from redis_kvpoll.protocol import keys
from tests.support import pace, real
from tests.support.leasing import ManualLease

WAIT, MOVE, DONE = KVPoll.WaitingForInput, KVPoll.Transferring, KVPoll.Success
PATIENT = "socket_timeout=100"


@pytest.fixture
def store(failover, side):
    """A store of two shards, whose calls outlast the test: none is lost for its time."""
    return side.open(f"{failover.service.url}?{PATIENT}", namespace="prod", policy="strict", shards=2, deadline=100.0)


@pytest.fixture
def rooms():
    """Rooms of the first shard, and rooms of the second."""
    by_shard = sorted(range(60), key=lambda room: keys.tag("prod", 2, room))
    return [list(some) for _, some in groupby(by_shard, key=lambda room: keys.tag("prod", 2, room))]


def in_flight(failover, threads, call, *args):
    """Make a call that the old primary, which stands still, will answer when it wakes."""
    sent = len(failover.service.commands)
    result = threads.submit(call, *args)
    real.until(lambda: len(failover.service.commands) > sent, "it is sent")
    return result


def fail_over(failover, other):
    """Promote the replica, and let the store meet it, by a handle of the shard without a call in flight."""
    failover.promote()
    other.update(WAIT)
    failover.cut_new()
    other.update(MOVE)


def test_late_reply_brings_no_call_to_old_primary(store, failover, rooms, threads):
    first, second = store.open(rooms[0][0]), store.open(rooms[1][0])
    failover.wait_for_replica()
    failover.pause()
    late = in_flight(failover, threads, first.update, WAIT)
    fail_over(failover, second)
    before = failover.keys_of(failover.new)
    failover.wake()
    assert late.result(pace.seconds(30)).status is WAIT
    handles = [store.open(room) for room in rooms[1][1:11]]
    assert [handle.update(DONE).status for handle in handles] == [DONE] * 10
    old, new = failover.keys_of(failover.old), failover.keys_of(failover.new)
    assert (len(old), len(new - before)) == (2, 10)
    assert first.status() is WAIT
    assert [handle.status() for handle in handles] == [DONE] * 10


def test_late_reply_to_update_is_executed_again(store, failover, rooms, threads):
    """What the old primary has answered is lost with it: only the new one may say that a write was done."""
    first, second = store.open(rooms[0][0]), store.open(rooms[1][0])
    failover.wait_for_replica()
    failover.pause()
    late = in_flight(failover, threads, first.update, DONE)
    fail_over(failover, second)
    failover.wake()
    assert late.result(pace.seconds(30)).status is DONE
    with failover.new.client() as client:
        assert client.hget(keys.rooms("prod/0", [first.id])[0], "status") == b"Success"


def test_late_reply_to_clear_is_unknown(store, failover, rooms, threads):
    """A plain clear is not sent again: it may have been executed on the new primary's data, or not."""
    store.update_status(rooms[0][0], KVPoll.Bootstrapping)
    store.open(rooms[0][1]), store.clear(999)
    second = store.open(rooms[1][0])
    failover.wait_for_replica()
    failover.pause()
    late = in_flight(failover, threads, store.clear, rooms[0][0])
    fail_over(failover, second)
    failover.wake()
    with pytest.raises(OutcomeUnknownError):
        late.result(pace.seconds(30))
    assert store.get(rooms[0][0]) is KVPoll.Bootstrapping


def test_new_primary_at_its_maxmemory_gets_lost_room_back(failover, world):
    """Else nothing more could be sent there: no clear, and no heartbeat."""
    store = world.open(f"{failover.service.url}?{PATIENT}", namespace="prod", deadline=100.0)
    lease = ManualLease(store).take()
    kept = store.open(1)
    failover.wait_for_replica()
    failover.promote()
    lost = store.open(2)  # over a connection to the old one
    with failover.new.client() as client:
        assert not client.exists(*keys.rooms("prod", [2]))
        client.config_set("maxmemory", 1)
    failover.service.cut()
    assert kept.clear().outcome is Outcome.CLEARED
    assert not lease.heartbeat().lost
    assert lost.status() is KVPoll.Bootstrapping
