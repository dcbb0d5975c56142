"""Reaping, loss of data and shards: leases and their rooms when more than a heartbeat goes wrong."""

from __future__ import annotations

import contextlib
import time

import pytest

from redis_kvpoll import KVPoll, LeaseLostError, Outcome, StatusStore, StoreUnavailableError
from redis_kvpoll.engine.effects import AwaitCalls
from redis_kvpoll.engine.leases import reaper
from redis_kvpoll.engine.retry import CallFailed
from redis_kvpoll.protocol import keys, lease_commands
from tests.support.feeds import entries
from tests.support.internals import context_of, executor_of, make_visit_due, run
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
LEASES, OWNED = keys.leases(NS), keys.owned(NS)


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
    """Another process."""
    return make_store()


def tags_of(effect):
    return [pending.call.tag for pending in effect.pending_calls]


def answered_except_first(effect, held, state):
    """Answer the calls of a heartbeat, but not that to the first shard."""
    for pending in effect.pending_calls:
        if pending.call.tag == keys.tags(NS, 4)[0]:
            pending.failure = CallFailed(StoreUnavailableError, "no answer")
        else:
            pending.reply = [state, held.incarnation.encode()]
    return effect


def failures(client, tag=NS):
    """The rooms that became Failed, once for each time."""
    for _, fields in entries(client, tag):
        yield from (name for name, value in zip(fields[::2], fields[1::2], strict=True) if value == b"Failed")


