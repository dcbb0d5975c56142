"""The maps that replace SGLang's dicts.

They are dicts, so that a read is a dict's own look-up. Every change goes through the RoomRegistry, which decides it.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import Any, Protocol

from redis_kvpoll.integrations.sglang.merge import merge_optional

MISSING: Any = object()
"""The default of an argument that was not given."""


class RoomSource(Protocol):
    """What the maps call: the RoomRegistry."""

    def last_status(self, room: int) -> int: ...
    def write_status(self, room: int, status: int) -> None: ...
    def clear(self, room: int, default: Any) -> Any: ...
    def record_reason(self, room: int, reason: str) -> None: ...
    def pop_reason(self, room: int, default: Any) -> Any: ...
    def record_length(self, room: int, length: int) -> None: ...
    def pop_length(self, room: int, default: Any) -> Any: ...
    def needs_fallback(self, room: int) -> bool: ...


class RegistryMap(dict[int, Any]):
    """A dict whose changes go through the registry, also those by methods that a dict implements in C."""

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


class StatusMap(RegistryMap):
    """Replaces ``request_status``: the status of each room, as this process's rank has it.

    ``in``, ``get`` and ``[]`` are the dict's. Only ``[]`` of a room that was cleared a moment ago differs: it gives the
    room's last status instead of a KeyError, for a thread that just checked ``in``. Concurrent writes merge: see
    RoomRegistry.write_status.
    """

    __slots__ = ()

    def __missing__(self, room: int) -> Any:
        return self.registry.last_status(room)

    def __setitem__(self, room: int, status: Any) -> None:
        self.registry.write_status(room, status)

    def pop(self, room: int, default: Any = MISSING) -> Any:
        return self.registry.clear(room, default)

    # Called by the registry, once it has decided

    def store(self, room: int, status: int) -> None:
        dict.__setitem__(self, room, status)

    def remove(self, room: int) -> int:
        status: int = dict.pop(self, room)
        return status


class ConsensusMap(StatusMap):
    """Replaces ``PPConsensusStore``, for pipeline parallelism: ``collect`` works on every rank.

    ``peers`` are the ranks of the same room at each stage. ``statuses_of`` gives the table's statuses of a room by
    rank, from the local copy. ``fallback`` is SGLang's own store, which gets every write too: during an outage, rank 0
    reads the statuses of the other stages from it.
    """

    __slots__ = ("_fallback", "_peers", "_rank", "_statuses_of")

    def __init__(
        self,
        registry: RoomSource,
        rank: int,
        peers: list[int],
        statuses_of: Callable[[int], dict[int, Any]],
        fallback: Any,
    ) -> None:
        super().__init__(registry)
        self._rank = rank
        self._peers = peers
        self._statuses_of = statuses_of
        self._fallback = fallback

    def collect(self, room: int) -> list[int | None]:
        """Return the status of each stage, in order; None if it is not known."""
        theirs = self._statuses_of(room)
        found = [dict.get(self, room) if peer == self._rank else theirs.get(peer) for peer in self._peers]
        if self._rank == self._peers[0] and self.registry.needs_fallback(room):
            found = list(map(merge_optional, found, self._fallback.collect(room)))
        return [None if status is None else int(status) for status in found]

    def store(self, room: int, status: int) -> None:
        dict.__setitem__(self, room, status)
        self._fallback[room] = int(status)

    def remove(self, room: int) -> int:
        self._fallback.pop(room)
        return super().remove(room)

    def pop(self, room: int, default: Any = None) -> Any:
        return self.registry.clear(room, default)

    def close(self) -> None:
        """Close SGLang's own store, which SGLang no longer holds."""
        self._fallback.close()


class FailureRecords(RegistryMap):
    """Replaces ``failure_records``: why rooms failed. The first reason stays, whichever rank recorded it."""

    __slots__ = ()

    def __setitem__(self, room: int, reason: str) -> None:
        self.registry.record_reason(room, reason)

    def pop(self, room: int, default: Any = MISSING) -> Any:
        """Return and drop the reason. SGLang pops it after clearing the room, so this waits for another rank's."""
        return self.registry.pop_reason(room, default)


class PrefixLengths(RegistryMap):
    """Replaces ``req_to_decode_prefix_len``."""

    __slots__ = ()

    def __setitem__(self, room: int, length: int) -> None:
        self.registry.record_length(room, length)

    def pop(self, room: int, default: Any = MISSING) -> Any:
        return self.registry.pop_length(room, default)
