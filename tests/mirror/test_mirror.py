"""Mirrors on every server, blocking and asyncio, without faults."""

from __future__ import annotations

import asyncio
import functools
import os

import pytest

from redis_kvpoll import (
    AsyncMirror,
    FeedOffError,
    InvalidInputError,
    KVPoll,
    Mirror,
    StatusStore,
    StoreClosedError,
    StoreUnavailableError,
)
from tests.support import pace, real
from tests.support.internals import follower_threads_of, inner, replica_of, tracked_rooms_of
from tests.support.mirrors import following, never_stale, sleeping

BOOT, INPUT, MOVE, DONE, FAIL = (
    KVPoll.Bootstrapping,
    KVPoll.WaitingForInput,
    KVPoll.Transferring,
    KVPoll.Success,
    KVPoll.Failed,
)
ROOM = 2**64 - 1


class TestReading:
    def test_rooms_from_before_opening_are_there(self, store, peer):
        peer.update_many({room: 1 + room % 4 for room in range(2_500)})
        peer.update_status(ROOM, FAIL)
        with store.mirror() as mirror:
            real.until(lambda: mirror.synced, "synced")
            assert mirror.lag < 60
            assert mirror.poll([0, 1, 2, 2_499, 2_500]) == [BOOT, INPUT, MOVE, DONE, None]
            assert mirror.get(5, "gone") is INPUT
            assert mirror.get(ROOM, "gone") == "gone"

    def test_get_is_the_method_of_a_dict(self, store, peer):
        peer.update_status(ROOM, DONE)
        with store.mirror() as mirror:
            get = inner(mirror).get
            assert type(get.__self__) is dict  # and so no code of ours runs
            assert get(ROOM) is DONE

    def test_paced_mirror_shows_changes_and_blocks_nobody(self, store, peer, client, monkeypatch):
        """Its reads wait for nothing on the server, so that they cost what their number costs."""
        never_stale(monkeypatch)
        with store.mirror(period=0.02) as mirror:
            for status in (BOOT, MOVE, DONE):
                peer.update_status(ROOM, status)
                real.until(lambda status=status: mirror.get(ROOM) is status, "shown")
            assert mirror.synced
            assert not [found for found in client.client_list() if "b" in found["flags"]]
        with pytest.raises(InvalidInputError, match=r"^mirror: period must be from 0.001"):
            store.mirror(period=0)

    def test_changes_by_others_arrive(self, store, peer):
        with store.mirror() as mirror:
            peer.update_status(ROOM, BOOT)
            real.until(lambda: mirror.get(ROOM) is BOOT, "created")
            peer.update_status(ROOM, MOVE)
            real.until(lambda: mirror.get(ROOM) is MOVE, "advanced")
            peer.abort(ROOM, "why")
            real.until(lambda: mirror.get(ROOM) is FAIL, "failed")
            peer.clear(ROOM)
            real.until(lambda: mirror.get(ROOM) is None, "cleared")
            real.until(lambda: mirror.synced, "synced")

    def test_own_writes_are_visible_at_once(self, store):
        with store.mirror() as mirror:
            for room in range(30):
                store.update_status(room, BOOT)
                assert mirror.get(room) is BOOT
                store.update_status(room, MOVE)
                assert mirror.get(room) is MOVE
                store.abort(room) if room % 2 else store.clear(room)
                assert mirror.get(room) is (FAIL if room % 2 else None)
            store.update_many(dict.fromkeys(range(100, 2_300), DONE))
            assert mirror.poll(range(100, 2_300)) == [DONE] * 2_200
            store.clear_many(range(100, 2_300))
            assert mirror.poll(range(100, 2_300)) == [None] * 2_200

    def test_reason_of_a_failure_is_in_the_copy(self, store, peer):
        peer.update_many({1: MOVE, 2: MOVE, 3: MOVE})
        peer.abort(3, "before")
        with store.mirror() as mirror:
            peer.abort(1, "no memory")
            store.record_failure(2, "own")
            store.update_status(2, FAIL)
            real.until(lambda: mirror.failure_reason(1) and mirror.failure_reason(2), "the feed is read")
            assert [mirror.failure_reason(room) for room in range(5)] == [None, "no memory", "own", None, None]
            assert [store.failure_reason(room) for room in (1, 2, 3)] == ["no memory", "own", "before"]
            peer.clear(1)
            real.until(lambda: mirror.get(1) is None, "cleared")
            assert mirror.failure_reason(1) is None
            with pytest.raises(InvalidInputError, match=r"^failure_reason: a room is"):
                mirror.failure_reason("1")
        with pytest.raises(StoreClosedError, match=r"^failure_reason: this mirror was closed"):
            mirror.failure_reason(1)

    def test_own_unchanged_write_shows_the_current_status(self, store, peer):
        with store.mirror() as mirror:
            peer.update_status(1, DONE)
            assert store.update_status(1, BOOT).status is DONE
            real.until(lambda: mirror.get(1) is DONE, "the peer's")

    def test_predicate_selects_rooms(self, store, peer):
        peer.update_many(dict.fromkeys(range(10), BOOT))
        with store.mirror(rooms=lambda room: room % 2 == 0) as mirror:
            peer.update_many(dict.fromkeys(range(10, 20), BOOT))
            store.update_status(21, BOOT)
            real.until(lambda: mirror.get(18), "the last")
            assert sorted(replica_of(mirror).statuses) == list(range(0, 20, 2))
            with pytest.raises(InvalidInputError, match=r"^wait: this mirror leaves room 21 out"):
                mirror.wait(21)

    def test_mirror_follows_all_shards(self, side, server):
        store = side.over(server, shards=5, namespace="many")
        store.update_many(dict.fromkeys(range(300), BOOT))
        with store.mirror() as mirror, StatusStore(server.store_client(), namespace="many") as peer:
            peer.update_many(dict.fromkeys(range(0, 300, 2), DONE))
            real.until(lambda: mirror.poll(range(300)) == [DONE, BOOT] * 150, "all shards")
            real.until(lambda: mirror.synced, "synced")

    def test_expired_room_disappears(self, side, server):
        store = side.over(server, ttl=0.3, terminal_ttl=0.3)
        store.update_status(1, BOOT)
        with store.mirror() as mirror:
            store.update_status(2, BOOT)
            with StatusStore(server.store_client(), ttl=0.3, terminal_ttl=60) as peer:
                peer.update_many({3: BOOT, 4: DONE})
                real.until(lambda: mirror.get(4), "the feed is read")
            real.until(lambda: mirror.poll([1, 2, 3]) == [None] * 3, "they expired")
            assert mirror.get(4) is DONE
            real.until(lambda: mirror.synced, "synced")

    def test_touched_room_stays(self, side, server, peer):
        store = side.over(server)
        with StatusStore(server.store_client(), ttl=pace.seconds(0.3)) as brief:
            brief.update_many({1: BOOT, 2: BOOT})
            with store.mirror() as mirror:
                while not peer.touch([1]):  # it has expired already
                    brief.update_status(1, BOOT)
                real.until(lambda: mirror.get(2) is None, "the other expired")
                assert mirror.get(1) is peer.get(1) is BOOT

    def test_keys_made_by_hand_are_absent(self, store, client):
        client.hset("kvpoll:{default}:room:1", "status", "Banana")
        client.set("kvpoll:{default}:room:2", "a text")
        with store.mirror() as mirror:
            assert mirror.poll([1, 2]) == [None, None]
        client.delete("kvpoll:{default}:room:1", "kvpoll:{default}:room:2")

    @pytest.mark.parametrize("options", [{"protocol": 2, "decode_responses": True}, {"protocol": 3}])
    def test_mirror_works_with_any_client_options(self, side, server, peer, options):
        store = side.over(server, options)
        store.update_status(1, BOOT)
        with store.mirror() as mirror:
            peer.update_status(1, MOVE)
            real.until(lambda: mirror.get(1) is MOVE, "it reads the feed")
            assert store.wait(1, MOVE) is MOVE