class TestReaping:
    @pytest.fixture
    def chunk(self, server, monkeypatch):
        """Rooms a call. fakeredis takes seconds for thousands."""
        if server.is_fake:
            monkeypatch.setattr(lease_commands, "MAX_REAPED", 10)
        return lease_commands.MAX_REAPED

    def test_rooms_fail_in_chunks_and_once(self, held, client, make_store, chunk):
        rooms = range(chunk * 5 // 2)
        held.store.update_many(dict.fromkeys(rooms, BOOT))
        one, two = make_store(), make_store()
        pass_time(client, 10)
        one.reap()
        pass_time(client, 2)
        lost = {held.incarnation: LOST}
        executor = executor_of(one)
        run(one, executor.send_calls("look", [lease_commands.sweep(context_of(one), NS)]))
        two.get(1)
        run(one, executor.run(lease_commands.reap(list(rooms)[:chunk], held.incarnation, LOST), []))
        assert reap_lost(two, lost) == chunk * 3 // 2
        assert reap_lost(one, lost) == 0
        found = list(failures(client))
        assert len(found) == len(set(found)) == len(rooms)
        assert not client.exists(OWNED)

    def test_reaper_held_up_over_a_loss_fails_nothing(self, held, client, other):
        """The holder has brought its rooms back by then, under the same lease."""
        room = held.store.open(1)
        pass_time(client, 10)
        other.reap()
        pass_time(client, 2)
        run(other, executor_of(other).send_calls("look", [lease_commands.sweep(context_of(other), NS)]))
        client.flushall()
        held.heartbeat()
        assert reap_lost(other, {held.incarnation: LOST}) == 0
        assert room.status() is BOOT
        assert client.zrange(OWNED, 0, -1) == ["1"]
        assert not held.heartbeat().lost

    def test_unfinished_reap_is_completed_by_next_sweep(self, held, client, other, chunk):
        held.store.update_many(dict.fromkeys(range(chunk * 3 // 2), BOOT))
        pass_time(client, 10)
        other.reap()
        pass_time(client, 2)
        executor, swept_ms = executor_of(other), now_ms(client)
        found = lease_commands.parse_report(
            run(other, executor.send_calls("look", [lease_commands.sweep(context_of(other), NS)]))[0]
        )
        assert found.lost == {held.incarnation: LOST}
        assert reap_lost(other, found.lost, until=0.0) == chunk
        assert client.zscore(keys.due(NS), f"lost {held.incarnation}") >= swept_ms + 500
        client.zadd(keys.due(NS), {f"lost {held.incarnation}": now_ms(client) + 60_000})  # the test takes time, too
        assert other.reap() == 0, "that sweeper may be going on"
        pass_time(client, 61)
        assert other.reap() == chunk // 2

    def test_all_ranks_of_a_room_fail(self, client, make_store):
        ranks = [make_store(rank=rank, world_size=3) for rank in range(3)]
        held = ManualLease(ranks[0]).take()
        for store in ranks[:2]:
            store.update_status(1, MOVE)
        before = ranks[1].consensus([1])[0]
        assert die(client, ranks[2]) == 1
        assert [store.get(1) for store in ranks] == [FAIL] * 3
        after = ranks[1].consensus([1])[0]
        assert (after.status, after.version > before.version) == (FAIL, True)
        assert ranks[2].update_status(1, DONE) == (Outcome.FAILED, FAIL)
        assert held.heartbeat().lost

    def test_reap_drops_prefix_length_in_mode_prefill(self, client, make_store):
        store = make_store(mode="prefill")
        ManualLease(store).take()
        store.set_decode_prefix_len(1, 7)
        store.update_status(1, BOOT)
        assert die(client, make_store()) == 1
        assert not client.exists("kvpoll:{default}:prefix:1")

    def test_highest_room_is_reaped(self, held, client, other):
        held.store.update_status(2**64 - 1, BOOT)
        assert die(client, other) == 1
        assert other.get(2**64 - 1) is FAIL

    def test_keys_made_by_hand_do_not_stop_reaping(self, held, client, other):
        held.store.update_many({1: BOOT, 2: BOOT})
        client.delete("kvpoll:{default}:room:1")
        client.lpush("kvpoll:{default}:room:1", "x")
        client.pexpire("kvpoll:{default}:room:1", 60000)
        for member in ("banana", "9" * 25, str(2**64)):
            client.zadd(OWNED, {member: float(held.incarnation)})
        client.hset(LEASES, mapping={"hand": "made", "made hand": "1 2 3"})
        assert die(client, other) == 1
        assert other.get(2) is FAIL
        assert [owner.state for owner in other.owners()] == ["lost"]


class TestDataLoss:
    def test_heartbeat_restores_lease_with_same_incarnation(self, held, client, other):
        held.store.update_status(1, BOOT)
        client.flushall()
        held.heartbeat()
        assert not held.lost
        assert str(record(client)[0]) == held.incarnation
        assert held.store.update_status(2, BOOT).outcome is Outcome.CREATED

    def test_write_restores_lease_before_heartbeat(self, held, client):
        held.store.update_status(1, BOOT)
        client.flushall()
        assert held.store.update_status(2, BOOT).status is BOOT
        assert str(record(client)[0]) == held.incarnation

    def test_heartbeat_recovers_owned_rooms(self, held, client, other):
        room = held.store.open(1)
        room.update(MOVE)
        client.flushall()
        held.heartbeat()
        assert other.get(1) is MOVE
        assert other.entry(1).owner == "prefill-0"
        assert client.zrange(OWNED, 0, -1) == ["1"]

    def test_lease_is_lost_when_name_was_taken_after_loss(self, held, client, other):
        held.store.open(1)
        client.flushall()
        again = ManualLease(other).take()
        assert held.heartbeat().lost
        assert other.get(1) is None
        assert str(record(client)[0]) == again.incarnation

    def test_rooms_of_lost_lease_are_not_recovered(self, held, client, other):
        """Neither while the lease is lost, nor later when the store works without one."""
        held.store.open(1)
        die(client, other)
        assert held.heartbeat().lost
        client.flushall()
        with pytest.raises(LeaseLostError):
            held.store.update_status(2, BOOT)
        held.heartbeat()
        held.release()
        held.store.open(2)
        assert held.store.poll([1, 2]) == [None, BOOT]
        assert record(client) is None

    def test_rooms_failed_at_release_are_recovered_as_failed(self, held, client, other):
        held.store.open(1)
        held.release()
        client.flushall()
        held.store.open(2)
        assert held.store.poll([1, 2]) == [FAIL, BOOT]
        assert held.store.failure_reason(1) == "owner prefill-0 left"


class TestShards:
    TAGS = tuple(keys.tags(NS, 4))

    @pytest.fixture
    def held(self, client, make_store):
        begin_long_ago(client, self.TAGS)
        held = ManualLease(make_store(shards=4)).take()
        held.store.update_many(dict.fromkeys(range(40), BOOT))
        return held

    def test_all_shards_share_one_incarnation(self, held, client):
        assert {str(record(client, tag=tag)[0]) for tag in self.TAGS} == {held.incarnation}
        assert {held.store.entry(room).owner for room in range(40)} == {"prefill-0"}
        assert sum(client.zcard(keys.owned(tag)) for tag in self.TAGS) == 40
        (owner,) = held.store.owners()
        assert (owner.name, owner.rooms, owner.state) == ("prefill-0", 40, "alive")

    def test_rooms_of_all_shards_fail(self, held, client, make_store):
        other = make_store()
        pass_time(client, 10, self.TAGS)
        assert other.reap() == 0
        pass_time(client, 2, self.TAGS)
        assert other.reap() == 40
        assert [(owner.state, owner.failed) for owner in other.owners()] == [("lost", 40)]

    def test_lease_lost_in_one_shard_is_lost_in_all(self, held, client, make_store):
        """In a shard that is not its home it lasts longer: until its holder could not reach that for long."""
        other = make_store()
        pass_time(client, 10, self.TAGS[2:3])
        assert other.reap() == 0
        pass_time(client, 400, self.TAGS[2:3])
        assert other.reap() == 0
        pass_time(client, 400, self.TAGS[2:3])
        assert other.reap() == 40
        assert [record(client, tag=tag) for tag in self.TAGS] == [None] * 4
        assert held.heartbeat().lost
        assert {other.failure_reason(room) for room in range(40)} == {LOST}

    def test_new_incarnation_is_above_highest_of_any_shard(self, held, client, make_store):
        """The clock of one shard was ahead when the name was taken there."""
        high = int(held.incarnation) + 10**12
        client.hset(keys.leases(self.TAGS[3]), "prefill-0", f"{high} 5000 500 1 0")
        again = ManualLease(make_store()).take()
        assert int(again.incarnation) > high
        assert {str(record(client, tag=tag)[0]) for tag in self.TAGS} == {again.incarnation}
        assert held.heartbeat().lost

    def test_heartbeats_go_to_first_shard_and_visit_others(self, held):
        assert tags_of(next(held.keeper.send_heartbeat())) == list(self.TAGS[:1])
        make_visit_due(held.keeper)
        assert tags_of(next(held.keeper.send_heartbeat())) == list(self.TAGS)

    @pytest.mark.parametrize("hours", [10, 24 * 30])
    def test_long_lease_is_renewed_every_day_in_every_shard(self, held, make_store, monkeypatch, hours):
        """The leases' key expires after a week."""
        lease = ManualLease(make_store(), "prefill-1", hours * 3600.0).take()
        tomorrow = time.monotonic() + 24 * 3600
        monkeypatch.setattr(time, "monotonic", lambda: tomorrow)
        assert lease.keeper.seconds_until_heartbeat() <= 0
        assert tags_of(next(lease.keeper.send_heartbeat())) == list(self.TAGS)

    def test_unreachable_shard_does_not_hide_lost_lease(self, held, client):
        """The replies of the reachable shards count, though the heartbeat as a whole fails."""
        make_visit_due(held.keeper)
        effects = held.keeper.send_heartbeat()
        sent = answered_except_first(next(effects), held, b"held")
        with pytest.raises(StoreUnavailableError, match="lease of namespace 'default': no answer"):
            effects.send(None)
        held.keeper.heartbeat_failed(StoreUnavailableError("away"))
        make_visit_due(held.keeper)
        effects = held.keeper.send_heartbeat()
        sent = answered_except_first(next(effects), held, b"unknown")
        assert {pending.give_up_at - time.monotonic() < 5 / 3 for pending in sent.pending_calls} == {True}
        answered_except_first(effects.send(None), held, b"lost")
        next(effects)  # it drops the lease in the other shards
        assert held.lost

    def test_release_covers_all_shards(self, held, client, make_store):
        held.release()
        assert make_store().counts()[FAIL] == 40
        assert [record(client, tag=tag) for tag in self.TAGS] == [None] * 4
        assert [client.zcard(keys.due(tag)) for tag in self.TAGS] == [0] * 4


class TestOwners:
    def test_owners_lists_state_rooms_and_times(self, client, make_store, other):
        held = ManualLease(make_store(), ttl=500.0).take()
        held.store.update_many({1: BOOT, 2: DONE})
        peer = ManualLease(other, "decode-0", ttl=200.0, heartbeat=0.5).take()
        one, two = other.owners()
        assert (one.name, one.state, one.rooms, one.ttl, one.heartbeat) == ("prefill-0", "alive", 1, 500.0, 50.0)
        assert (two.name, two.state, two.rooms, two.ttl) == ("decode-0", "alive", 0, 200.0)
        assert (str(one.incarnation), str(two.incarnation)) == (held.incarnation, peer.incarnation)
        assert abs(one.since - one.last_heartbeat_at) < 60
        pass_time(client, 300)
        assert [owner.state for owner in other.owners()] == ["alive", "expired"]
        other.reap()
        assert [owner.state for owner in other.owners()] == ["alive", "suspected"]

    def test_empty_namespace_has_no_owners(self, other):
        assert (other.owners(), other.reap()) == ([], 0)


def test_shard_that_is_away_is_asked_for_one_lost_lease(server):
    """Else each of several owners that die together waits for it, and most are not reached before the sweep ends."""
    away, asked = "default/1", []

    def without_one_shard(flow):
        effect = next(flow)
        with contextlib.suppress(StopIteration):
            while True:
                pending = effect.pending_calls if isinstance(effect, AwaitCalls) else []
                asked.extend(one.call.tag for one in pending if one.call.spec is lease_commands.LEASE)
                there = [one for one in pending if one.call.tag != away]
                effect = flow.send((yield AwaitCalls(there) if pending else effect))

    with StatusStore(server.store_client(), shards=2) as store:
        store.update_status(1, KVPoll.Bootstrapping)
        lost = dict.fromkeys(("1", "2", "3"), "owner prefill-0 lost")
        run(store, without_one_shard(reaper.reap_lost(executor_of(store), context_of(store), lost)))
    assert asked == ["default/0", away, "default/0", "default/0"]
