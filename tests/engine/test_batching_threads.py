"""Threads that share a store: waiting calls share batches, and no thread waits for one that was interrupted."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from contextlib import contextmanager

import pytest

from redis_kvpoll import KVPoll, Outcome, OutcomeUnknownError, StatusStore, StoreUnavailableError, Update
from redis_kvpoll.engine.batching import Batch
from redis_kvpoll.engine.effects import AwaitCalls, PendingCall
from redis_kvpoll.protocol import room_commands
from redis_kvpoll.protocol.keys import tag
from redis_kvpoll.sync import dispatcher
from redis_kvpoll.sync.connecting import is_opening
from tests.support import cluster, pace, real
from tests.support.calls import MARGIN, calls_may_take, objects_of
from tests.support.hammer import hammer
from tests.support.internals import (
    before_waking,
    context_of,
    dispatcher_lock_of,
    is_idle,
    queue_of,
    queues_of,
    run,
    transport_of,
    wake_next_sender,
)
from tests.support.linear import Done, by_room, find_order

BOOT, WAIT = KVPoll.Bootstrapping, KVPoll.WaitingForInput
PATIENCE = round(pace.seconds(60))


class Interrupted(BaseException):
    """Like KeyboardInterrupt: no except clause of the library catches it."""


@pytest.fixture
def server():
    with real.World("sync") as world:
        yield world.shared()


@pytest.fixture
def store(proxy):
    """A store behind the proxy, which has agreed on its settings."""
    with StatusStore.from_url(proxy.url, deadline=60.0) as store:
        store.update_many(dict.fromkeys(range(5), BOOT))
        store.poll([9]), store.clear(9), store.entry(9)  # the server knows the scripts
        proxy.commands.clear()
        yield store
        proxy.release()


def sent(proxy, script, count):
    real.until(lambda: proxy.calls(script) == count, f"{count} calls of {script}")


def queued(store, count):
    real.until(lambda: len(queue_of(store).waiting) == count, f"{count} calls are queued")


class TestSharedBatches:
    def test_calls_made_during_a_call_join_the_next_batch(self, store, proxy, threads):
        proxy.hold("poll")
        first = threads.submit(store.get, 1)
        sent(proxy, "poll", 1)
        others = [threads.submit(store.get, room) for room in range(20)]
        queued(store, 20)
        proxy.release()
        assert first.result(PATIENCE) is BOOT
        assert [other.result(PATIENCE) for other in others] == [BOOT] * 5 + [None] * 15
        assert proxy.calls("poll") == len(proxy.commands) == 2
        assert proxy.connections == 1
        assert is_idle(store)

    def test_lost_clears_are_unknown_to_each_caller(self, store, proxy, threads):
        proxy.hold("poll")
        first = threads.submit(store.get, 1)
        sent(proxy, "poll", 1)
        others = {room: threads.submit(store.clear, room) for room in range(5)}
        queued(store, 5)
        proxy.lose_next_reply("clear")
        proxy.release()
        first.result(PATIENCE)
        for room, other in others.items():
            with pytest.raises(OutcomeUnknownError, match=f"^clear of room {room}: "):
                other.result(PATIENCE)
        assert proxy.calls("clear") == 1
        assert store.poll(range(5)) == [None] * 5

    def test_one_serial_order_explains_all_answers(self, server, threads):
        with StatusStore.from_url(server.tcp, policy="strict", shards=2, deadline=60.0) as store:
            job = {"seed": 1, "count": 100, "rooms": [1, 2, 3]}
            running = [threads.submit(hammer, store, number, job) for number in range(8)]
            history = [Done(*done) for one in running for done in one.result(PATIENCE)]
            assert is_idle(store)
        for room, of_room in by_room(history).items():
            assert find_order("strict", of_room), f"room {room}: no serial order explains {sorted(of_room)}"

    def test_finished_calls_leave_nothing_in_memory(self, store, threads):
        types = (PendingCall, Batch, dispatcher.CallingThread)
        of_others = objects_of(*types)
        list(threads.map(lambda room: store.update_status(room, BOOT), range(500)))
        store.get(1)
        gc.collect()
        assert not objects_of(*types).keys() - of_others.keys()
        assert is_idle(store)


@contextmanager
def interrupts(do=None):
    """While this lasts, a signal to the main thread interrupts it, or calls ``do``."""

    def handle(*_):
        if do is None:
            raise Interrupted
        do()

    before = signal.signal(signal.SIGUSR1, handle)
    try:
        yield lambda: signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)


class TestInterruptedThread:
    """The main thread, by a signal, while other threads wait for it."""

    def test_interrupted_sender_of_own_call_frees_queue(self, store, proxy, threads):
        def work():
            sent(proxy, "poll", 1)
            others = [threads.submit(store.get, room) for room in range(4)]
            queued(store, 4)
            interrupt()
            return others

        proxy.hold("poll")
        with interrupts() as interrupt:
            working = threads.submit(work)
            with pytest.raises(Interrupted):
                store.get(1)
            others = working.result(PATIENCE)
        proxy.release()
        assert [other.result(PATIENCE) for other in others] == [BOOT] * 4
        assert is_idle(store)

    @pytest.mark.parametrize(
        ("script", "call"), [("update", lambda s, r: s.update_status(r, WAIT)), ("clear", lambda s, r: s.clear(r))]
    )
    def test_interrupted_sender_of_shared_batch_frees_queue(self, store, proxy, threads, script, call):
        """The thread sends the batch because its call has the latest deadline."""

        def work():
            queued(store, 4)
            proxy.hold(script)
            held.set()
            sent(proxy, script, 1)
            interrupt()

        proxy.hold("poll")
        held = proxy.released
        first = threads.submit(store.get, 0)
        sent(proxy, "poll", 1)
        others = [threads.submit(call, store, room) for room in range(1, 4)]
        queued(store, 3)
        with interrupts() as interrupt:
            working = threads.submit(work)
            with pytest.raises(Interrupted):
                call(store, 0)
            working.result(PATIENCE)
        proxy.release()
        first.result(PATIENCE)
        for room, other in enumerate(others, 1):
            if script == "update":
                assert other.result(PATIENCE).status is WAIT
            else:
                with pytest.raises(OutcomeUnknownError, match=f"^clear of room {room}: .*interrupted"):
                    other.result(PATIENCE)
        assert proxy.calls(script) == (2 if script == "update" else 1)
        assert is_idle(store)

    def test_interrupted_waiter_is_not_elected_sender(self, store, proxy, threads):
        """Its call is in the batch of another thread, which then fails: it must not be elected for the next batch."""
        proxy.hold("poll")
        first = threads.submit(store.get, 0)
        sent(proxy, "poll", 1)

        def work():
            queued(store, 1)
            behind = threads.submit(store.get, 3)
            queued(store, 2)
            interrupt()
            return behind

        with interrupts() as interrupt:
            working = threads.submit(work)
            with pytest.raises(Interrupted):
                store.get(1)
            behind = working.result(PATIENCE)
        proxy.release()
        assert [one.result(PATIENCE) for one in (first, behind)] == [BOOT] * 2
        assert is_idle(store)

    def test_signal_handler_may_use_the_store(self, store, proxy, threads):
        """During a call of the same thread, which continues when the handler returns."""

        def handle():
            done.append(store.abort(1))
            done.append(store.poll([1, 2]))
            proxy.release()

        done = []
        proxy.hold("entry")
        with interrupts(handle) as interrupt:
            working = threads.submit(lambda: (sent(proxy, "entry", 1), interrupt()))
            assert store.failure_reason(1) is not None or done
            working.result(PATIENCE)
        assert done == [Update(Outcome.FAILED, KVPoll.Failed), [KVPoll.Failed, BOOT]]
        assert is_idle(store)

    def test_call_that_interrupts_a_wake_up(self, store, proxy, threads, monkeypatch):
        """It waits for no sender: the next one is elected, and sleeps until this thread goes on."""
        done, me = [], threading.get_ident()

        def interrupt(*woken):
            if threading.get_ident() == me and not done and any(woken):
                done.append(None)
                with calls_may_take(store, pace.seconds(5)):
                    done.append(store.poll([1]))

        proxy.hold("poll")
        working = threads.submit(lambda: (queued(store, 1), proxy.release()))
        behind = threads.submit(lambda: (sent(proxy, "poll", 1), store.get(3))[1])
        before_waking(monkeypatch, interrupt)
        assert store.get(0) is BOOT
        assert behind.result(PATIENCE) is BOOT
        working.result(PATIENCE)
        assert done == [None, [BOOT]]
        assert is_idle(store)


class TestHangingThread:
    """The sending thread never returns."""

    @pytest.mark.parametrize("script", ["poll", "clear"])
    def test_caller_gives_up_on_hanging_sender(self, server, monkeypatch, script):
        monkeypatch.setattr(dispatcher, "SENDER_TIMEOUT", 0.1)
        with StatusStore.from_url(server.tcp, deadline=60.0) as store:
            store.poll([1])
            call = {"poll": lambda: store.get(1), "clear": lambda: store.clear(1)}[script]
            gone = queue_of(store)
            gone.batch, gone.sender = object(), -1
            hangs = pytest.raises(StoreUnavailableError, match="another thread hangs")
            with pace.Stopwatch() as took, calls_may_take(store, 0.2), hangs:
                call()
            assert took.seconds < MARGIN
            assert call() is None  # it no longer waits for that thread
            assert is_idle(store)

    def test_call_with_an_earlier_deadline_takes_no_batch_of_others(self, proxy, threads, monkeypatch):
        """A heartbeat waits for less than the calls before it: their reply cannot be asked for again."""
        monkeypatch.setattr(dispatcher, "SENDER_TIMEOUT", 0.05)
        rooms = range(20)
        with StatusStore.from_url(proxy.url, deadline=60.0, shards=2, namespace="two") as store:
            store.update_many(dict.fromkeys(rooms, BOOT))
            store.clear(99), store.poll([1])  # the server knows the scripts
            (call,) = room_commands.poll([1]).calls(context_of(store))

            def wait_briefly():
                pending = PendingCall(call, time.monotonic() + 0.05)
                yield AwaitCalls([pending])
                return pending

            proxy.hold("clear")
            before = proxy.calls("clear")
            clearing = threads.submit(store.clear_many, rooms)
            sent(proxy, "clear", before + 2)
            assert run(store, wait_briefly()).failure is not None
            proxy.release()
            assert clearing.result(PATIENCE) == dict.fromkeys(rooms, BOOT)
            assert is_idle(store)


class TestFork:
    def test_child_works_at_once_and_parent_calls_go_on(self, store, proxy, threads):
        proxy.hold("poll")
        first = threads.submit(store.get, 1)
        sent(proxy, "poll", 1)
        others = [threads.submit(store.get, room) for room in range(3)]
        queued(store, 3)
        child = os.fork()
        if not child:
            signal.alarm(PATIENCE)
            os._exit(0 if store.update_status(9, BOOT).outcome is Outcome.CREATED and is_idle(store) else 1)
        assert os.waitpid(child, 0)[1] == 0
        proxy.release()
        assert [one.result(PATIENCE) for one in (first, *others)] == [BOOT] * 4
        assert store.get(9) is BOOT
        assert is_idle(store)

    def test_child_works_though_another_thread_held_the_lock(self, server):
        """The lock is held by a thread that the child does not have."""
        with StatusStore.from_url(server.tcp, deadline=60.0) as store:
            store.get(1)
            held, go_on = threading.Event(), threading.Event()

            def hold():
                with dispatcher_lock_of(store):
                    held.set()
                    go_on.wait(PATIENCE)

            thread = threading.Thread(target=hold)
            thread.start()
            held.wait(PATIENCE)
            child = os.fork()
            if not child:
                signal.alarm(PATIENCE)
                os._exit(0 if store.get(1) is None else 1)
            assert os.waitpid(child, 0)[1] == 0
            go_on.set()
            thread.join()

    def test_child_has_no_thread_that_connects_for_another(self, proxy, threads):
        """Its own threads may get the number of the parent's, and would then send past the queue for ever."""
        with StatusStore.from_url(proxy.url, deadline=60.0) as store:
            proxy.stalled = True
            first = threads.submit(store.get, 1)
            real.until(lambda: any(is_opening(one.ident) for one in threading.enumerate()), "a thread connects")
            (connecting,) = (one.ident for one in threading.enumerate() if is_opening(one.ident))
            child = os.fork()
            if not child:
                os._exit(is_opening(connecting))
            assert os.waitpid(child, 0)[1] == 0
            proxy.stalled = False
            assert first.result(PATIENCE) is None


