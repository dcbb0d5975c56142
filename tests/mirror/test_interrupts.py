"""Signal handlers and finalizers that use a store while it is mirrored or waits, at any place of its calls.

Python runs them between two steps of a thread: when a function begins, and when a C function returns. Each such place
of the code for mirrors and waits is tried in turn.
"""

from __future__ import annotations

import contextlib
import functools
import threading

import pytest

from redis_kvpoll import KVPoll, Outcome, StatusStore, StoreClosedError
from redis_kvpoll.protocol.keys import tag
from redis_kvpoll.replica.shard import ShardReplica
from tests.support import interrupts, pace, real
from tests.support.calls import calls_may_take
from tests.support.internals import replica_of
from tests.support.interrupts import Interrupted, every_place
from tests.support.mirrors import current, sleeping, threads_that_follow

BOOT, MOVE, DONE = KVPoll.Bootstrapping, KVPoll.Transferring, KVPoll.Success
OURS = ("/redis_kvpoll/replica/", "/redis_kvpoll/sync/waits.py", "/redis_kvpoll/sync/mirror.py", "/sync/follower.py")


@pytest.fixture
def server():
    with real.World("sync") as world:
        yield world.shared()


@pytest.fixture
def store(server):
    with StatusStore.from_url(server.tcp, deadline=60.0) as store:
        store.update_many(dict.fromkeys(range(3), BOOT))
        yield store


interrupted_at = functools.partial(interrupts.interrupted_at, where=OURS)


CALLS = {
    "update": lambda store, mirror: store.update_status(1, BOOT) and store.abort(0, "why") and store.clear(0),
    "store.wait": lambda store, mirror: store.wait(1, BOOT),
    "mirror.wait": lambda store, mirror: mirror.wait(1, BOOT),
}


@pytest.mark.parametrize("name", CALLS)
def test_handler_may_write_and_wait_at_any_place(server, store, name):
    """Its wait is served, and the mirror has its write once the interrupted call is over."""
    with store.mirror() as mirror, StatusStore.from_url(server.tcp) as peer:

        def handler(number):
            store.update_status(100 + number, MOVE)
            peer.update_status(2, BOOT)
            change = threading.Timer(0.02, peer.update_status, (2, DONE))
            change.start()
            waits = mirror if number % 2 else store
            assert waits.wait(2, timeout=30) is DONE
            change.join()
            peer.clear(2)

        places = every_place(
            lambda number: interrupted_at(number, lambda: CALLS[name](store, mirror), lambda: handler(number))
        )
        written = range(101, 100 + places)
        assert mirror.poll(written) == [MOVE] * len(written)
        real.until(lambda: mirror.synced and mirror.poll(range(3)) == store.poll(range(3)), "right")


def test_handler_waits_for_no_thread_that_needs_the_copy(server, store, monkeypatch):
    """Another thread has its reply, and cannot apply it before the interrupted thread goes on."""
    enter, me, done = ShardReplica.enter, threading.get_ident(), []
    store.update_status(7, BOOT)
    clearing = threading.Thread(target=store.clear, args=(7,))

    def interrupted_enter(*arguments, **words):
        if threading.get_ident() == me and not done:
            clearing.start()
            real.until(lambda: peer.get(7) is None, "it is cleared")
            done.append(store.update_status(100, MOVE).outcome)
        return enter(*arguments, **words)

    with store.mirror() as mirror, StatusStore.from_url(server.tcp) as peer:
        monkeypatch.setattr(ShardReplica, "enter", interrupted_enter)
        assert mirror.wait(1, BOOT) is BOOT
        clearing.join()
    assert done == [Outcome.CREATED]


def test_handler_calls_another_shard_than_the_interrupted_one(server, monkeypatch):
    """Both shards share the copy: the thread that sends to the other one needs it, too, and waits for this thread."""
    observe, me, done = ShardReplica.observe_write, threading.get_ident(), []
    ours, *others = two_shards()

    def interrupted_observe(*arguments):
        if threading.get_ident() == me and not done:
            clearing.start()
            real.until(lambda: peer.get(others[0]) is None, "it is cleared")
            with calls_may_take(store, pace.seconds(5)):
                done.append(store.update_status(others[1], MOVE).outcome)
        return observe(*arguments)

    with (
        StatusStore.from_url(server.tcp, namespace="two", shards=2, deadline=60.0) as store,
        StatusStore.from_url(server.tcp, namespace="two", shards=2) as peer,
    ):
        store.update_many({ours: BOOT, others[0]: BOOT})
        clearing = threading.Thread(target=store.clear, args=(others[0],))
        with store.mirror() as mirror:
            monkeypatch.setattr(ShardReplica, "observe_write", interrupted_observe)
            assert store.update_status(ours, MOVE).outcome is Outcome.ADVANCED
            clearing.join()
            assert mirror.poll([ours, *others]) == [MOVE, None, MOVE]
    assert done == [Outcome.CREATED]


