"""What SGLang's code holds for its dicts. They are dicts, so that reading is a dict's own look-up.

Everything that changes one of them, and what must be decided with it, is the registry's.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import Any, Protocol

from redis_kvpoll.integrations.sglang.merge import merged

MISSING: Any = object()
"""Stands for an argument that was not given."""


class RoomSource(Protocol):
    """What decides: see registry.RoomSource."""

    def look(self, room: int, default: Any) -> Any: ...
    def last_status(self, room: int) -> int: ...
    def put(self, room: int, status: int) -> None: ...
    def end(self, room: int, default: Any) -> Any: ...
    def blame(self, room: int, reason: str) -> None: ...
    def take_reason(self, room: int, default: Any) -> Any: ...
    def measure(self, room: int, length: int) -> None: ...
    def take_length(self, room: int, default: Any) -> Any: ...
    def is_alone_with(self, room: int) -> bool: ...


class _Kept(dict[int, Any]):
    """A dict whose changes go through the registry, also those by methods that dict would do in C, past our own."""

    __slots__ = ("registry",)

    def __init__(self, registry: RoomSource) -> None:
        super().__init__()
        self.registry = registry

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
        return self.registry.last_status(room)

    def get(self, room: int, default: Any = None) -> Any:
        return self.registry.look(room, default)

    def __setitem__(self, room: int, status: Any) -> None:
        self.registry.put(room, status)

    def pop(self, room: int, default: Any = MISSING) -> Any:
        return self.registry.end(room, default)

    # For the registry, once it has decided

    def keep(self, room: int, status: int) -> None:
        dict.__setitem__(self, room, status)

    def drop(self, room: int) -> int:
        status: int = dict.pop(self, room)
        return status


class ConsensusMap(StatusMap):
    """In the place of ``PPConsensusStore``, for pipeline parallelism: on any rank, ``collect`` gives those of all.

    ``peers`` are the ranks of the same room at each stage of the pipeline, and ``statuses_of`` says how the table has
    the ranks of a room, without asking it. SGLang's own store, ``without_redis``, goes on beneath, and tells rank 0 of
    the other stages while the table cannot.
    """

    __slots__ = ("_peers", "_rank", "_statuses_of", "_without_redis")

    def __init__(
        self,
        registry: RoomSource,
        rank: int,
        peers: list[int],
        statuses_of: Callable[[int], dict[int, Any]],
        without_redis: Any,
    ) -> None:
        super().__init__(registry)
        self._rank = rank
        self._peers = peers
        self._statuses_of = statuses_of
        self._without_redis = without_redis

    def collect(self, room: int) -> list[int | None]:
        """The status of each stage, in order; None for one that has not been heard of."""
        theirs = self._statuses_of(room)
        found = [dict.get(self, room) if peer == self._rank else theirs.get(peer) for peer in self._peers]
        if self._rank == self._peers[0] and self.registry.is_alone_with(room):
            found = list(map(merged, found, self._without_redis.collect(room)))
        return [None if status is None else int(status) for status in found]

    def keep(self, room: int, status: int) -> None:
        dict.__setitem__(self, room, status)
        self._without_redis[room] = int(status)

    def drop(self, room: int) -> int:
        self._without_redis.pop(room)
        return super().drop(room)

    def pop(self, room: int, default: Any = None) -> Any:
        return self.registry.end(room, default)

    def close(self) -> None:
        """As PPConsensusStore's."""
        self._without_redis.close()


class FailureRecords(_Kept):
    """In the place of ``failure_records``: why rooms failed. The first cause stays, of whichever rank it is."""

    __slots__ = ()

    def __setitem__(self, room: int, reason: str) -> None:
        self.registry.blame(room, reason)

    def pop(self, room: int, default: Any = MISSING) -> Any:
        """SGLang asks for the reason at the end, when the room is cleared: then another rank's is waited for."""
        return self.registry.take_reason(room, default)


class PrefixLengths(_Kept):
    """In the place of ``req_to_decode_prefix_len``."""

    __slots__ = ()

    def __setitem__(self, room: int, length: int) -> None:
        self.registry.measure(room, length)

    def pop(self, room: int, default: Any = MISSING) -> Any:
        return self.registry.take_length(room, default)
