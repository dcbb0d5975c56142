"""Races that were reported against SGLang's dict and have no test there.

Neither policy can tell an old request's late message from the new request that reuses the room: these tests hold what
each policy does with one. Generations can tell: see test_generations.py.
"""

from __future__ import annotations

import threading

import pytest

from redis_kvpoll import KVPoll, KVTransferError, Outcome, StatusStore, Update

ROOM = 1655955501905217457
KEY = f"kvpoll:{{default}}:room:{ROOM}"
PREFIX = f"kvpoll:{{default}}:prefix:{ROOM}"

SKIPPED = Update(Outcome.SKIPPED, None)
REAL = ("valkey", "redis", "redis62")


def serve(store, *, until=KVPoll.Success):
    """One request's life up to a status."""
    for status in KVPoll:
        if KVPoll.Failed < status <= until:
            store.update_status(ROOM, status)


class TestLateAfterClear:
    """A cleared room stays cleared: its entry would leak, since no process is left to clear it again."""

    @pytest.fixture
    def store(self, make_store, policy):
        store = make_store(policy=policy)
        serve(store)
        assert store.clear(ROOM) is KVPoll.Success
        return store

    def test_late_failed_does_not_recreate_room(self, store, client):
        assert store.update_status(ROOM, KVPoll.Failed) == SKIPPED
        assert store.update_many({ROOM: KVPoll.Failed}) == {ROOM: SKIPPED}
        assert store.abort(ROOM, "client went away") == SKIPPED
        assert store.record_failure(ROOM, "client went away") is False
        assert not client.exists(KEY)

    def test_next_request_does_not_start_failed(self, store):
        store.abort(ROOM, "client went away")
        assert store.update_status(ROOM, KVPoll.Bootstrapping) == Update(Outcome.CREATED, KVPoll.Bootstrapping)
        assert store.failure_reason(ROOM) is None

    @pytest.mark.parametrize("late", [KVPoll.Transferring, KVPoll.Success])
    def test_late_progress_recreates_room_under_compat_only(self, store, policy, client, late):
        """As in SGLang's own table; under compat the TTL ends the leak."""
        expected = Update(Outcome.CREATED, late) if policy == "compat" else SKIPPED
        assert store.update_status(ROOM, late) == expected
        assert bool(client.exists(KEY)) is (policy == "compat")
        if policy == "compat":
            assert 0 < client.pttl(KEY) <= 900_000

    def test_touch_does_not_recreate_room(self, store, client):
        assert store.touch([ROOM]) == 0
        assert not client.exists(KEY)


class TestLateInNextRequest:
    """The room has been cleared and opened again: both policies take the old request's message for the new one's."""

    @pytest.fixture
    def store(self, make_store, policy):
        store = make_store(policy=policy)
        serve(store)
        store.clear(ROOM)
        store.update_status(ROOM, KVPoll.Bootstrapping)
        return store

    def test_late_abort_fails_the_new_request(self, store):
        assert store.abort(ROOM, "of the old request") == Update(Outcome.FAILED, KVPoll.Failed)
        assert store.failure_reason(ROOM) == "of the old request"

    def test_new_request_recovers_under_compat_only(self, store, policy):
        store.abort(ROOM, "of the old request")
        update = store.update_status(ROOM, KVPoll.WaitingForInput)
        if policy == "compat":
            assert update == Update(Outcome.ADVANCED, KVPoll.WaitingForInput)
            assert store.failure_reason(ROOM) is None  # or a later failure would name the wrong cause
        else:
            assert update == Update(Outcome.UNCHANGED, KVPoll.Failed)
            assert store.failure_reason(ROOM) == "of the old request"

    def test_late_success_ends_the_new_request(self, store):
        assert store.update_status(ROOM, KVPoll.Success) == Update(Outcome.ADVANCED, KVPoll.Success)

    def test_reason_does_not_outlive_its_request(self, store):
        store.abort(ROOM, "first")
        store.clear(ROOM)
        store.update_status(ROOM, KVPoll.Bootstrapping)
        store.update_status(ROOM, KVPoll.Failed)
        with pytest.raises(KVTransferError, match="no reason was recorded"):
            store.failure_exception(ROOM)


