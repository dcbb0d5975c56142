"""Owners and leases, heartbeat by heartbeat: renewal, expiry, loss, and what happens to the rooms."""

from __future__ import annotations

import re

import pytest

from redis_kvpoll import InvalidInputError, KVPoll, LeaseLostError, Outcome
from redis_kvpoll.protocol import keys, lease_commands, scripts
from redis_kvpoll.protocol.settings import SETTINGS
from tests.support.contexts import context
from tests.support.internals import executor_of, make_touch_due, rooms_to_touch, run
from tests.support.leasing import (
    LOST,
    NS,
    ManualLease,
    begin_long_ago,
    die,
    now_ms,
    pass_time,
    reap_lost,
    record,
)

BOOT, MOVE, DONE, FAIL = KVPoll.Bootstrapping, KVPoll.Transferring, KVPoll.Success, KVPoll.Failed
LEASES, OWNED, EPOCH, DUE = keys.leases(NS), keys.owned(NS), keys.epoch(NS), keys.due(NS)


@pytest.fixture
def client(client):
    begin_long_ago(client)
    return client


@pytest.fixture
def held(client, make_store):
    """A store that works under a lease."""
    return ManualLease(make_store()).take()


@pytest.fixture
def other(client, make_store):
    """The store of another process."""
    return make_store()


class TestHeldLease:
    def test_record_has_incarnation_ttl_and_heartbeat(self, held, client):
        incarnation, ttl_ms, heartbeat_ms, _, suspected_ms = record(client)
        assert (ttl_ms, heartbeat_ms, suspected_ms) == (5000, 500, 0)
        assert str(incarnation) == held.incarnation
        assert len(held.incarnation) == 16

    def test_created_rooms_are_owned(self, held, client, other):
        held.store.update_status(1, BOOT)
        held.store.update_many({2: MOVE, 3: BOOT})
        held.store.open(4)
        other.update_status(5, BOOT)
        held.store.update_status(5, MOVE)
        assert [other.entry(room).owner for room in range(1, 6)] == ["prefill-0"] * 4 + [None]
        assert {int(room) for room in client.zrange(OWNED, 0, -1)} == {1, 2, 3, 4}
        assert {score for _, score in client.zrange(OWNED, 0, -1, withscores=True)} == {float(held.incarnation)}

    def test_cleared_room_is_not_owned(self, held, client):
        held.store.update_many({1: BOOT, 2: BOOT})
        held.store.clear(1)
        assert client.zrange(OWNED, 0, -1) == ["2"]

    def test_heartbeat_renews_lease_and_removes_suspicion(self, held, client, other):
        pass_time(client, 7)
        other.reap()
        assert record(client)[4] > 0
        last_heartbeat_ms = record(client)[3]
        held.heartbeat()
        assert record(client)[3] > last_heartbeat_ms
        assert record(client)[4] == 0
        pass_time(client, 3)
        assert (other.reap(), held.heartbeat().lost) == (0, False)

    def test_second_lease_of_a_store_is_refused(self, held):
        with pytest.raises(InvalidInputError, match="already; one store holds one lease"):
            ManualLease(held.store, "prefill-1").take()
        held.release()
        assert ManualLease(held.store, "prefill-1").take().incarnation > held.incarnation

    def test_incarnations_grow_when_clock_goes_back(self, client, other, make_store):
        client.hset(LEASES, "last incarnation", "8000000000000004")
        assert ManualLease(other).take().incarnation == "8000000000000005"
        assert ManualLease(make_store(), "prefill-1").take().incarnation == "8000000000000006"

    @pytest.mark.parametrize(
        "wrong",
        [
            {"name": "a b"},
            {"name": ""},
            {"name": None},
            {"ttl": 0},
            {"ttl": "5"},
            {"heartbeat": 1.7},
            {"heartbeat": 0},
            {"heartbeat": True},
        ],
    )
    def test_bad_input_is_refused(self, client, other, wrong):
        with pytest.raises(InvalidInputError, match=r"^lease: "):
            other.lease(**{"name": "prefill-0", "ttl": 5.0, **wrong})
        assert not client.exists(LEASES)
        assert other.lease("prefill-0", 5.0, 5 / 3).heartbeat == 5 / 3

    def test_heartbeat_of_a_third_of_ttl_is_taken(self):
        for tenths in range(1, 200):
            ttl, heartbeat = 3 * tenths / 10, tenths / 10
            assert lease_commands.LeaseConfig.checked("prefill-0", ttl, heartbeat).retry_interval == heartbeat
            with pytest.raises(InvalidInputError, match="above a third of ttl"):
                lease_commands.LeaseConfig.checked("prefill-0", ttl, heartbeat + 0.001)

    def test_heartbeats_extend_ttl_of_live_rooms(self, held, client, other):
        held.store.update_many(dict.fromkeys(range(1200), BOOT) | {2000: DONE})
        other.update_status(3000, BOOT)
        held.store.clear(5)
        client.zadd(OWNED, {"5": float(held.incarnation)})  # as if it had expired
        for room in (0, 1199, 2000, 3000):
            client.pexpire(f"kvpoll:{{default}}:room:{room}", 100_000)
        held.heartbeat()
        assert client.pttl("kvpoll:{default}:room:0") <= 100_000, "every third of the TTL is enough"
        make_touch_due(held.keeper)
        while rooms_to_touch(held.heartbeat().keeper):
            pass
        left = [client.pttl(f"kvpoll:{{default}}:room:{room}") > 100_000 for room in (0, 1199, 2000, 3000)]
        assert left == [True, True, False, False]
        assert client.zscore(OWNED, "5") is None
        assert client.zcard(OWNED) == 1200