def two_shards():
    """A room of one shard of namespace two, and two of the other."""
    by_shard = {}
    for room in range(20):
        by_shard.setdefault(tag("two", 2, room), []).append(room)
    (ours, *_), (one, other, *_) = by_shard.values()
    return ours, one, other


def test_handler_may_begin_first_wait_at_any_place(server):
    """Of two threads that follow the feed for the waits of a store, one is left."""

    def first_wait(number):
        with StatusStore.from_url(server.tcp, deadline=60.0) as store, StatusStore.from_url(server.tcp) as peer:
            store.update_status(1, BOOT)
            found = []

            def handler():
                change = threading.Timer(0.02, peer.update_status, (1, DONE))
                change.start()
                found.append(store.wait(1, timeout=30))
                change.join()

            was_handled = interrupted_at(number, lambda: store.wait(1, BOOT), handler)
            assert len(threads_that_follow()) <= 1
            assert found == [DONE] * was_handled
            return was_handled

    every_place(first_wait)


@pytest.mark.parametrize("name", CALLS)
def test_handler_may_close_at_any_place(server, name):
    def close_at(number):
        store = StatusStore.from_url(server.tcp, deadline=60.0)
        store.update_many(dict.fromkeys(range(3), BOOT))
        mirror = store.mirror().__enter__()
        try:
            return interrupted_at(number, lambda: CALLS[name](store, mirror), lambda: (mirror.close(), store.close()))
        finally:
            store.close()

    every_place(close_at)
    real.until(lambda: not threads_that_follow(), "no thread is left")


def test_handler_may_read_mirror_that_begins(server, store):
    """It is refused, as before entry, or answered."""

    def begin_at(number):
        mirror = store.mirror()

        def handler():
            with contextlib.suppress(StoreClosedError):
                assert mirror.get(1) in (BOOT, None)

        with_handler = interrupted_at(number, mirror.__enter__, handler)
        assert len(threads_that_follow()) == 1
        mirror.close()
        return with_handler

    every_place(begin_at)


def raise_interrupted():
    raise Interrupted


def test_interrupted_write_leaves_mirror_right(store):
    """A change of the copy that was cut short is repaired, and blocks no later one."""
    with store.mirror() as mirror:

        def interrupt(number):
            was_interrupted = interrupted_at(number, lambda: CALLS["update"](store, mirror), raise_interrupted)
            store.update_status(2, MOVE)
            assert mirror.get(2) is MOVE, f"place {number}"
            real.until(
                lambda: mirror.synced and mirror.poll(range(3)) == store.poll(range(3)), f"right, place {number}"
            )
            store.clear_many(range(3))
            return was_interrupted

        every_place(interrupt)


def test_interrupted_wait_leaves_no_waiter(store):
    with store.mirror() as mirror:
        for waits in (store, mirror):
            waits.wait(1, BOOT)

            def interrupt(number, waits=waits):
                was_interrupted = interrupted_at(number, lambda: waits.wait(1, BOOT), raise_interrupted)
                left = [room for shard in replica_of(waits).shards.values() for room in shard.waiters]
                assert not left, f"place {number}"
                return was_interrupted

            every_place(interrupt)


def test_finalizer_in_following_thread_may_write(server, store):
    """Garbage is collected in any thread: here in the one that follows the feed, while it changes the copy."""
    with store.mirror() as mirror, StatusStore.from_url(server.tcp) as peer:
        replica = replica_of(mirror)
        shard = replica.shards["default"]
        read, found = shard.read, []

        def collecting(entries, now):
            read(entries, now)
            if not found:
                found.append(None)
                store.update_status(7, MOVE)
                found.append(store.wait(7, MOVE, timeout=30))

        shard.read = collecting
        peer.update_status(1, MOVE)
        real.until(lambda: len(found) == 2, "the finalizer has ended")
        assert found[1] is MOVE
        real.until(lambda: mirror.get(7) is MOVE, "it is shown")
        current(mirror, store)


def test_finalizer_in_thread_of_waits_may_wait(server, store, threads):
    waiting = threads.submit(store.wait, 1, timeout=30)
    real.until(lambda: sleeping(store), "it sleeps")
    shard, found = replica_of(store).shards["default"], []
    evaluate = shard.mark_synced

    def collecting():
        if not found:
            found.append(store.wait(2, BOOT, timeout=30))
        evaluate()

    shard.mark_synced = collecting
    with server.client() as client:
        client.client_kill_filter(_type="normal", skipme=True)
    real.until(lambda: found, "the finalizer has ended")
    store.update_status(1, DONE)
    assert waiting.result(pace.seconds(120)) is DONE
