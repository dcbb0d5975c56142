"""A cluster moves a slot, key by key, while a store is in use."""

from __future__ import annotations

import contextlib

import pytest

from redis_kvpoll import KVPoll, Outcome, Update
from redis_kvpoll.protocol import keys
from redis_kvpoll.protocol.keys import tag
from tests.support import leasing, pace, real
from tests.support.backup import lose_room
from tests.support.internals import transport_of

SHARDS = 8
ROOMS = range(400)
TAG = "prod/3"
HERE = tuple(room for room in ROOMS if tag("prod", SHARDS, room) == TAG)


@pytest.fixture(params=("sync", "async"))
def world(request, cluster):
    with real.World(request.param) as world:
        world.share(*cluster.nodes)
        yield world


@pytest.fixture
def store(world, cluster):
    return world.open(cluster.url, namespace="prod", shards=SHARDS, deadline=60.0)


@contextlib.contextmanager
def half_moved(world, cluster, rooms):
    """A store of a namespace in one slot, of which every second room has moved; in the end, so has everything."""
    store = world.open(cluster.url, namespace="single", deadline=60.0)
    store.update_many(dict.fromkeys(rooms, 1))
    cluster.start_moving("single")
    try:
        for room in rooms:
            if room % 2:
                cluster.move_key(f"kvpoll:{{single}}:room:{room}")
        yield store
    finally:
        cluster.finish_moving("single")


def redirects(client):
    """How many calls a node has answered with ASK."""
    return client.info("errorstats").get("errorstat_ASK", {"count": 0})["count"]