class TestClockGoingBack:
    """All times in the records, and that of the epoch, are in the future."""

    def test_dead_owner_is_detected(self, held, client, other):
        held.store.update_status(1, BOOT)
        client.hset(EPOCH, "epoch", "9000000000000000-late")
        pass_time(client, -3600)
        assert other.reap() == 0
        assert die(client, other) == 1
        assert other.failure_reason(1) == LOST

    def test_owner_suspected_before_is_detected(self, held, client, other):
        held.store.update_status(1, BOOT)
        pass_time(client, 10)
        other.reap()
        incarnation, ttl_ms, heartbeat_ms, last_ms, suspected_ms = record(client)
        client.hset(LEASES, "prefill-0", f"{incarnation} {ttl_ms} {heartbeat_ms} {last_ms} {suspected_ms + 3600_000}")
        assert die(client, other) == 1

    def test_living_owner_keeps_its_lease(self, held, client, other):
        pass_time(client, -3600)
        other.reap()
        pass_time(client, 3)
        assert other.reap() == 0
        assert not held.heartbeat().lost


class TestLostLease:
    def test_two_sweeps_fail_the_live_rooms(self, client, make_store, other):
        held = ManualLease(make_store(), ttl=500.0).take()  # so long that what the test itself takes is nothing
        held.store.update_many({1: BOOT, 2: MOVE, 3: DONE, 4: BOOT})
        held.store.abort(4, "no memory")
        other.update_status(5, BOOT)
        room = other.attach(2)
        pass_time(client, 400)
        assert (other.reap(), record(client)[4]) == (0, 0), "it has not expired yet"
        pass_time(client, 150)
        assert other.reap() == other.reap() == 0, "suspected a moment ago"
        assert record(client)[4] > 0
        pass_time(client, 50)
        assert other.reap() == 0, "two heartbeats are not over"
        pass_time(client, 60)
        assert other.reap() == 2
        assert other.poll(range(1, 6)) == [FAIL, FAIL, DONE, FAIL, BOOT]
        assert [other.failure_reason(one) for one in (1, 2, 4)] == [LOST, LOST, "no memory"]
        assert other.entry(1).failed_by == "prefill-0"
        assert 0 < other.entry(1).ttl <= 300
        assert room.status() is FAIL
        assert room.update(DONE).outcome is Outcome.UNCHANGED
        assert client.zcard(OWNED) == 0
        assert record(client) is None
        assert [(owner.name, owner.state, owner.failed) for owner in other.owners()] == [("prefill-0", "lost", 2)]

    def test_second_sweep_waits_at_least_600_ms(self, client, make_store, other):
        for room in range(100):  # until a sweep comes while the suspicion is 500 ms old
            quick = ManualLease(make_store(), ttl=0.3, heartbeat=0.03).take()
            quick.store.update_status(room, BOOT)
            pass_time(client, 0.5)
            other.reap()
            pass_time(client, 0.5)
            suspected_ms, reaped = record(client)[4], other.reap()
            if now_ms(client) < suspected_ms + 600:
                break
        assert reaped == 0
        pass_time(client, 0.15)
        assert other.reap() == 1

    def test_no_lease_is_lost_in_a_young_epoch(self, client, make_store, other):
        held = ManualLease(make_store(), ttl=500.0).take()
        held.store.update_status(1, BOOT)
        client.hset(EPOCH, "epoch", f"{int(held.incarnation) - 100_000_000}-young")
        assert die(client, other, 1000.0, 200.0) == 0
        assert record(client)[4] > 0
        client.hset(EPOCH, "epoch", f"{int(held.incarnation) - 600_000_000}-older")
        pass_time(client, 500)
        assert other.reap() == 0, "it finds the epoch changed, and says nothing of the lease"
        pass_time(client, 0.6)
        assert other.reap() == 1

    def test_paused_owner_gets_lease_lost_errors(self, held, client, other, caplog):
        mine = held.store.open(1)
        held.store.update_status(2, BOOT)
        assert die(client, other) == 2
        for call in (
            lambda: held.store.update_status(3, BOOT),
            lambda: held.store.update_many({3: BOOT}),
            lambda: held.store.open(4),
            lambda: mine.update(DONE),
        ):
            with pytest.raises(LeaseLostError, match="prefill-0"):
                call()
        assert held.store.poll([1, 2, 3, 4]) == [FAIL, FAIL, None, None]
        assert not held.lost
        assert held.heartbeat().lost
        assert held.heartbeat().lost
        assert record(client) is None
        assert len([r for r in caplog.records if "lost its lease" in r.getMessage()]) == 1
        for call in (
            lambda: held.store.update_status(3, BOOT),
            lambda: held.store.set_decode_prefix_len(1, 7),
            lambda: mine.set_decode_prefix_len(7),
        ):
            with pytest.raises(LeaseLostError, match="prefill-0"):
                call()
        assert not client.exists(keys.prefixes(NS, [1])[0])
        held.release()
        assert held.store.update_status(3, BOOT).outcome is Outcome.CREATED
        assert held.store.entry(3).owner is None

    def test_lost_lease_stays_lost_after_epoch_change(self, held, client, other):
        client.hdel(LEASES, "prefill-0")
        client.hset(LEASES, f"lost {held.incarnation}", LOST)
        client.hset(EPOCH, "epoch", "1700000000000001-another")
        assert held.heartbeat().lost
        assert record(client) is None

    def test_lease_known_as_lost_refuses_before_sending(self, held, client, other):
        die(client, other)
        held.heartbeat()
        client.hset(LEASES, "prefill-0", f"{held.incarnation} 5000 500 {held.incarnation[:13]} 0")  # as if it were held
        with pytest.raises(LeaseLostError):
            held.store.update_status(3, BOOT)
        assert not other.get(3)

    def test_rooms_of_a_lost_lease_can_be_cleared(self, held, client, other):
        mine, _ = held.store.open(1), held.store.open(2)
        die(client, other)
        assert held.heartbeat().lost
        with pytest.raises(LeaseLostError):
            mine.fail("late")
        assert (mine.clear().outcome, held.store.clear(2)) == (Outcome.CLEARED, FAIL)
        assert held.store.poll([1, 2]) == [None, None]
        other.open(3)
        assert held.store.attach(3).clear().outcome is Outcome.CLEARED

    def test_heartbeats_sweep_expired_leases(self, held, client, other):
        held.store.update_status(1, BOOT)
        peer = ManualLease(other, "decode-0").take()
        pass_time(client, 10)
        client.hset(LEASES, "decode-0", f"{peer.incarnation} 5000 500 {peer.incarnation[:13]} 0")
        peer.heartbeat()
        assert record(client)[4] > 0
        peer.heartbeat()
        pass_time(client, 2)
        peer.heartbeat()
        assert other.get(1) is FAIL
        assert record(client) is None
        assert record(client, "decode-0")

    def test_holders_share_one_sweep_interval(self, held, client, other):
        for _ in range(100):  # until the heartbeat comes within the sweep interval
            swept_ms = now_ms(client)
            client.hset(LEASES, mapping={"last sweep": swept_ms, "dead": "1000000000000000 1 1 1000000 0"})
            client.zadd(DUE, {"dead": 1000001})
            held.heartbeat()
            if now_ms(client) < swept_ms + 100:
                break
        assert record(client, "dead")[4] == 0
        pass_time(client, 0.2)
        held.heartbeat()
        assert record(client, "dead")[4] > 0


