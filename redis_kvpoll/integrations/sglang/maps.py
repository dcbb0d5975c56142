"""What SGLang's code holds for its dicts. They are dicts, so that reading is a dict's own look-up.

Everything that changes one of them, and what must be decided with it, is the book's.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from redis_kvpoll.integrations.sglang.book import Book

MISSING: Any = object()
"""Stands for an argument that was not given."""


class _Kept(dict[int, Any]):
    """A dict whose changes go through the book, also those by methods that dict would do in C, past our own."""

    __slots__ = ("book",)

    def __init__(self, book: Book) -> None:
        super().__init__()
        self.book = book

    def __delitem__(self, room: int) -> None:
        self.pop(room)

    setdefault = MutableMapping.setdefault
    update = MutableMapping.update
    popitem = MutableMapping.popitem
    clear = MutableMapping.clear


class StatusMap(_Kept):
    """In the place of ``request_status``: the status of each room, as this process's rank sees it.

    ``[]`` and ``in`` are the dict's. A room that was cleared a moment ago is no KeyError for ``[]``: who has seen that
    it is ``in`` gets its last status. Writes merge as SGLang's ``update_status`` does, however its threads meet.
    """

    __slots__ = ()

    def __missing__(self, room: int) -> Any:
        return self.book.last_status(room)

    def get(self, room: int, default: Any = None) -> Any:
        return self.book.look(room, default)

    def __setitem__(self, room: int, status: Any) -> None:
        self.book.put(room, status)

    def pop(self, room: int, default: Any = MISSING) -> Any:
        return self.book.end(room, default)


class ConsensusMap(StatusMap):
    """In the place of ``PPConsensusStore``, for pipeline parallelism: on any rank, ``collect`` gives those of all.

    ``peers`` are the ranks of the same room at each stage of the pipeline, and ``statuses_of`` says how the table has
    the ranks of a room, without asking it.
    """

    __slots__ = ("_peers", "_rank", "_statuses_of")

    def __init__(self, book: Book, rank: int, peers: list[int], statuses_of: Callable[[int], dict[int, Any]]) -> None:
        super().__init__(book)
        self._rank = rank
        self._peers = peers
        self._statuses_of = statuses_of

    def collect(self, room: int) -> list[int | None]:
        """The status of each stage, in order; None for one that has not been heard of."""
        theirs = self._statuses_of(room)
        found: list[int | None] = []
        for peer in self._peers:
            status = dict.get(self, room) if peer == self._rank else theirs.get(peer)
            found.append(None if status is None else int(status))
        return found

    def pop(self, room: int, default: Any = None) -> Any:
        return self.book.end(room, default)

    def close(self) -> None:
        """As PPConsensusStore's; there is nothing to close here."""


class FailureRecords(_Kept):
    """In the place of ``failure_records``: why rooms failed. The first cause stays, of whichever rank it is."""

    __slots__ = ()

    def __setitem__(self, room: int, reason: str) -> None:
        self.book.blame(room, reason)

    def pop(self, room: int, default: Any = MISSING) -> Any:
        """SGLang asks for the reason at the end, when the room is cleared: then another rank's is waited for."""
        return self.book.take_reason(room, default)


class PrefixLengths(_Kept):
    """In the place of ``req_to_decode_prefix_len``."""

    __slots__ = ()

    def __setitem__(self, room: int, length: int) -> None:
        self.book.measure(room, length)

    def pop(self, room: int, default: Any = MISSING) -> Any:
        return self.book.take_length(room, default)