class TestCallbacks:
    def test_callback_gets_each_change_in_order(self, store, peer, monkeypatch):
        never_stale(monkeypatch)
        store.update_status(0, BOOT)
        with store.mirror() as mirror:
            changes = []
            end = mirror.on_change(lambda room, status: changes.append((room, status)))
            store.update_status(1, BOOT)
            peer.update_status(1, MOVE)
            store.update_status(1, DONE)
            peer.touch([0])
            peer.clear(1)
            real.until(lambda: len(changes) >= 4, "all changes")
            assert changes == [(1, BOOT), (1, MOVE), (1, DONE), (1, None)]
            end()
            end()
            store.update_status(2, BOOT)
            peer.update_status(3, BOOT)
            real.until(lambda: mirror.get(3), "the feed is read")
            assert len(changes) == 4

    @pytest.mark.parametrize("error", [ZeroDivisionError, asyncio.CancelledError, SystemExit])
    def test_callback_that_raises_stops_nothing(self, store, peer, caplog, error):
        def fail(room, status):
            raise error

        with store.mirror() as mirror:
            changes = []
            mirror.on_change(fail)
            mirror.on_change(lambda room, status: changes.append(room))
            peer.update_status(1, BOOT)
            peer.update_status(2, BOOT)
            real.until(lambda: changes == [1, 2], "both")
            real.until(lambda: mirror.synced, "synced")
        assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [error] * 2

    def test_callback_may_use_the_mirror(self, store, peer):
        with store.mirror() as mirror:
            seen = []
            bare = inner(mirror)
            mirror.on_change(lambda room, status: seen.append((bare.get(room), type(bare.synced))))
            peer.update_status(1, BOOT)
            real.until(lambda: seen == [(BOOT, bool)], "called without the lock")

    def test_wait_inside_callback_is_refused_at_once(self, server, peer):
        with StatusStore(server.store_client()) as store, store.mirror() as mirror:
            found = []

            def listen(room, status):
                try:
                    mirror.wait(room, timeout=60)
                except Exception as error:
                    found.append((room, error))

            mirror.on_change(listen)
            peer.update_status(1, BOOT)
            real.until(lambda: found, "refused, and not asleep")
            assert found[0][0] == 1
            assert isinstance(found[0][1], InvalidInputError)

    def test_callback_waiting_in_thread_does_not_block_close(self, server, peer, threads):
        store = StatusStore(server.store_client())
        with store.mirror() as mirror:
            mirror.on_change(lambda room, status: threads.submit(mirror.wait, 1).exception(60))
            peer.update_status(1, BOOT)
            real.until(lambda: sleeping(mirror), "it sleeps")
            with pace.Stopwatch() as took:
                mirror.close()
            assert took.seconds < 30
        store.close()

    def test_callback_may_close_the_mirror(self, server, peer):
        with StatusStore(server.store_client()) as store, store.mirror() as mirror:
            mirror.on_change(lambda room, status: mirror.close())
            (thread,) = follower_threads_of(mirror)
            peer.update_status(1, BOOT)
            real.until(lambda: not thread.is_alive(), "it ends")
            with pytest.raises(StoreClosedError):
                mirror.get(1)


