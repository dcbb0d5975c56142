"""The iterator behind ``tail``."""

from __future__ import annotations

from collections.abc import Iterator

from redis_kvpoll._process import OfOneProcess
from redis_kvpoll.engine.reads import read_feed
from redis_kvpoll.protocol.feed import Change, FeedGap
from redis_kvpoll.protocol.feed_reader import Tail
from redis_kvpoll.sync.dispatcher import Dispatcher


class TailIterator(OfOneProcess, Iterator[Change | FeedGap]):
    """What is new in the feed, without end. After an error, it goes on where it was."""

    def __init__(self, dispatcher: Dispatcher, tail: Tail) -> None:
        self._dispatcher = dispatcher
        self._tail = tail
        self._news: Iterator[Change | FeedGap] = iter(())

    def __next__(self) -> Change | FeedGap:
        while True:
            for change in self._news:
                return change
            dispatcher = self._dispatcher
            while dispatcher.run(read_feed(dispatcher.executor, "tail", self._tail)):
                pass
            self._news = iter(self._tail.news())
