"""The functions that are called with what followers find: one call at a time, whichever thread found it."""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import pytest

from redis_kvpoll import InvalidInputError
from redis_kvpoll.replica.listeners import Listeners


class News:
    """News that threads find, and a listener that notes what it was told."""

    def __init__(self):
        self.queue, self.told = deque(), []
        self.listeners = Listeners("on_change")

    def find(self, *rooms):
        self.queue.extend((room,) for room in rooms)
        self.listeners.tell(lambda: bool(self.queue), self.take)

    def take(self):
        while self.queue:
            yield self.queue.popleft()


def test_who_calls_them_goes_on_with_what_others_find():
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
    assert [room for room, _ in news.told] == [1]
    may_return.set()
    first.join()
    assert news.told == [(1, first.ident), (2, first.ident)]


def test_nothing_that_many_threads_find_is_left():
    news = News()
    news.listeners.add(news.told.append)

    def find(first):
        for room in range(first, 8000, 8):
            news.find(room)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(find, range(8)))
    assert sorted(news.told) == list(range(8000))


def test_listener_that_finds_something_itself_is_told_next():
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


def test_child_of_a_fork_has_its_turn():
    """The thread that was calling them at the fork does not run there."""
    news = News()
    news.listeners.add(news.told.append)
    news.listeners.add(lambda room: room == 1 and (news.listeners.after_fork(), news.find(2)))
    news.find(1)
    assert news.told == [1, 2]


def test_what_is_no_function_is_refused():
    with pytest.raises(InvalidInputError, match="on_change: it takes a function, not int"):
        Listeners("on_change").add(5)
