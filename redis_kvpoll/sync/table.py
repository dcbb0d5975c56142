"""The operations of a store on rooms, each one command.

To add one: build its command in ``protocol/room_commands``, and add a method here and in the twin.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import NoReturn, TypeVar, overload

from redis_kvpoll.errors import CorruptEntryError
from redis_kvpoll.model import Consensus, Entry, KVPoll, Update
from redis_kvpoll.protocol import room_commands
from redis_kvpoll.protocol.room_commands import DEFAULT_ABORT_REASON
from redis_kvpoll.protocol.script_call import Command
from redis_kvpoll.sync.single_calls import SingleCalls

T = TypeVar("T")
V = TypeVar("V")
D = TypeVar("D")


class Table(ABC):
    """The operations on rooms. A store runs their commands."""

    _single: SingleCalls

    # Writing

    def update_status(self, room: int, status: KVPoll | int) -> Update:
        """Merge a status into a room, by the policy (the rule of SGLang PR 24539, or its stricter form).

        It is sent again when a reply is lost. The second execution is a late message, and reports UNCHANGED.
        """
        return self._single.update_status(room, status)

    def update_many(self, statuses: Mapping[int, KVPoll | int]) -> dict[int, Update]:
        """Merge many statuses, in one round trip per shard and 1,000 rooms (200 with a rank or a lease).

        Atomic for each room, not as a whole.
        """
        return self._run(room_commands.update_many(statuses))

    def abort(self, room: int, reason: str = DEFAULT_ABORT_REASON) -> Update:
        """Fail a room with a reason, in one step.

        An absent room is SKIPPED: a late abort never re-creates a room. An earlier reason stays, since the first cause
        explains the later ones. A room that is already Failed is UNCHANGED, with a reason or without one;
        ``record_failure`` adds one. Reasons are cut to 1,000 characters.
        """
        return self._run(room_commands.abort(room, reason))

    def record_failure(self, room: int, reason: str) -> bool:
        """Record why a room fails, without failing it. True when this is now the room's reason.

        False when the room is absent, or has an earlier reason.
        """
        return self._run(room_commands.record_failure(room, reason))

    def touch(self, rooms: Iterable[int]) -> int:
        """Give live rooms a full TTL again; return how many there were. A terminal room is left to expire."""
        return self._run(room_commands.touch(rooms))

    def set_decode_prefix_len(self, room: int, length: int) -> None:
        """Record how many tokens of a room's prompt the decode side holds already. The room may still be absent."""
        return self._run(room_commands.set_decode_prefix_len(room, length))

    # Destructive: not sent again after a lost reply (OutcomeUnknownError)

    def clear(self, room: int) -> KVPoll | None:
        """Remove a room, its reason and its decode prefix length; return the status that it had, or None."""
        return self._run(room_commands.clear(room))

    def clear_many(self, rooms: Iterable[int]) -> dict[int, KVPoll | None]:
        """Remove many rooms and return the status that each had, in one round trip per shard and 250 rooms.

        Raises:
            OutcomeUnknownError: a reply was lost, or only some of the rooms were removed.
        """
        return self._run(room_commands.clear_many(rooms))

    def pop_decode_prefix_len(self, room: int) -> int:
        """Remove and return a room's decode prefix length; 0 when there is none."""
        return self._run(room_commands.pop_decode_prefix_len(room))

    def failure_exception(self, room: int) -> NoReturn:
        """Clear a room and raise why it failed, in one step; also when it has not failed, or is absent.

        Raises:
            KVTransferError: always, with the room and its reason ("no reason was recorded" if there is none).
        """
        raise self._run(room_commands.failure_exception(room))

    # Reading

    def check_status(self, room: int) -> KVPoll:
        """The status of a room.

        Raises:
            RoomNotFoundError: the room is absent (a KeyError, as SGLang's dict would raise).
        """
        return self._single.check_status(room)

    @overload
    def get(self, room: int) -> KVPoll | None: ...
    @overload
    def get(self, room: int, default: D) -> KVPoll | D: ...
    def get(self, room: int, default: object = None) -> object:
        """The status of a room, or ``default`` when it is absent."""
        return self._single.get(room, default)

    def poll(self, rooms: Iterable[int]) -> list[KVPoll | None]:
        """The status of each room in the given order, in one round trip per shard and 1,000 rooms."""
        return self._run(room_commands.poll(rooms))

    def failure_reason(self, room: int) -> str | None:
        """Why a room failed; None when it is absent or has no reason."""
        return self._run(room_commands.failure_reason(room))

    def entry(self, room: int) -> Entry | None:
        """All fields of a room, read at one moment; None when it is absent."""
        return self._run(room_commands.entry(room))

    def entries(self, rooms: Iterable[int]) -> dict[int, Entry | CorruptEntryError]:
        """All fields of many rooms, in one round trip per shard and 500 rooms; absent rooms are left out.

        A corrupt room has the error that ``entry`` would raise.
        """
        return self._run(room_commands.entries(rooms))

    def consensus(self, rooms: Iterable[int]) -> list[Consensus]:
        """The consensus of the ranks of each room, in the given order, in one round trip per shard and 1,000 rooms.

        Any rank Failed: Failed; a rank missing: Bootstrapping; else the lowest. Each consensus is of one moment; its
        version shows which of two is newer. Any store may call it, with a rank or without one.
        """
        return self._run(room_commands.consensus(rooms))

    def collect(self, room: int) -> dict[int, KVPoll]:
        """The status of each rank that has written, also of those that have cleared; empty when the room is absent."""
        return self._run(room_commands.collect(room))

    @abstractmethod
    def _run(self, command: Command[V, T]) -> T:
        """Run a command."""