class TestFailedThenSuccess:
    """max() over the numbers promotes Failed, which is 0, to anything: compat keeps that, strict does not."""

    @pytest.mark.parametrize("end", [KVPoll.Bootstrapping, KVPoll.Transferring, KVPoll.Success])
    def test_failed_is_left_under_compat_only(self, make_store, policy, end):
        store = make_store(policy=policy)
        serve(store, until=KVPoll.Transferring)
        store.abort(ROOM, "peer lost")
        expected = Update(Outcome.ADVANCED, end) if policy == "compat" else Update(Outcome.UNCHANGED, KVPoll.Failed)
        assert store.update_status(ROOM, end) == expected
        assert store.get(ROOM) is expected.status

    def test_success_then_failed_is_failed(self, make_store, policy):
        store = make_store(policy=policy)
        serve(store)
        assert store.update_status(ROOM, KVPoll.Failed) == Update(Outcome.FAILED, KVPoll.Failed)

    def test_failed_in_batch_is_left_under_compat_only(self, make_store, policy):
        store = make_store(policy=policy)
        store.update_many(dict.fromkeys(range(10), KVPoll.Transferring) if policy == "compat" else {})
        store.update_many(dict.fromkeys(range(10), KVPoll.Bootstrapping))
        store.update_many(dict.fromkeys(range(0, 10, 2), KVPoll.Failed))
        store.update_many(dict.fromkeys(range(10), KVPoll.Success))
        failed = [] if policy == "compat" else [0, 2, 4, 6, 8]
        assert sorted(store.rooms(KVPoll.Failed)) == failed


def test_duplicate_clear_is_no_error(make_store, policy):
    store = make_store(policy=policy)
    serve(store)
    assert [store.clear(ROOM), store.clear(ROOM)] == [KVPoll.Success, None]
    assert store.clear_many([ROOM, ROOM]) == {ROOM: None}


class TestDecodePrefixLength:
    """Prefill records it before the room's first status, so a failure must drop it even when the room is absent."""

    @pytest.mark.parametrize("fail", ["update_status", "update_many", "abort"])
    def test_failure_of_absent_room_drops_length(self, make_store, policy, client, fail):
        store = make_store(policy=policy, mode="prefill")
        store.set_decode_prefix_len(ROOM, 4096)
        arguments = {"update_status": (ROOM, KVPoll.Failed), "update_many": ({ROOM: KVPoll.Failed},), "abort": (ROOM,)}
        getattr(store, fail)(*arguments[fail])
        assert client.exists(KEY, PREFIX) == 0
        assert store.pop_decode_prefix_len(ROOM) == 0

    def test_second_failure_drops_newer_length(self, make_store, policy):
        store = make_store(policy=policy, mode="prefill")
        serve(store, until=KVPoll.Bootstrapping)
        for fail in (store.abort, store.abort, lambda room: store.update_status(room, KVPoll.Failed)):
            store.set_decode_prefix_len(ROOM, 4096)
            fail(ROOM)
            assert store.pop_decode_prefix_len(ROOM) == 0

    def test_progress_keeps_length(self, make_store, policy):
        store = make_store(policy=policy, mode="prefill")
        store.set_decode_prefix_len(ROOM, 4096)
        serve(store)
        assert store.pop_decode_prefix_len(ROOM) == 4096


class TestAbortRacingClear:
    """Both at the same time, many rounds: whichever comes first, the room is gone afterwards, and stays gone."""

    ROUNDS = 150

    @pytest.mark.parametrize("server", REAL, indirect=True)
    def test_abort_racing_clear_leaves_no_room(self, server, client, policy):
        stores = [StatusStore(server.store_client(), policy=policy) for _ in range(2)]
        setup = StatusStore(server.store_client(), policy=policy, mode="none")
        start, end = threading.Barrier(3), threading.Barrier(3)
        answers: dict[str, object] = {}

        def repeat(name, act):
            for _ in range(self.ROUNDS):
                start.wait(60)
                answers[name] = act()
                end.wait(60)

        racers = [
            threading.Thread(target=repeat, args=("abort", lambda: stores[0].abort(ROOM, "raced")), daemon=True),
            threading.Thread(target=repeat, args=("clear", lambda: stores[1].clear(ROOM)), daemon=True),
        ]
        for racer in racers:
            racer.start()
        seen = set()
        for _ in range(self.ROUNDS):
            setup.update_status(ROOM, KVPoll.Bootstrapping)
            setup.set_decode_prefix_len(ROOM, 7)
            start.wait(60)
            end.wait(60)
            seen.add((answers["abort"], answers["clear"]))
            assert client.exists(KEY, PREFIX) == 0
        for racer in racers:
            racer.join(60)
        for store in (*stores, setup):
            store.close()
        abort_first = (Update(Outcome.FAILED, KVPoll.Failed), KVPoll.Failed)
        clear_first = (SKIPPED, KVPoll.Bootstrapping)
        assert seen <= {abort_first, clear_first}
        assert seen, "no round was run"
