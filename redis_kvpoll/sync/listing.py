"""What a store reads of the whole namespace: its rooms, and the changes in its feed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TypeVar

from redis_kvpoll.engine.executor import Executor
from redis_kvpoll.engine.reads import read_feed
from redis_kvpoll.model import KVPoll, RoomRow
from redis_kvpoll.protocol import room_commands
from redis_kvpoll.protocol.feed import Change, FeedGap
from redis_kvpoll.protocol.feed_reader import History, Tail
from redis_kvpoll.protocol.room_commands import status_filter
from redis_kvpoll.protocol.script_call import Command
from redis_kvpoll.sync.dispatcher import Dispatcher
from redis_kvpoll.sync.tail import TailIterator

T = TypeVar("T")
V = TypeVar("V")


class Listing(ABC):
    """The rooms and the changes of a namespace."""

    _executor: Executor
    _dispatcher: Dispatcher

    def rooms(self, status: KVPoll | int | None = None) -> Iterator[int]:
        """The rooms of the namespace, or those at one status; each once, in no order.

        It uses SCAN: a room that is created or removed during it may be included or not.
        """
        return self._rooms(status_filter(status, "rooms"))

    def rows(self, status: KVPoll | int | None = None) -> Iterator[RoomRow]:
        """The rooms of the namespace, or those at one status, with their times and owners; each once, in no order.

        As ``rooms``, with one more round trip per shard and page of the scan. A corrupt room has the status None.
        """
        return self._rows(status_filter(status, "rows"))

    def counts(self) -> dict[KVPoll, int]:
        """The number of rooms at each status."""
        counts = dict.fromkeys(KVPoll, 0)
        for page in self._dispatcher.pages("counts"):
            for status in self._run(room_commands.statuses(page, "counts")):
                if status is not None:
                    counts[status] += 1
        return counts

    def history(self, room: int) -> list[Change]:
        """The changes of a room that the feed still has, the oldest first. An expiry leaves no change.

        Raises:
            FeedOffError: the namespace was opened with feed_length=0.
        """
        history = History(room)
        while self._dispatcher.run(read_feed(self._executor, "history", history)):
            pass
        return history.changes()

    def tail(self, last: int = 0) -> Iterator[Change | FeedGap]:
        """The last changes of all rooms, then each new one, without end.

        They are in the order of the server's time; with several shards, as far as they are read together. A FeedGap
        among them marks where changes may be missing. After an error, the next step goes on where it was.

        Raises:
            FeedOffError: the namespace was opened with feed_length=0.
            StoreUnavailableError: no answer for ``deadline`` seconds.
        """
        return TailIterator(self._dispatcher, Tail(last))

    def _rooms(self, only: KVPoll | None) -> Iterator[int]:
        for page in self._dispatcher.pages("rooms"):
            if only is not None:
                statuses = self._run(room_commands.statuses(page, "rooms"))
                page = [room for room, status in zip(page, statuses, strict=True) if status is only]
            yield from page

    def _rows(self, only: KVPoll | None) -> Iterator[RoomRow]:
        for page in self._dispatcher.pages("rows"):
            for row in self._run(room_commands.rows(page)):
                if only is None or row.status is only:
                    yield row

    @abstractmethod
    def _run(self, command: Command[V, T]) -> T:
        """Run a command."""
