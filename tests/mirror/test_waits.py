"""Waits of a mirror and of a store on every server, blocking and asyncio."""

from __future__ import annotations

import threading
import time

import pytest

from redis_kvpoll import (
    InvalidInputError,
    KVPoll,
    RoomNotFoundError,
    StatusStore,
    StoreClosedError,
    StoreUnavailableError,
    WaitTimeoutError,
)
from redis_kvpoll.sync.waits import poll
from tests.support import pace, real
from tests.support.fuzzing import NoTruth
from tests.support.internals import replica_of
from tests.support.mirrors import following, sleeping, threads_that_follow

BOOT, INPUT, MOVE, DONE, FAIL = (KVPoll(number) for number in (1, 2, 3, 4, 0))


class TestWaiting:
    """The same for a mirror and for the store itself."""

    @pytest.fixture(params=("mirror", "store"))
    def waits(self, request, store):
        if request.param == "store":
            yield store
        else:
            with store.mirror() as mirror:
                yield mirror

    def test_wait_wakes_on_change(self, waits, store, peer, threads):
        store.update_status(1, BOOT)
        found = threads.submit(waits.wait, 1, timeout=30)
        real.until(lambda: sleeping(waits), "it sleeps")
        peer.update_status(1, MOVE)
        assert not found.done()
        peer.update_status(1, DONE)
        assert found.result(pace.seconds(120)) is DONE
        assert isinstance(found.result(), KVPoll)

    def test_wait_wakes_on_own_change(self, waits, store, threads):
        store.update_status(1, BOOT)
        found = threads.submit(waits.wait, 1, MOVE)
        real.until(lambda: sleeping(waits), "it sleeps")
        store.abort(1, "why")
        assert found.result(pace.seconds(120)) is FAIL

    def test_wait_returns_at_once_when_reached(self, waits, store):
        store.update_many({1: DONE, 2: FAIL, 3: MOVE})
        assert (waits.wait(1), waits.wait(3, 2), waits.wait(1, FAIL, timeout=0)) == (DONE, MOVE, DONE)

    def test_wait_for_absent_room_raises(self, waits, store, threads):
        with pytest.raises(RoomNotFoundError, match=r"^wait: room 1 is not in the table"):
            waits.wait(1, timeout=30)
        store.update_status(1, BOOT)
        found = threads.submit(waits.wait, 1)
        real.until(lambda: sleeping(waits), "it sleeps")
        store.clear(1)
        with pytest.raises(KeyError):
            found.result(pace.seconds(120))

    def test_room_opened_elsewhere_a_moment_ago_is_found(self, waits, store, peer, threads, monkeypatch):
        """The feed has not told it yet."""
        store.update_status(2, BOOT)
        with pytest.raises(WaitTimeoutError):
            waits.wait(2, timeout=0.01)
        replica = replica_of(waits)
        slow, read = threading.Event(), replica.read

        def read_slowly(tag, entries, at_tail, now):
            if slow.is_set():
                read(tag, entries, at_tail, now)

        monkeypatch.setattr(replica, "read", read_slowly)
        peer.update_status(1, BOOT)
        assert waits.wait(1, BOOT, timeout=pace.seconds(20)) is BOOT
        found = threads.submit(waits.wait, 1, MOVE, timeout=pace.seconds(20))
        peer.update_status(1, MOVE)
        slow.set()
        assert found.result(pace.seconds(120)) is MOVE

    def test_wait_ignores_entries_older_than_itself(self, waits, store):
        """Entries from before the wait do not end it."""
        for _ in range(20):
            store.update_status(1, MOVE)
            store.clear(1)
            store.update_status(1, BOOT)
            with pytest.raises(WaitTimeoutError):
                waits.wait(1, timeout=0)

    def test_wait_ends_when_room_expires(self, side, server, waits, threads):
        with StatusStore(server.store_client(), ttl=0.5, terminal_ttl=0.5) as brief:
            real.until(lambda: brief.update_status(1, BOOT) and waits.get(1) is BOOT, "it is known")
            with pytest.raises(RoomNotFoundError):
                waits.wait(1, timeout=30)

    def test_wait_times_out_with_last_status(self, waits, store):
        store.update_status(1, INPUT)
        began = time.monotonic()
        message = r"^wait: room 1 .* within 0.05 s \(last seen at WaitingForInput"
        with pace.Stopwatch() as took, pytest.raises(WaitTimeoutError, match=message):
            waits.wait(1, timeout=0.05)
        assert time.monotonic() - began >= 0.05
        assert took.seconds < 10
        with pytest.raises(TimeoutError):
            waits.wait(1, timeout=0)

    def test_ended_waits_are_not_kept(self, waits, store):
        store.update_status(1, BOOT)
        for _ in range(3):
            with pytest.raises(WaitTimeoutError):
                waits.wait(1, timeout=0.001)
        assert not any(shard.waiters for shard in replica_of(waits).shards.values())

    @pytest.mark.parametrize(
        ("arguments", "timeout"),
        [
            *((wrong, None) for wrong in ((-1,), ("1",), (1, 7), (1, "Success"))),
            *(((1,), wrong) for wrong in (-1, "1", True, False, 0j, NoTruth())),
        ],
    )
    def test_bad_arguments_are_refused(self, waits, arguments, timeout):
        with pytest.raises(InvalidInputError, match=r"^wait: "):
            waits.wait(*arguments, timeout=timeout)

    def test_timeout_error_message_allows_0(self, waits):
        with pytest.raises(InvalidInputError, match=r"timeout, if not 0 or None, must be from 0\.001 to"):
            waits.wait(1, timeout=-1)

    def test_many_concurrent_waits_wake(self, waits, store, peer, threads):
        rooms = range(16)
        store.update_many(dict.fromkeys(rooms, BOOT))
        found = [threads.submit(waits.wait, room, timeout=30) for room in rooms]
        real.until(lambda: sleeping(waits, 16), "all sleep")
        for room in rooms:
            peer.update_status(room, DONE if room % 2 else FAIL)
        assert [one.result(pace.seconds(120)) for one in found] == [FAIL, DONE] * 8

    def test_closing_ends_waits(self, waits, store, threads):
        store.update_status(1, BOOT)
        found = threads.submit(waits.wait, 1)
        real.until(lambda: sleeping(waits), "it sleeps")
        waits.close()
        with pytest.raises(StoreClosedError, match=r"^wait: "):
            found.result(pace.seconds(120))
        with pytest.raises(StoreClosedError, match=r"^wait: "):
            waits.wait(1)


