"""What a store does with rooms, for asyncio. Each method is its blocking twin's, awaited."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Iterable, Mapping
from typing import NoReturn, TypeVar, overload

from redis_kvpoll.model import Consensus, Entry, KVPoll, Update
from redis_kvpoll.protocol import room_commands
from redis_kvpoll.protocol.room_commands import DEFAULT_ABORT_REASON
from redis_kvpoll.protocol.script_call import Command

T = TypeVar("T")
V = TypeVar("V")
D = TypeVar("D")


class AsyncTable(ABC):
    """The operations on rooms. A store says how a command is run."""

    async def update_status(self, room: int, status: KVPoll | int) -> Update:
        """Merge a status into a room, by the policy (the rule of SGLang PR 24539, or its stricter form).

        Sent again when a reply is lost; the second time it is only a late message, and answers so (UNCHANGED).
        """
        return await self._run(room_commands.update_status(room, status))

    async def update_many(self, statuses: Mapping[int, KVPoll | int]) -> dict[int, Update]:
        """Merge many statuses, in one round attempts a shard for every 1,000. Atomic a room, not as a whole."""
        return await self._run(room_commands.update_many(statuses))

    async def abort(self, room: int, reason: str = DEFAULT_ABORT_REASON) -> Update:
        """Fail a room and say why, in one effect.

        An absent room is SKIPPED: an abort that comes late never brings a room back. A reason that is already
        there stays, since the first cause explains the later ones. A room that is Failed already is UNCHANGED, with
        its reason or without one; ``record_failure`` adds one. Reasons are cut to 1,000 characters.
        """
        return await self._run(room_commands.abort(room, reason))

    async def record_failure(self, room: int, reason: str) -> bool:
        """Note why a room is failing, without failing it. True when this reason is now the room's.

        False when the room is absent, or an earlier reason stands.
        """
        return await self._run(room_commands.record_failure(room, reason))

    async def touch(self, rooms: Iterable[int]) -> int:
        """Give live rooms a full TTL again; how many there were. A terminal room is left to expire."""
        return await self._run(room_commands.touch(rooms))

    async def set_decode_prefix_len(self, room: int, length: int) -> None:
        """Record how many tokens of a room's prompt decode already holds. The room may still be absent."""
        return await self._run(room_commands.set_decode_prefix_len(room, length))

    async def clear(self, room: int) -> KVPoll | None:
        """Remove a room, its reason and its decode prefix length; the status that it had, or None."""
        return await self._run(room_commands.clear(room))

    async def clear_many(self, rooms: Iterable[int]) -> dict[int, KVPoll | None]:
        """Remove many rooms, in one round attempts a shard for every 1,000."""
        return await self._run(room_commands.clear_many(rooms))

    async def pop_decode_prefix_len(self, room: int) -> int:
        """Take a room's decode prefix length out of the table; 0 when there is none."""
        return await self._run(room_commands.pop_decode_prefix_len(room))

    async def failure_exception(self, room: int) -> NoReturn:
        """Clear a room and raise why it failed, in one effect; also one that has not failed, or is absent.

        Raises:
            KVTransferError: always, with the room and its reason ("no reason was recorded" if there is none).
        """
        raise await self._run(room_commands.failure_exception(room))

    async def check_status(self, room: int) -> KVPoll:
        """The status of a room.

        Raises:
            RoomNotFoundError: the room is absent (a KeyError, as SGLang's dict would raise).
        """
        return await self._run(room_commands.check_status(room))

    @overload
    async def get(self, room: int) -> KVPoll | None: ...
    @overload
    async def get(self, room: int, default: D) -> KVPoll | D: ...
    async def get(self, room: int, default: object = None) -> object:
        """The status of a room, or ``default`` when it is absent."""
        return await self._run(room_commands.get(room, default))

    async def poll(self, rooms: Iterable[int]) -> list[KVPoll | None]:
        """The status of each room in the given order, in one round attempts a shard for every 1,000."""
        return await self._run(room_commands.poll(rooms))

    async def failure_reason(self, room: int) -> str | None:
        """Why a room failed; None when it is absent or nobody said."""
        return await self._run(room_commands.failure_reason(room))

    async def entry(self, room: int) -> Entry | None:
        """All that the table knows of a room, read at one moment."""
        return await self._run(room_commands.entry(room))

    async def consensus(self, rooms: Iterable[int]) -> list[Consensus]:
        """What the ranks of each room agree on, in the given order, in one round attempts a shard for every 1,000.

        Any rank Failed: Failed; a rank missing: Bootstrapping; else the lowest. Each answer is of one moment and has a
        version, so that of two the newer can be told. It may be asked from any rank, and by a store without one.
        """
        return await self._run(room_commands.consensus(rooms))

    async def collect(self, room: int) -> dict[int, KVPoll]:
        """The status of each rank that has been heard of; also of those that have cleared. Empty when it is absent."""
        return await self._run(room_commands.collect(room))

    @abstractmethod
    def _run(self, command: Command[V, T]) -> Awaitable[T]:
        """Carry a command out."""