class TestNameTakenAgain:
    def test_rooms_of_former_owner_fail_at_once(self, held, client, other):
        held.store.update_many({1: BOOT, 2: DONE})
        again = ManualLease(other).take()
        assert again.incarnation > held.incarnation
        assert other.poll([1, 2]) == [FAIL, DONE]
        assert other.failure_reason(1) == f"{LOST} (its name was taken again)"
        other.update_status(3, BOOT)
        with pytest.raises(LeaseLostError):
            held.store.update_status(4, BOOT)
        assert held.heartbeat().lost
        held.release()
        assert not again.heartbeat().lost
        assert other.get(3) is BOOT
        assert str(record(client)[0]) == again.incarnation

    def test_reopened_room_belongs_to_new_owner(self, held, client, other):
        """The room is reopened after a reaper has listed it and before it reaps."""
        held.store.update_status(1, BOOT)
        lost = {held.incarnation: LOST}
        held.release()
        ManualLease(other, "prefill-1").take()
        room = other.open(1)
        client.hset(keys.leases(NS), f"lost {held.incarnation}", LOST)
        assert reap_lost(other, lost) == 0
        run(other, executor_of(other).run(lease_commands.reap([1], held.incarnation, LOST), []))
        assert room.status() is BOOT
        assert client.zrange(OWNED, 0, -1) == ["1"]

    @pytest.mark.parametrize("first", ["former", "later"])
    def test_later_incarnation_wins_after_data_loss(self, client, make_store, first):
        """The former holder may not know that its name was taken; that must not end the later lease."""
        former, later = ManualLease(make_store()).take(), ManualLease(make_store()).take()
        client.flushall()
        for one in (former, later) if first == "former" else (later, former):
            one.heartbeat()
        assert not later.lost
        assert str(record(client)[0]) == later.incarnation
        former.heartbeat()
        assert former.lost

    def test_failed_room_taken_over_without_lease_has_no_owner(self, held, client, other):
        held.store.open(1).fail("why")
        other.open(1)
        assert client.zcard(OWNED) == 0