class TestLifecycle:
    def test_unopened_and_closed_mirrors_refuse_calls(self, store):
        mirror = store.mirror()
        assert not mirror.synced
        assert mirror.lag == float("inf")
        mirror.on_change(lambda room, status: None)
        with pytest.raises(StoreClosedError, match=r"^poll: "):
            mirror.poll([])
        for use in (lambda: mirror.get(1), lambda: mirror.poll([1]), lambda: mirror.wait(1)):
            with pytest.raises(StoreClosedError, match="is not open: use it in a with statement"):
                use()
        mirror.close()
        mirror.close()
        assert not mirror.synced
        listen = functools.partial(mirror.on_change, print)
        for use in (lambda: mirror.get(1), lambda: mirror.poll([]), lambda: mirror.wait(1), mirror.__enter__, listen):
            with pytest.raises(StoreClosedError, match="was closed"):
                use()

    def test_close_is_quick_and_leaves_nothing(self, side, server, store):
        store.update_status(1, BOOT)
        for _ in range(3):
            mirror = store.mirror().__enter__()
            with pace.Stopwatch() as took:
                mirror.close()
            assert took.seconds < 10
            assert not following(side)
            assert not mirror.synced

    def test_closing_the_store_closes_its_mirrors(self, side, store):
        mirror = store.mirror().__enter__()
        store.close()
        assert not following(side)
        with pytest.raises(StoreClosedError):
            mirror.get(1)
        with pytest.raises(StoreClosedError, match=r"^mirror: "):
            store.mirror()

    def test_mirror_without_feed_is_refused(self, side, server):
        store = side.over(server, feed_length=0)
        with pytest.raises(FeedOffError, match=r"^mirror: namespace 'default' was opened with feed_length=0"):
            store.mirror().__enter__()
        with pytest.raises(FeedOffError, match=r"^wait: "):
            store.wait(1)
        assert not following(side)

    def test_mirror_without_server_is_unavailable(self, side):
        store = side.open(f"redis://127.0.0.1:{real.free_port()}", deadline=0.2)
        with pytest.raises(StoreUnavailableError, match=r"^mirror "):
            store.mirror().__enter__()
        with pytest.raises(StoreUnavailableError, match=r"^wait "):
            store.wait(1)
        assert not following(side)

    def test_predicate_error_is_raised(self, side, store):
        store.update_status(1, BOOT)
        with pytest.raises(Exception, match="ZeroDivisionError"):
            store.mirror(rooms=lambda room: 1 / 0).__enter__()
        assert not following(side)
        with pytest.raises(InvalidInputError, match=r"^mirror: rooms is a function"):
            store.mirror(rooms=[1])

    def test_predicate_error_costs_own_calls_nothing(self, store, peer):
        """The server has executed them; the store tracks what it has opened."""
        with store.mirror(rooms=lambda room: 1 / (room - 5)) as mirror:
            room = store.open(5, "request")
            assert room.update(MOVE).status is MOVE
            assert store.update_many({5: DONE, 6: BOOT})[5].status is DONE
            assert peer.poll([5, 6]) == [DONE, BOOT]
            assert tracked_rooms_of(store).in_shard("default").keys() == {5}
            real.until(lambda: not mirror.synced, "the mirror has noticed")

    def test_two_mirrors_of_a_store_are_complete(self, store, peer):
        with store.mirror() as one, store.mirror() as other:
            peer.update_status(1, BOOT)
            store.update_status(2, BOOT)
            assert one.get(2) is other.get(2) is BOOT
            real.until(lambda: one.get(1) is other.get(1) is BOOT, "both")

    def test_mirror_class_matches_store(self, side, store):
        mirror = store.mirror()
        assert isinstance(inner(mirror), AsyncMirror if side.is_async else Mirror)


