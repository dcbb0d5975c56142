"""The parts that ranks hold in a room under their leases: a lost part fails the whole room."""

from __future__ import annotations

import pytest

from redis_kvpoll import KVPoll
from redis_kvpoll.protocol import keys
from tests.support.feeds import entries
from tests.support.internals import make_touch_due
from tests.support.leasing import NS, ManualLease, begin_long_ago, now_ms, pass_time, record

BOOT, MOVE, DONE, FAIL = KVPoll.Bootstrapping, KVPoll.Transferring, KVPoll.Success, KVPoll.Failed
OWNED, LEASES = keys.owned(NS), keys.leases(NS)
ROOM = "kvpoll:{default}:room:1"


@pytest.fixture
def client(client):
    begin_long_ago(client)
    return client


@pytest.fixture
def ranks(client, make_store):
    """Three ranks of one room, each under a lease of its own."""
    return [ManualLease(make_store(rank=rank, world_size=3), f"prefill-{rank}").take() for rank in range(3)]


@pytest.fixture
def other(client, make_store):
    return make_store()


def open_all(ranks, room=1, status=MOVE):
    """Open a room on every rank. Returns their handles."""
    handles = [one.store.open(room, request="rid") for one in ranks]
    for handle in handles:
        handle.update(status)
    return handles


def die(client, dead, living, other):
    """Let the heartbeats of some end, while those of others go on. Returns how many rooms the last process failed."""
    failed = 0
    for seconds in (10.0, 2.0, 1.0):
        pass_time(client, seconds)
        for one in living:
            one.heartbeat()
        failed += other.reap()
    assert [record(client, one.keeper.name) for one in dead] == [None] * len(dead)
    return failed


def failures(client):
    return [fields for _, fields in entries(client, NS) if b"Failed" in fields]


class TestLostParts:
    @pytest.mark.parametrize("lost", [0, 1, 2])
    def test_lost_rank_fails_the_room_once(self, client, ranks, other, lost):
        open_all(ranks)
        dead, living = ranks[lost], [one for one in ranks if one is not ranks[lost]]
        die(client, [dead], living, other)
        assert [one.store.get(1) for one in living] == [FAIL, FAIL]
        assert other.failure_reason(1) == f"owner prefill-{lost} lost"
        assert other.entry(1).failed_by == f"prefill-{lost} rank {lost}"
        assert len(failures(client)) == 1
        assert [one.heartbeat().lost for one in living] == [False, False]

    def test_rank_that_joined_by_plain_update_holds_its_part(self, client, ranks, other):
        for one in ranks:
            one.store.update_status(1, MOVE)
        die(client, ranks[2:], ranks[:2], other)
        assert other.failure_reason(1) == "owner prefill-2 lost"

    def test_rank_without_lease_that_opened_hides_no_part(self, client, make_store, other):
        make_store(rank=0, world_size=2).update_status(1, BOOT)
        held = ManualLease(make_store(rank=1, world_size=2), "prefill-1").take()
        held.store.update_status(1, MOVE)
        die(client, [held], [], other)
        assert other.failure_reason(1) == "owner prefill-1 lost"
        assert not client.exists(OWNED)

    @pytest.mark.parametrize("end", ["Success", "clear"])
    @pytest.mark.parametrize("lost", [0, 1])
    def test_rank_that_had_finished_is_no_part(self, client, ranks, other, lost, end):
        handles = open_all(ranks)
        handles[lost].clear() if end == "clear" else handles[lost].update(DONE)
        die(client, ranks[lost : lost + 1], ranks[:lost] + ranks[lost + 1 :], other)
        assert other.get(1) is MOVE
        assert other.failure_reason(1) is None

    def test_rest_of_a_lost_opener_is_noticed_later(self, client, ranks, other):
        """The room was listed for the opener, which had finished."""
        handles = open_all(ranks)
        handles[0].update(DONE)
        die(client, ranks[:1], ranks[1:], other)
        assert other.get(1) is MOVE
        make_touch_due(ranks[1].keeper)
        make_touch_due(ranks[2].keeper)
        client.pexpire(ROOM, 100_000)
        for one in ranks[1:]:
            one.heartbeat()
        assert client.pttl(ROOM) > 100_000, "another holder keeps it alive"
        die(client, ranks[2:], ranks[1:2], other)
        assert other.failure_reason(1) == "owner prefill-2 lost"

    def test_lost_together_fail_a_room_once(self, client, ranks, other):
        handles = open_all(ranks)
        open_all(ranks, 2, DONE)
        handles[0].update(DONE)
        assert die(client, ranks, [], other) == 1
        assert [other.get(room) for room in (1, 2)] == [FAIL, DONE]
        assert not client.exists(OWNED)

    def test_left_part_fails_the_room(self, ranks, other):
        open_all(ranks)
        ranks[1].release()
        assert other.failure_reason(1) == "owner prefill-1 left"
        ranks[0].release()
        assert [owner.name for owner in other.owners()] == ["prefill-2"]

    def test_part_is_held_again_after_loss_of_data(self, client, ranks, other):
        open_all(ranks)
        client.flushall()
        client.hset(keys.epoch(NS), "epoch", "1700000000000001-another")
        client.pexpire(keys.epoch(NS), 3600_000)
        for one in ranks:
            one.heartbeat()
        assert other.get(1) is MOVE
        for one in ranks:
            assert client.hget(ROOM, f"by:{one.keeper.name[-1]}") == one.incarnation
        die(client, ranks[1:2], [ranks[0], ranks[2]], other)
        assert other.failure_reason(1) == "owner prefill-1 lost"

    def test_retaken_name_fails_rooms_that_it_joined(self, client, ranks, make_store, other):
        open_all(ranks)
        ManualLease(make_store(rank=2, world_size=3), "prefill-2").take()
        assert other.failure_reason(1) == "owner prefill-2 lost (its name was taken again)"


