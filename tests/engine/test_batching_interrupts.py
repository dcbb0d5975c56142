"""An interrupt at any place of a blocking call: no queue stays taken, and no other thread waits for it."""

from __future__ import annotations

import sys
import time

import pytest
import redis
from redis.credentials import CredentialProvider

from redis_kvpoll import StatusStore
from redis_kvpoll.engine.effects import PendingCall
from redis_kvpoll.protocol import room_commands
from redis_kvpoll.sync import dispatcher
from tests.support import real
from tests.support.internals import context_of, is_idle, queue_of, queues_of


class Interrupted(BaseException):
    """Like KeyboardInterrupt: no except clause of the library catches it."""


@pytest.fixture
def server():
    with real.World("sync") as world:
        yield world.shared()


OURS = tuple(f"/redis_kvpoll/{name}.py" for name in ("sync/dispatcher", "engine/batching", "sync/fan_out"))


def interrupted_at(number, call):
    """Interrupt ``call`` at the ``number``-th place where Python checks for signals. False if it has fewer places."""
    count = 0

    def profile(frame, event, _):
        nonlocal count
        code = frame.f_code  # not in generator expressions: an exception while one is closed is swallowed
        if event in ("call", "c_return") and code.co_filename.endswith(OURS) and code.co_name != "<genexpr>":
            count += 1
            if count == number:
                raise Interrupted

    sys.setprofile(profile)
    try:
        call()
    except Interrupted:
        return True
    finally:
        sys.setprofile(None)
    return False


@pytest.mark.parametrize("shards", [1, 3])
def test_interrupt_at_any_place_frees_queues(server, shards):
    """Python checks for signals when a function begins and when a C function returns: each such place in turn."""
    with StatusStore.from_url(server.tcp, shards=shards, deadline=60.0) as store:
        rooms = list(range(6))
        store.poll(rooms)
        calls = [lambda: store.get(1), lambda: store.poll(rooms)]
        places = 0
        for call in calls:
            number = 1
            while interrupted_at(number, call):
                stuck = {name: (one.batch, one.next_sender) for name, one in queues_of(store).items()}
                assert is_idle(store), f"place {number}: {stuck}"
                number += 1
            places += number
    assert places > (10 if shards == 1 else 40)


def test_interrupted_sender_wakes_callers_whose_replies_came(server):
    """Another caller shares the batch. Wherever its sender is interrupted, its reply does not wait for a timeout."""
    with StatusStore.from_url(server.tcp, deadline=60.0) as store:
        store.poll([1, 2])
        (call,) = room_commands.get(2, None).calls(context_of(store))
        number, answered = 1, 0
        is_interrupted = True
        while is_interrupted:
            other = PendingCall(call, time.monotonic() + 60.0)
            other.waiter = dispatcher.CallingThread()
            other.waiter.busy = True  # so that the call below is sent by its own thread
            queue_of(store).enqueue(other)
            is_interrupted = interrupted_at(number, lambda: store.get(1))
            if other.done:
                answered += 1
                assert not other.waiter.wakeups.empty(), f"place {number}: the caller sleeps on a reply that is there"
            else:
                assert other in queue_of(store).waiting
                queue_of(store).cancel(other)
            number += 1
        assert answered > 3


def test_finalizer_while_connecting_does_not_wait(server):
    """The garbage collector may run finalizers in the thread that opens a connection, for which a call of the same
    store waits."""
    found, garbage = [], []

    class Finalized:
        def __del__(self):
            found.append(store.get(1))

    class Collects(CredentialProvider):
        def get_credentials(self):
            garbage.clear()
            return ("default", "")

    with server.client() as admin, StatusStore(redis.Redis(port=server.port, credential_provider=Collects())) as store:
        store.update_status(1, 1)
        garbage.append(Finalized())
        admin.client_kill_filter(_type="normal", skipme=True)
        assert store.update_status(1, 2).status == 2
    assert found == [1]
