"""Signal handlers that end a lease while a thread uses it or its store, or interrupt its entry: at any place."""

from __future__ import annotations

import contextlib
import functools
import sys
import threading

import pytest

from redis_kvpoll import KVPoll, KVPollError, LeaseLostError, StatusStore
from tests.support import interrupts, real
from tests.support.internals import dispatcher_lock_of, dispatcher_of, queue_of
from tests.support.own_threads import own_threads

BOOT = KVPoll.Bootstrapping
WHERE = ("/sync/lease.py", "/engine/leases/lease_base.py", "/sync/dispatcher.py", "/sync/follower.py", "/threading.py")
interrupted_at = functools.partial(interrupts.interrupted_at, where=WHERE)
IN_ENTRY = (
    "/sync/lease.py",
    "/engine/leases/lease",
    "/engine/recovery/recovery.py",
    "/sync/dispatcher.py",
    "/sync/follower.py",
)
"""Not in Python's own code: a thread whose start is interrupted there may wait for ever."""


def update(store, lease):
    with contextlib.suppress(LeaseLostError):  # it was closed while the call was under way
        store.update_status(1, BOOT)


CALLS = {
    "close": lambda store, lease: lease.close(),
    "enter": lambda store, lease: (lease.close(), lease.__enter__()),
    "update": update,
}


def heartbeats():
    return own_threads("kvpoll-lease")


def is_sending(thread):
    """Whether a thread is inside the dispatcher, where it needs the lock."""
    return sys._current_frames()[thread.ident].f_code.co_filename.endswith("dispatcher.py")


@pytest.fixture
def server():
    with real.World("sync") as world:
        yield world.shared()


def works_without_lease(store):
    """Whether a store is under no lease, and may take one."""
    real.until(lambda: not heartbeats(), "no thread is left")
    store.update_status(1, BOOT)
    owner = store.entry(1).owner
    store.clear(1)
    with store.lease("prefill-1") as lease:
        lease.check()
    return owner is None


def test_entry_that_is_interrupted_is_undone(server):
    def enter_at(number):
        with StatusStore.from_url(server.tcp, deadline=60.0) as store:
            lease = store.lease("prefill-0", ttl=60.0)
            was_interrupted = interrupts.interrupted_at(number, lease.__enter__, interrupt, IN_ENTRY)
            if not was_interrupted:
                lease.close()
            assert works_without_lease(store)
            return was_interrupted

    def interrupt():
        raise interrupts.Interrupted

    interrupts.every_place(enter_at)


NO_THREAD = RuntimeError("can't start new thread")
ENDS = {
    "no thread": (NO_THREAD, KVPollError, "^lease: this process can start no thread .can't start new thread.: "),
    "interrupted": (interrupts.Interrupted(), interrupts.Interrupted, None),
}


@pytest.mark.parametrize("end", ENDS)
def test_entry_whose_thread_fails_to_start_is_undone(server, end):
    error, raised, text = ENDS[end]
    with StatusStore.from_url(server.tcp) as store:
        starts = interrupts.failing_start("kvpoll-lease", error, after=end == "interrupted")
        with starts, pytest.raises(raised, match=text):
            store.lease("prefill-0", ttl=60.0).__enter__()
        assert not store.owners(), "it was released"
        assert works_without_lease(store)


@pytest.mark.parametrize("name", CALLS)
def test_handler_may_close_lease_at_any_place(server, name):
    """It waits for no lock of its own thread, and not for ever for a heartbeat that does."""

    def close_at(number):
        with StatusStore.from_url(server.tcp, deadline=60.0) as store:
            lease = store.lease("prefill-0", ttl=60.0).__enter__()
            was_interrupted = interrupted_at(number, lambda: CALLS[name](store, lease), lease.close)
            lease.close()
            with store.lease("prefill-0"):
                assert [owner.state for owner in store.owners()] == ["alive"]
            assert not store.owners()
            return was_interrupted

    interrupts.every_place(close_at, at_least=3)
    real.until(lambda: not heartbeats(), "no thread is left")


def test_close_does_not_wait_for_a_heartbeat_in_need_of_its_lock(server, caplog):
    """The handler runs while its thread has the lock for which the heartbeat waits."""
    with StatusStore.from_url(server.tcp, deadline=60.0) as store:
        lease = store.lease("prefill-0", ttl=60.0, heartbeat=0.01).__enter__()

        def close():
            with dispatcher_lock_of(store):
                real.until(lambda: all(map(is_sending, heartbeats())), "the heartbeat waits")
                lease.close()

        interrupts.completes(close)
        real.until(lambda: not heartbeats(), "the thread has ended")
        assert not store.owners()
    assert "lost its lease" not in caplog.text


def test_thread_with_the_lock_waits_for_no_other_call(server):
    """The other thread's call needs the lock to end."""
    with StatusStore.from_url(server.tcp, deadline=60.0) as store:
        store.update_status(1, BOOT)
        queue, may_end = queue_of(store), threading.Event()
        other = threading.Thread(target=dispatcher_of(store).send_alone, args=("default", b"", may_end.wait))
        other.start()
        real.until(lambda: queue.batch == b"", "the other call is under way")

        def get():
            with dispatcher_lock_of(store):
                threading.Thread(target=end_once_waited_for).start()
                return store.get(1)

        def end_once_waited_for():
            real.until(lambda: queue.waiting or had, "this thread waits for it, or has its reply")
            may_end.set()

        had = []
        had.append(interrupts.completes(get))
        other.join()
    assert had == [BOOT]
