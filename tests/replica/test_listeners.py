"""The functions that are called with what followers find: one call at a time, whichever thread found it."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from redis_kvpoll import InvalidInputError
from redis_kvpoll.replica.listeners import Listeners
from redis_kvpoll.sync import follower
from redis_kvpoll.sync.follower import Signal, ThreadTurn
from tests.support.internals import wakeups_of


class News:
    """News that threads find, and a listener that notes what it was told."""

    def __init__(self):
        self.found, self.told, self.lock = [], [], threading.Lock()
        self.listeners = Listeners("on_change", lambda room: room, ThreadTurn())

    def find(self, *rooms):
        with self.lock:
            self.found += [(room,) for room in rooms]
        self.listeners.tell(lambda: bool(self.found), self.take)

    def take(self):
        with self.lock:
            found, self.found = self.found, []
        return found


@pytest.fixture
def impatient(monkeypatch):
    """Threads that leave their news to others at once."""
    monkeypatch.setattr(follower, "TURN_PATIENCE", 0)


@pytest.fixture
def switching():
    """Threads that give the interpreter to each other as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def test_who_calls_them_goes_on_with_what_others_find(impatient):
    news, is_called, may_return = News(), threading.Event(), threading.Event()

    def listen(room):
        news.told.append((room, threading.get_ident()))
        is_called.set()
        may_return.wait()

    news.listeners.add(listen)
    first = threading.Thread(target=news.find, args=[1])
    first.start()
    is_called.wait()
    news.find(2)
    told_meanwhile = [room for room, _ in news.told]
    may_return.set()
    first.join()
    assert told_meanwhile == [1]
    assert news.told == [(1, first.ident), (2, first.ident)]


def test_thread_waits_for_its_turn(monkeypatch):
    """So that news cannot come faster than it is told."""
    monkeypatch.setattr(follower, "TURN_PATIENCE", 60)
    news, is_called, may_return = News(), threading.Event(), threading.Event()

    def listen(room):
        news.told.append(room)
        is_called.set()
        may_return.wait()

    news.listeners.add(listen)
    first, second = (threading.Thread(target=news.find, args=[room]) for room in (1, 2))
    first.start()
    is_called.wait()
    second.start()
    second.join(0.1)
    is_waiting = second.is_alive()
    may_return.set()
    first.join()
    second.join()
    assert is_waiting
    assert news.told == [1, 2]


def test_nothing_that_many_threads_find_is_left(impatient, switching):
    news = News()
    news.listeners.add(news.told.append)

    def find(first):
        for room in range(first, 8000, 8):
            news.find(room)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(find, range(8)))
    assert sorted(news.told) == list(range(8000))


def test_listener_that_finds_something_itself_is_told_next(impatient):
    news = News()
    news.listeners.add(news.told.append)
    news.listeners.add(lambda room: room < 3 and news.find(room + 1))
    news.find(1)
    assert news.told == [1, 2, 3]


def test_interrupt_is_not_logged_and_lets_others_call(caplog):
    news = News()

    def interrupt(room):
        raise KeyboardInterrupt

    end = news.listeners.add(interrupt)
    with pytest.raises(KeyboardInterrupt):
        news.find(1)
    end()
    news.listeners.add(news.told.append)
    news.find(2)
    assert news.told == [2]
    assert not caplog.records


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_a_listener_raises_in_another_thread_is_logged(caplog, error):
    """Ctrl-C comes in the main thread alone: there, nobody would hear of it."""
    news = News()

    def fail(room):
        raise error

    news.listeners.add(fail)
    news.listeners.add(news.told.append)
    thread = threading.Thread(target=news.find, args=[1])
    thread.start()
    thread.join()
    assert news.told == [1]
    assert [record.exc_info[0] for record in caplog.records] == [error]


def test_what_is_no_function_is_refused():
    with pytest.raises(InvalidInputError, match="on_change: it takes a function, not int"):
        Listeners("on_change", lambda room: room, ThreadTurn()).add(5)


def test_signal_that_nobody_waits_for_is_set_once():
    """As that of statistics whose sessions fail for days."""
    signal = Signal()
    for _ in range(1000):
        signal.set()
    assert wakeups_of(signal) == 1
    signal.wait(0)
    assert wakeups_of(signal) == 0