class TestStoreWait:
    def test_idle_follower_ends(self, side, store, peer, monkeypatch):
        monkeypatch.setattr(f"redis_kvpoll.{'aio' if side.is_async else 'sync'}.waits.IDLE_TIMEOUT", 0.0)
        store.update_status(1, BOOT)
        for _ in range(3):
            with pytest.raises(WaitTimeoutError):
                store.wait(1, timeout=0)
            real.until(lambda: not following(side), "it is gone")
            assert not any(shard.synced for shard in replica_of(store).shards.values())
        assert replica_of(store).statuses == {}

    def test_wait_that_starts_while_follower_ends_is_served(self, server, peer, threads, monkeypatch):
        monkeypatch.setattr("redis_kvpoll.sync.waits.IDLE_TIMEOUT", 0.0)
        peer.update_status(1, BOOT)
        with StatusStore(server.store_client()) as store:
            with pytest.raises(WaitTimeoutError):
                store.wait(1, timeout=0)
            real.until(lambda: not threads_that_follow(), "it is gone")
            replica, found = replica_of(store), []
            mark_unsynced = replica.mark_unsynced

            def enter_just_now(tags):
                if not found and not replica.shards["default"].waiters:
                    found.append(threads.submit(store.wait, 1, timeout=20))
                    real.until(lambda: replica.shards["default"].waiters, "it has entered")
                    for _ in range(100):  # and has checked for the thread, if it does so without the lock
                        if any(waiter.armed for waiter in replica.shards["default"].waiters.get(1, ())):
                            break
                        time.sleep(0.001)
                mark_unsynced(tags)

            monkeypatch.setattr(replica, "mark_unsynced", enter_just_now)
            with pytest.raises(WaitTimeoutError):
                store.wait(1, timeout=0)
            real.until(lambda: found, "another wait began while it ended")
            peer.update_status(1, DONE)
            assert found[0].result(pace.seconds(30)) is DONE

    def test_waits_share_one_follower_of_awaited_rooms_only(self, side, store, peer, threads):
        peer.update_many(dict.fromkeys(range(100), BOOT))
        found = [threads.submit(store.wait, room) for room in range(8)]
        real.until(lambda: sleeping(store, 8), "all sleep")
        assert len(following(side)) == 1
        peer.update_many(dict.fromkeys(range(50, 100), MOVE))
        peer.update_many(dict.fromkeys(range(8), DONE))
        assert {one.result(pace.seconds(120)) for one in found} == {DONE}
        assert replica_of(store).statuses == {}


def test_wait_of_a_signal_handler_outlasts_an_outage():
    """It polls. Only the first read may fail."""
    away = StoreUnavailableError("away")
    answers = iter([BOOT, away, away, DONE])

    def read():
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert poll(read, 1, frozenset([DONE]), None, None) is DONE
    answers = iter([away])
    with pytest.raises(StoreUnavailableError):
        poll(read, 1, frozenset([DONE]), None, None)
