"""The iterator behind ``tail``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

from redis_kvpoll._process import OfOneProcess
from redis_kvpoll.aio.dispatcher import AsyncDispatcher
from redis_kvpoll.engine.reads import read_feed
from redis_kvpoll.protocol.feed import Change, FeedGap
from redis_kvpoll.protocol.feed_reader import Tail


class AsyncTailIterator(OfOneProcess, AsyncIterator[Change | FeedGap]):
    """What is new in the feed, without end. After an error, it goes on where it was."""

    def __init__(self, dispatcher: AsyncDispatcher, tail: Tail) -> None:
        self._dispatcher = dispatcher
        self._tail = tail
        self._news: Iterator[Change | FeedGap] = iter(())

    async def __anext__(self) -> Change | FeedGap:
        while True:
            for change in self._news:
                return change
            dispatcher = self._dispatcher
            while await dispatcher.run(read_feed(dispatcher.executor, "tail", self._tail)):
                pass
            self._news = iter(self._tail.news())