class TestRelease:
    def test_live_rooms_fail_with_reason_left(self, held, client, other):
        held.store.update_many({1: BOOT, 2: DONE})
        held.release()
        assert other.poll([1, 2]) == [FAIL, DONE]
        assert other.failure_reason(1) == "owner prefill-0 left"
        assert set(client.hkeys(LEASES)) <= {"last sweep", "last incarnation"}
        assert client.zcard(OWNED) == client.zcard(DUE) == 0
        held.store.update_status(3, BOOT)
        assert other.entry(3).owner is None

    def test_heartbeat_after_release_revives_nothing(self, held, client):
        held.release()
        held.heartbeat()
        assert record(client) is None


def test_script_head_matches_calls_and_reply():
    text = (scripts.folder() / "lease.lua").read_text(encoding="utf-8")
    labelled = {label: re.search(rf"^-- {label} +(.+)$", text, re.MULTILINE)[1] for label in ("KEYS", "ARGV", "REPLY")}
    first_keys, once, reply = (re.split(r", |; each: ", line) for line in labelled.values())
    table = context(nonce="n")
    config = lease_commands.LeaseConfig.checked("prefill-0", 5.0, None)
    for call in (config.call(table, "ns", "renew", "1", "e"), lease_commands.sweep(table, "ns")):
        assert call.shard_keys == [getattr(keys, name)("ns") for name in first_keys]
        assert len(call.shared_args) == len(once)
        assert call.rooms == call.room_keys == call.room_args == []
        assert call.spec is not SETTINGS
    sent = dict(zip(once, config.call(table, "ns", "renew", "1", "e").shared_args, strict=True))
    assert sent == {
        "process": "",
        "epoch_ttl_ms": table.epoch_ttl_ms,
        "nonce": "n",
        "action": "renew",
        "owner": "prefill-0",
        "incarnation": "1",
        "lease_ttl_ms": "5000",
        "heartbeat_ms": "500",
        "known_epoch": "e",
        "reason": "owner prefill-0 lost",
    }
    assert reply == ["epoch", "feed_id", "room", "status", "state", "incarnation", "finding", "subject", "reason"]