class TestFork:
    def test_forked_child_follows_anew_or_is_refused(self, side, server, store, peer):
        if server.is_fake:
            pytest.skip("fakeredis lives in one process")
        peer.update_status(1, BOOT)
        with store.mirror() as mirror:
            assert in_child(lambda: self.child(side, store, mirror)) == 0
            peer.update_status(1, DONE)
            real.until(lambda: mirror.get(1) is DONE, "the parent's goes on")
            real.until(lambda: mirror.synced, "synced")

    @staticmethod
    def child(side, store, mirror):
        if side.is_async:
            with pytest.raises(StoreClosedError, match="this one is a fork"):
                mirror.get(1)
            return
        assert not mirror.synced
        assert mirror.get(1) is BOOT
        real.until(lambda: mirror.synced, "synced")
        store.update_status(2, MOVE)
        assert mirror.poll([1, 2]) == [BOOT, MOVE]
        assert store.wait(2, MOVE) is mirror.wait(2, MOVE) is MOVE
        mirror.close()
        store.close()
        assert not following(side)


def in_child(do):
    """The exit code of a child process that does something, by fork as servers fork their workers."""
    pid = os.fork()
    if pid == 0:
        try:
            do()
            os._exit(0)
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
    for _ in pace.turns(30):
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    return "it hung"


def test_repr_shows_state():
    with StatusStore.from_url("memory://", namespace="prod") as store:
        store.update_status(1, BOOT)
        mirror = store.mirror()
        assert repr(mirror) == "<Mirror namespace='prod': not open>"
        with mirror:
            real.until(lambda: "'prod': 1 room, synced=True, lag=0." in repr(mirror), "current")
        assert repr(mirror) == "<Mirror namespace='prod': closed>"