class TestMovingSlots:
    """A slot moves while a store is in use."""

    def test_store_works_after_slot_has_moved(self, store, cluster):
        store.update_many(dict.fromkeys(ROOMS, 1))
        cluster.start_moving(TAG)
        cluster.finish_moving(TAG)
        assert store.clear(HERE[0]) is KVPoll.Bootstrapping
        assert store.poll(ROOMS).count(None) == 1
        assert sorted(store.rooms()) == sorted(set(ROOMS) - {HERE[0]})

    @pytest.mark.parametrize("endpoint", ["unknown-endpoint", "hostname"])
    def test_store_works_where_redirects_name_no_host(self, store, cluster, endpoint):
        """Then the host is that of the node that was asked; "hostname" without one announces "?"."""
        for client in cluster.clients:
            client.config_set("cluster-preferred-endpoint-type", endpoint)
        try:
            store.update_status(HERE[0], 1)
            cluster.start_moving(TAG)
            cluster.move_key(f"kvpoll:{{{TAG}}}:room:{HERE[0]}")
            assert store.get(HERE[0]) is KVPoll.Bootstrapping
            cluster.finish_moving(TAG)
            assert store.update_status(HERE[0], 3).status is KVPoll.Transferring
        finally:
            for client in cluster.clients:
                client.config_set("cluster-preferred-endpoint-type", "ip")

    def test_room_missing_at_target_is_recovered(self, store, cluster):
        """As when a demoted primary redirects to its successor, a replica that lagged."""
        survivor, lost = (store.open(room) for room in HERE[:2])
        survivor.status()
        cluster.start_moving(TAG)
        cluster.finish_moving(TAG)
        lose_room(cluster.owner(TAG), TAG, lost.id)
        assert lost.update(KVPoll.Transferring) == Update(Outcome.ADVANCED, KVPoll.Transferring)
        assert survivor.status() is KVPoll.Bootstrapping

    def test_room_cleared_meanwhile_stays_cleared_at_target(self, store, cluster, world):
        """Another node is another server, but the feed came with the slot: nothing was lost."""
        kept, cleared = (store.open(room) for room in HERE[:2])
        world.open(cluster.url, namespace="prod", deadline=60.0).clear(cleared.id)
        cluster.start_moving(TAG)
        cluster.finish_moving(TAG)
        assert kept.update(KVPoll.Transferring) == Update(Outcome.ADVANCED, KVPoll.Transferring)
        assert cleared.update(KVPoll.Transferring) == Update(Outcome.STALE, None)

    def test_scan_finds_moved_rooms(self, world, store, cluster):
        """Every node answers SCAN, with the keys that it has."""
        store.update_many(dict.fromkeys(ROOMS, 1))
        observer = world.open(cluster.url, namespace="prod", deadline=60.0)
        assert sorted(observer.rooms()) == sorted(ROOMS)
        cluster.start_moving(TAG)
        cluster.finish_moving(TAG)
        assert sorted(observer.rooms()) == sorted(ROOMS)
        assert sum(observer.counts().values()) == len(ROOMS)

    def test_scan_ends_while_slot_is_moving(self, store, cluster):
        store.update_many(dict.fromkeys(ROOMS, 1))
        cluster.start_moving(TAG)
        try:
            assert sorted(store.rooms()) == sorted(ROOMS)
        finally:
            cluster.finish_moving(TAG)

    @pytest.mark.parametrize("first", [0, 1])
    def test_listing_is_complete_while_half_of_a_slot_has_moved(self, world, cluster, first):
        """Whether the room 0 is there or not: both nodes have rooms, and each answers SCAN with its own."""
        rooms = range(first, 100)
        with half_moved(world, cluster, rooms) as store:
            assert sorted(store.rooms()) == list(rooms)

    @pytest.mark.parametrize("first", [0, 1])
    def test_new_mirror_is_complete_once_the_slot_has_moved(self, cluster, threads, first):
        rooms = range(first, 100)
        with real.World("sync") as world:
            world.share(*cluster.nodes)
            with half_moved(world, cluster, rooms) as store:
                source = cluster.owner("single")
                before = redirects(source)

                def polled_at_once():
                    with store.mirror() as mirror:
                        return mirror.poll(rooms)

                found = threads.submit(polled_at_once)
                real.until(lambda: redirects(source) > before, "it has been redirected")
            assert found.result(pace.seconds(60)) == [KVPoll.Bootstrapping] * len(rooms)

    def test_redirect_is_followed_once(self, world, store, cluster, monkeypatch):
        store.update_many(dict.fromkeys(HERE, 1))
        cluster.start_moving(TAG)
        cluster.finish_moving(TAG)
        transport = transport_of(store)
        effects, perform = [], transport.perform
        monkeypatch.setattr(transport, "perform", lambda one: effects.append(type(one).__name__) or perform(one))
        store.poll(HERE)
        store.poll(HERE)
        # Sent, redirected, sent to a node that may not know the script, sent whole; and then just sent.
        assert effects[:3] == ["Send", "FollowRedirect", "Send"]
        assert (effects.count("FollowRedirect"), effects[-1]) == (1, "Send")

    def test_reads_work_while_slot_is_moving(self, store, cluster):
        old, new, *_ = HERE
        store.update_status(old, 1)
        cluster.start_moving(TAG)
        try:
            assert [store.get(room) for room in (old, new)] == [KVPoll.Bootstrapping, None]
            cluster.move_key(f"kvpoll:{{{TAG}}}:feed")
            assert [change.status for change in store.history(old)] == [
                KVPoll.Bootstrapping
            ]  # ASK: it is at the target
            cluster.move_key(f"kvpoll:{{{TAG}}}:room:{old}")
            assert [store.get(room) for room in (old, new)] == [KVPoll.Bootstrapping, None]
        finally:
            cluster.finish_moving(TAG)

    @pytest.mark.parametrize(
        ("read", "answer"),
        [
            (lambda store, old, new: store.poll([old, new]), [KVPoll.Bootstrapping, None]),
            (lambda store, old, new: store.entry(old).status, KVPoll.Bootstrapping),
            (lambda store, old, new: store.attach(old).status(), KVPoll.Bootstrapping),
        ],
        ids=["poll", "entry", "attach"],
    )
    def test_read_of_several_keys_waits_for_end_of_move(self, store, cluster, monkeypatch, read, answer):
        """One of the keys is absent: the other room, or the decode prefix length."""
        old, new, *_ = HERE
        store.update_status(old, 1)
        cluster.start_moving(TAG)
        pauses = real.at_the_second_pause(monkeypatch, lambda: cluster.finish_moving(TAG))  # TRYAGAIN until then
        assert read(store, old, new) == answer
        assert len(pauses) == 2

    @pytest.mark.parametrize("moved", ["room", "feed"])
    @pytest.mark.parametrize(
        ("change", "answer"),
        [
            (lambda store, room: store.update_status(room, 2), (Outcome.ADVANCED, KVPoll.WaitingForInput)),
            (lambda store, room: store.abort(room, "why"), (Outcome.FAILED, KVPoll.Failed)),
            (lambda store, room: store.record_failure(room, "why"), True),
            (lambda store, room: store.touch([room]), 1),
            (lambda store, room: store.clear(room), KVPoll.Bootstrapping),
        ],
        ids=["update", "abort", "record_failure", "touch", "clear"],
    )
    def test_change_waits_until_room_and_feed_are_together(self, store, cluster, monkeypatch, change, answer, moved):
        room = HERE[0]
        store.update_status(room, 1)
        cluster.start_moving(TAG)
        cluster.move_key(f"kvpoll:{{{TAG}}}:{'feed' if moved == 'feed' else f'room:{room}'}")
        pauses = real.at_the_second_pause(monkeypatch, lambda: cluster.finish_moving(TAG))  # TRYAGAIN until then
        assert change(store, room) == answer
        assert len(pauses) == 2
        assert len(store.history(room)) == 2, "executed once, and in the moved feed"

    def test_change_works_while_room_and_feed_are_together(self, store, cluster):
        store.update_status(HERE[0], 1)
        cluster.start_moving(TAG)
        try:
            assert store.update_status(HERE[0], 2).outcome is Outcome.ADVANCED
        finally:
            cluster.finish_moving(TAG)

    def test_new_room_waits_for_end_of_move(self, store, cluster, monkeypatch):
        old, new, *_ = HERE
        store.update_status(old, 1)
        cluster.start_moving(TAG)
        pauses = real.at_the_second_pause(monkeypatch, lambda: cluster.finish_moving(TAG))
        assert store.update_status(new, 1).outcome is Outcome.CREATED
        assert len(pauses) == 2
        assert [change.room for change in [*store.history(old), *store.history(new)]] == [old, new]

    def test_split_batch_waits_for_end_of_move(self, store, cluster, monkeypatch):
        old, new, *_ = HERE
        store.update_status(old, 1)
        cluster.start_moving(TAG)
        pauses = real.at_the_second_pause(monkeypatch, lambda: cluster.finish_moving(TAG))  # TRYAGAIN until then
        assert store.update_many({old: 2, new: 2}) == {
            old: (Outcome.ADVANCED, KVPoll.WaitingForInput),
            new: (Outcome.CREATED, KVPoll.WaitingForInput),
        }
        assert len(pauses) == 2

    def test_split_clear_waits_for_end_of_move(self, store, cluster, monkeypatch):
        room = HERE[0]
        store.update_status(room, 1)  # the room is there, its prefix length is not: TRYAGAIN
        cluster.start_moving(TAG)
        pauses = real.at_the_second_pause(monkeypatch, lambda: cluster.finish_moving(TAG))
        assert store.clear(room) is KVPoll.Bootstrapping
        assert len(pauses) == 2

    def test_failed_room_is_taken_over_while_slot_is_moving(self, store, cluster, monkeypatch):
        """A key that the script removed could not be made again: the room, or the list of its owner's only room."""
        leasing.ManualLease(store).take()
        former = store.open(HERE[0], request="former")
        former.set_decode_prefix_len(7)
        former.fail("why")
        source = cluster.owner(TAG)
        cluster.start_moving(TAG)
        pauses = real.at_the_second_pause(monkeypatch, lambda: cluster.finish_moving(TAG))
        try:
            later = store.open(HERE[0], request="later")
            assert pauses == [], "all keys are there"
            found = source.hgetall(keys.rooms(TAG, [HERE[0]])[0])
            assert (found["status"], found["request"]) == ("Bootstrapping", "later")
            assert (found["generation"], found.get("reason")) == (str(later.generation), None)
            assert source.zscore(keys.owned(TAG), HERE[0]) is not None
            assert [change.status for change in store.history(HERE[0])][-1] is KVPoll.Bootstrapping
        finally:
            if not pauses:
                cluster.finish_moving(TAG)

    @pytest.mark.parametrize("end", ["left", "lost"])
    def test_rooms_of_the_last_lease_fail_when_it_ends_meanwhile(self, world, cluster, monkeypatch, end):
        """Nothing is due then for a moment, and that key could not be made again."""
        source, tags = cluster.owner("single"), ("single",)
        leasing.begin_long_ago(source, tags)
        store, other = (world.open(cluster.url, namespace="single", deadline=60.0) for _ in range(2))
        lease = leasing.ManualLease(store).take()
        store.open(1)
        assert other.get(1) is KVPoll.Bootstrapping
        if end == "lost":
            leasing.pass_time(source, 10.0, tags)
            assert other.reap() == 0
            leasing.pass_time(source, 2.0, tags)
        cluster.start_moving("single")
        pauses = real.at_the_second_pause(monkeypatch, lambda: cluster.finish_moving("single"))
        _ = lease.release() if end == "left" else other.reap()
        assert len(pauses) == 2, "no stream of failures can be made before"
        assert other.failure_reason(1) == f"owner prefill-0 {end}"

    def test_namespace_in_one_slot_moves_with_settings(self, world, cluster):
        store = world.open(cluster.url, namespace="single", policy="strict", deadline=60.0)
        store.update_status(1, 1)
        cluster.start_moving("single")
        cluster.move_key("kvpoll:{single}:settings")
        second = world.open(cluster.url, namespace="single", deadline=60.0)
        try:  # the settings are at the target, the room is not
            assert [second.get(room) for room in (1, 2)] == [KVPoll.Bootstrapping, None]
        finally:
            cluster.finish_moving("single")
        assert second.update_status(2, KVPoll.Success).outcome is Outcome.SKIPPED, "strict, as in the settings"
        assert second.update_status(2, 1).outcome is Outcome.CREATED
        assert store.poll([1, 2]) == [KVPoll.Bootstrapping] * 2
        assert second.clear_many([1, 2]).keys() == {1, 2}
