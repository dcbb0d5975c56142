"""The maps that replace SGLang's dicts.

They are dicts, so that a read is a dict's own look-up. Every change goes through the RoomRegistry, which decides it.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import Any, Protocol, Self

from redis_kvpoll.agent.merge import FAILED
from redis_kvpoll.model import KVPoll

MISSING: Any = object()
"""The default of an argument that was not given."""


class RoomSource(Protocol):
    """What the maps call: the RoomRegistry."""

    def last_status(self, room: int) -> int | None: ...
    def write_status(self, room: int, status: int) -> None: ...
    def clear(self, room: int, default: Any) -> Any: ...
    def record_reason(self, room: int, reason: str) -> None: ...
    def await_reason(self, room: int) -> None: ...
    def pop(self, records: dict[int, Any], room: int, default: Any) -> Any: ...
    def record_length(self, room: int, length: int) -> None: ...


class RegistryMap(dict[int, Any]):
    """A dict whose changes go through the registry, also those by methods that a dict implements in C."""

    __slots__ = ("registry",)

    def __init__(self, registry: RoomSource) -> None:
        super().__init__()
        self.registry = registry

    def __delitem__(self, room: int) -> None:
        self.pop(room, MISSING)

    def setdefault(self, room: int, default: Any = None) -> Any:
        if room not in self:
            self[room] = default
        return dict.get(self, room, default)

    def __ior__(self, other: Any) -> Self:  # type: ignore[misc,override]
        self.update(other)
        return self

    update = MutableMapping.update
    popitem = MutableMapping.popitem

    def clear(self) -> None:
        for room in list(self):  # each once: what interrupts a change, or comes late, removes nothing now
            self.pop(room, None)


class StatusMap(RegistryMap):
    """Replaces ``request_status``: the status of each room, as this process's rank has it.

    ``in``, ``get`` and ``[]`` are the dict's. Only ``[]`` of an absent room differs: a KeyError would end a thread of
    SGLang's, or the scheduler. Writes merge as in SGLang's ``update_status``: see RoomRegistry.write_status.
    """

    __slots__ = ()

    def __missing__(self, room: int) -> Any:
        """Return the status of a room that is gone: its last one, or Failed if that is forgotten.

        Its last one is for a thread that has just found the room by ``in``, as _handle_node_failure does before
        check_status: the room was cleared in between. Failed is for a receiver that polls after another one has cleared
        the room, long ago; a sender's poll reports the same for a room that is gone.
        """
        status = self.registry.last_status(room)
        return FAILED if status is None else status

    def __setitem__(self, room: int, status: Any) -> None:
        self.registry.write_status(room, status)

    def pop(self, room: int, default: Any = MISSING) -> Any:
        return self.registry.clear(room, default)

    # Called by the registry, once it has decided. These are the dict's own, as a method of ours would only call them.

    store = dict.__setitem__
    remove: Any = dict.pop


_AS_INT: dict[int | None, int | None] = {None: None, **{status: int(status) for status in KVPoll}}


class ConsensusMap(StatusMap):
    """Replaces ``PPConsensusStore``, for pipeline parallelism: ``collect`` works on every rank.

    ``sglangs`` is SGLang's own store, which gets every write too. On rank 0 it has what each stage has, also while
    Redis is unreachable, and before rank 0 itself has opened the room. ``peers`` are the ranks of the same room at each
    stage, and ``statuses_of`` gives the table's statuses of a room by rank, for the other ranks.
    """

    __slots__ = ("_peers", "_rank", "_sglangs", "_statuses_of")

    def __init__(
        self,
        registry: RoomSource,
        rank: int,
        peers: list[int],
        statuses_of: Callable[[int], dict[int, Any]],
        sglangs: Any,
    ) -> None:
        super().__init__(registry)
        self._rank = rank
        self._peers = peers
        self._statuses_of = statuses_of
        self._sglangs = sglangs

    def __missing__(self, room: int) -> Any:
        """Return the last status of a room that is gone; KeyError, as from SGLang's store, if it is not known."""
        status = self.registry.last_status(room)
        if status is None:
            raise KeyError(room)
        return status

    def __setitem__(self, room: int, status: Any) -> None:
        if not isinstance(status, int):
            raise TypeError(f"a status is an int, not {type(status).__name__}")
        super().__setitem__(room, status)

    def collect(self, room: int) -> list[int | None]:
        """Return the status of each stage, in order; None where it has none."""
        if self._rank == self._peers[0]:
            found: list[int | None] = self._sglangs.collect(room)
            return found
        statuses = {**self._statuses_of(room), self._rank: dict.get(self, room)}
        # Without a loop of Python's: a scheduler collects all rooms in each round.
        return list(map(_AS_INT.__getitem__, map(statuses.get, self._peers)))

    def store(self, room: int, status: int) -> None:
        self._sglangs[room] = int(status)
        dict.__setitem__(self, room, status)

    def remove(self, room: int) -> int:
        self._sglangs.pop(room)
        status: int = super().remove(room)
        return status

    def pop(self, room: int, default: Any = None) -> Any:
        return self.registry.clear(room, default)

    def close(self) -> None:
        """Close SGLang's own store, which SGLang no longer holds."""
        self._sglangs.close()


class FailureRecords(RegistryMap):
    """Replaces ``failure_records``: why rooms failed. The first reason stays, whichever rank recorded it."""

    __slots__ = ()

    def __setitem__(self, room: int, reason: str) -> None:
        self.registry.record_reason(room, reason)

    def pop(self, room: int, default: Any = MISSING) -> Any:
        """Return and drop the reason. SGLang pops it after clearing the room, so this waits for another rank's."""
        self.registry.await_reason(room)
        return self.registry.pop(self, room, default)


class PrefixLengths(RegistryMap):
    """Replaces ``req_to_decode_prefix_len``."""

    __slots__ = ()

    def __setitem__(self, room: int, length: int) -> None:
        self.registry.record_length(room, length)

    def pop(self, room: int, default: Any = MISSING) -> Any:
        return self.registry.pop(self, room, default)