class TestShards:
    def test_stalled_shards_share_one_deadline(self, proxy):
        deadline = pace.seconds(0.5)
        with StatusStore.from_url(proxy.url, shards=32, deadline=deadline) as store:
            store.poll(range(200))
            proxy.stalled = True
            with pace.Stopwatch() as took, pytest.raises(StoreUnavailableError):
                store.poll(range(200))
            assert took.seconds < 16 * deadline  # in turn it would be 32
            assert is_idle(store)

    @pytest.mark.parametrize("stalled", range(3))
    def test_stalled_node_holds_up_no_other(self, threads, stalled):
        """All shards are sent to before the first reply is read; a queue whose reply has come is free at once."""
        nodes = cluster.shared()
        with StatusStore.from_url(nodes.url, namespace="prod", shards=8, deadline=60.0) as store:
            store.update_many(dict.fromkeys(range(100), BOOT))
            at = {room: nodes.owner(tag("prod", 8, room)) for room in range(100)}
            assert len(set(map(id, at.values()))) == 3
            slow = nodes.clients[stalled]
            healthy = [room for room, owner in at.items() if owner is not slow]
            slow.execute_command("CLIENT", "PAUSE", 60_000, "WRITE")
            try:
                everywhere = threads.submit(store.poll, range(100))
                held = {tag("prod", 8, room) for room in range(100) if at[room] is slow}
                busy = lambda: {name for name, one in queues_of(store).items() if one.batch}  # noqa: E731
                real.until(lambda: everywhere.running() and busy() == held, "only the stalled shards are under way")
                assert store.poll(healthy) == [BOOT] * len(healthy)
                assert not everywhere.done()
            finally:
                slow.execute_command("CLIENT", "UNPAUSE")
            assert everywhere.result(PATIENCE) == [BOOT] * 100
            assert is_idle(store)
        for client in nodes.clients:
            client.flushall()

    def test_thread_busy_with_one_shard_is_not_elected_for_another(self, server, threads):
        """Its calls wait in the queue of a healthy shard while it sends to a stalled one: the next call sends."""
        with StatusStore.from_url(server.tcp, shards=2, deadline=60.0) as store:
            store.poll(range(20))
            one, other = (next(r for r in range(20) if tag("default", 2, r) == f"default/{n}") for n in range(2))
            busy, free = queue_of(store, "default/0"), queue_of(store, "default/1")
            free.batch, free.sender = object(), -1
            begun, go_on = threading.Event(), threading.Event()
            transport = transport_of(store)
            begin = transport.begin

            def slow(step):
                if step.tag == "default/0" and not begun.is_set():
                    begun.set()
                    go_on.wait(PATIENCE)
                return begin(step)

            transport.begin = slow
            both = threads.submit(store.poll, [one, other])
            assert begun.wait(PATIENCE)
            assert len(free.waiting) == 1
            behind = threads.submit(store.get, other)
            real.until(lambda: len(free.waiting) == 2, "both wait for the healthy shard")
            free.batch = None
            wake_next_sender(store, free)
            assert behind.result(PATIENCE) is None
            assert busy.batch
            assert not both.done()
            go_on.set()
            assert both.result(PATIENCE) == [None, None]
            assert is_idle(store)
