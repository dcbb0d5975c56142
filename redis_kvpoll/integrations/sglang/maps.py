"""The maps that replace SGLang's dicts.

They are dicts, so that a read is a dict's own look-up. StatusMap decides what a write does to a room; the RoomRegistry
opens and clears rooms, and has them told to the table.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import Any, Protocol, Self

from redis_kvpoll.agent.client.sender import ChangeSender
from redis_kvpoll.agent.life import HAS_STATUS, Life
from redis_kvpoll.agent.merge import CREATING, FAILED
from redis_kvpoll.integrations.sglang.changes import Changes, change
from redis_kvpoll.integrations.sglang.lives import RoomLives
from redis_kvpoll.integrations.sglang.scope import Scopes
from redis_kvpoll.integrations.sglang.unclaimed import Unclaimed
from redis_kvpoll.model import KVPoll

MISSING: Any = object()
"""The default of an argument that was not given."""


class RoomSource(Protocol):
    """What the maps use of the RoomRegistry. Those of its methods that change a room are parts of a change."""

    changes: Changes
    scopes: Scopes
    lives: RoomLives
    unclaimed: Unclaimed
    sender: ChangeSender

    def last_status(self, room: int) -> int | None: ...
    def open(self, room: int, status: int) -> None: ...
    def set_status(self, life: Life, status: int) -> None: ...
    def fail(self, life: Life, before: int) -> None: ...
    def clear(self, room: int) -> int | None: ...
    def to_clear(self, room: int) -> int | None: ...
    def record_reason(self, room: int, reason: str) -> None: ...
    def await_reason(self, room: int) -> None: ...
    def note_length(self, room: int) -> None: ...


class RegistryMap(dict[int, Any]):
    """A dict whose changes go through its own methods, also those by methods that a dict implements in C."""

    __slots__ = ("changes", "registry")

    def __init__(self, registry: RoomSource) -> None:
        super().__init__()
        self.registry = registry
        self.changes = registry.changes

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
    SGLang's, or the scheduler.
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

    @change
    def __setitem__(self, room: int, status: Any) -> None:
        """Write a status that SGLang has decided on.

        In the scope of the room, it merges into the life that the scope is about, or opens the room if that was absent
        from the beginning and the status is one that opens. Every other write is late and does nothing. Outside a
        scope, where SGLang writes nothing today, it is a dict's assignment.
        """
        registry = self.registry
        scope, life = registry.scopes.current, registry.lives.get(room)
        if scope is None or scope[0] != room:
            registry.open(room, status) if life is None else registry.set_status(life, status)
        elif life is None:
            if scope[1] is None and status in CREATING:
                registry.open(room, status)
        elif scope[1] is life or scope[1] is None:
            before = dict.__getitem__(self, room)
            if status == FAILED:
                registry.fail(life, before)
            elif before != FAILED and status > before:  # as merge and set_status: SGLang makes several a request
                self.store(room, status)
                if life.status is not None:
                    life.status = status
                    registry.sender.tell(life, HAS_STATUS)
            if life.status is None and status in CREATING:
                registry.unclaimed.asked(room)

    def pop(self, room: int, default: Any = MISSING) -> Any:
        """Clear a room and return its last status; ``default``, or a KeyError, if there is no such room."""
        registry = self.registry
        status = self.changes.make(registry.clear, registry.to_clear, room)
        if status is not None:
            return status
        if default is not MISSING:
            return default
        if registry.scopes.is_late(room) and room in self:
            return self[room]  # it stays, but is no KeyError: SGLang may just have found it by ``in``
        raise KeyError(room)

    # Called once a change is decided. These are the dict's own, as a method of ours would only call them.

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
        return super().pop(room, default)

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
        found = self.changes.make(dict.pop, dict.get, self, room, default)
        if found is MISSING:
            raise KeyError(room)
        return found


class PrefixLengths(RegistryMap):
    """Replaces ``req_to_decode_prefix_len``: how much of a room's prefix the decode side has.

    A length goes into the table with the room's next change: SGLang records it just before it writes the status of the
    same message. It needs no lock then.
    """

    __slots__ = ()

    def __setitem__(self, room: int, length: int) -> None:
        dict.__setitem__(self, room, length)
        life = self.registry.lives.get(room)
        if life is None:
            self.registry.note_length(room)
        else:
            life.length = length

    pop: Any = dict.pop
    """The table keeps a length until the room is cleared."""