class TestLists:
    def test_room_costs_one_member_however_many_ranks(self, client, ranks):
        for room in range(10):
            open_all(ranks, room)
        rooms = [member for member in client.zrange(OWNED, 0, -1) if member.isdigit()]
        assert len(rooms) == 10
        assert client.zcard(OWNED) == 12, "and an entry for each pair of leases"

    def test_room_of_8_ranks_takes_700_bytes(self, client, server, make_store):
        """Of all keys but the feed, with a request id as long as a UUID."""
        if server.kind != "valkey":
            pytest.skip("the budget is for one server; others have other overheads")
        count = 200
        for rank in range(8):
            held = ManualLease(make_store(rank=rank, world_size=8), f"prefill-{rank}").take()
            for room in range(2**62, 2**62 + count):
                held.store.open(room, request="3fa85f64-5717-4562-b3fc-2c963f66afa6").update(MOVE)
        found = [key for key in client.scan_iter(count=1000) if ":room:" in key or key == OWNED]
        assert len(found) == count + 1
        assert sum(client.memory_usage(key, samples=0) for key in found) / count <= 700

    def test_foreign_members_do_not_hide_rooms(self, client, make_store, other):
        """A page of which nothing is a room is not the end."""
        held = ManualLease(make_store()).take()
        held.store.update_many({8: BOOT, 9: MOVE})
        score = float(held.incarnation)
        client.zadd(OWNED, {f"!{number}": score for number in range(1500)} | {"007": score, "0x7": score})
        assert die(client, [held], [], other) == 2
        assert other.poll([8, 9]) == [FAIL, FAIL]
        assert not client.exists(OWNED)

    def test_foreign_members_do_not_end_touching(self, client, make_store):
        held = ManualLease(make_store()).take()
        held.store.update_status(9, MOVE)
        client.zadd(OWNED, {f"!{number}": float(held.incarnation) for number in range(1500)})
        client.pexpire("kvpoll:{default}:room:9", 100_000)
        make_touch_due(held.keeper)
        held.heartbeat()
        assert client.pttl("kvpoll:{default}:room:9") > 100_000


class TestOwners:
    def test_owners_count_what_each_takes_part_in(self, client, ranks, other):
        handles = open_all(ranks)
        open_all(ranks[1:], 2)
        handles[0].update(DONE)
        assert {owner.name: owner.rooms for owner in other.owners()} == {"prefill-0": 0, "prefill-1": 2, "prefill-2": 2}

    def test_lost_are_listed_for_an_hour(self, client, ranks, other):
        open_all(ranks)
        open_all(ranks, 2)
        open_all(ranks, 3, DONE)
        die(client, ranks[1:2], [ranks[0], ranks[2]], other)
        (lost,) = [owner for owner in other.owners() if owner.state == "lost"]
        assert (lost.name, lost.failed, lost.rooms, lost.reason) == ("prefill-1", 2, 0, "owner prefill-1 lost")
        pass_time(client, 3000)
        other.reap()
        assert len(other.owners()) == 3
        pass_time(client, 700)
        other.reap()
        assert [owner.name for owner in other.owners() if owner.incarnation == lost.incarnation] == []
        assert [name for name in client.hkeys(LEASES) if str(lost.incarnation) in name] == []


class TestCosts:
    def test_start_looks_at_no_other_lease(self, client, make_store):
        for number in range(300):
            client.hset(LEASES, f"old-{number}", f"{1700000000000000 + number} 5000 500 1700000000000 0")
            client.zadd(keys.due(NS), {f"old-{number}": 1700000005000})
        client.hset(LEASES, "last sweep", "1700000000000")
        held = ManualLease(make_store()).take()
        assert record(client, "old-0")[4] == 0, "not suspected: nobody looked"
        assert not held.lost

    def test_renewed_lease_is_looked_at_once_per_ttl(self, client, make_store, other):
        """A heartbeat leaves the due time as it is; the sweep that looks then finds it renewed, and moves it."""
        held = ManualLease(make_store(), ttl=500.0).take()
        held.heartbeat()
        pass_time(client, 300)
        due_ms = client.zscore(keys.due(NS), "prefill-0")
        for _ in range(100):  # until the heartbeat comes within the sweep interval
            swept_ms = now_ms(client)
            client.hset(LEASES, "last sweep", swept_ms)
            client.zadd(keys.due(NS), {"prefill-0": due_ms})
            held.heartbeat()
            if now_ms(client) < swept_ms + 100:
                break
        assert client.zscore(keys.due(NS), "prefill-0") == due_ms, "another process has just swept"
        pass_time(client, 300)
        client.hset(LEASES, "prefill-0", f"{held.incarnation} 500000 50000 {now_ms(client)} 0")
        other.reap()
        assert client.zscore(keys.due(NS), "prefill-0") >= due_ms + 300_000
        assert record(client)[4] == 0

    def test_missing_due_times_are_found_again(self, client, make_store, other):
        held = ManualLease(make_store()).take()
        held.store.update_status(1, MOVE)
        peer = ManualLease(other, "decode-0").take()
        client.delete(keys.due(NS))
        pass_time(client, 1)
        peer.heartbeat()
        assert client.zcard(keys.due(NS)) == 2
        die(client, [held], [peer], other)
        assert other.get(1) is FAIL
