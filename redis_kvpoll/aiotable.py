"""What a store does with rooms, for asyncio. Each method is its blocking twin's, awaited."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Iterable, Mapping
from typing import NoReturn, TypeVar, overload

from redis_kvpoll import commands
from redis_kvpoll.commands import Command
from redis_kvpoll.commands.rooms import DEFAULT_ABORT_REASON
from redis_kvpoll.status import Consensus, Entry, KVPoll, Update
from redis_kvpoll.table import Table
from redis_kvpoll.twins import share_docstrings

T = TypeVar("T")
V = TypeVar("V")
D = TypeVar("D")


class AsyncTable(ABC):
    """The operations on rooms. A store says how a command is run."""

    async def update_status(self, room: int, status: KVPoll | int) -> Update:
        return await self._run(commands.update_status(room, status))

    async def update_many(self, statuses: Mapping[int, KVPoll | int]) -> dict[int, Update]:
        return await self._run(commands.update_many(statuses))

    async def abort(self, room: int, reason: str = DEFAULT_ABORT_REASON) -> Update:
        return await self._run(commands.abort(room, reason))

    async def record_failure(self, room: int, reason: str) -> bool:
        return await self._run(commands.record_failure(room, reason))

    async def touch(self, rooms: Iterable[int]) -> int:
        return await self._run(commands.touch(rooms))

    async def set_decode_prefix_len(self, room: int, length: int) -> None:
        return await self._run(commands.set_decode_prefix_len(room, length))

    async def clear(self, room: int) -> KVPoll | None:
        return await self._run(commands.clear(room))

    async def clear_many(self, rooms: Iterable[int]) -> dict[int, KVPoll | None]:
        return await self._run(commands.clear_many(rooms))

    async def pop_decode_prefix_len(self, room: int) -> int:
        return await self._run(commands.pop_decode_prefix_len(room))

    async def failure_exception(self, room: int) -> NoReturn:
        raise await self._run(commands.failure_exception(room))

    async def check_status(self, room: int) -> KVPoll:
        return await self._run(commands.check_status(room))

    @overload
    async def get(self, room: int) -> KVPoll | None: ...
    @overload
    async def get(self, room: int, default: D) -> KVPoll | D: ...
    async def get(self, room: int, default: object = None) -> object:
        return await self._run(commands.get(room, default))

    async def poll(self, rooms: Iterable[int]) -> list[KVPoll | None]:
        return await self._run(commands.poll(rooms))

    async def failure_reason(self, room: int) -> str | None:
        return await self._run(commands.failure_reason(room))

    async def entry(self, room: int) -> Entry | None:
        return await self._run(commands.entry(room))

    async def consensus(self, rooms: Iterable[int]) -> list[Consensus]:
        return await self._run(commands.consensus(rooms))

    async def collect(self, room: int) -> dict[int, KVPoll]:
        return await self._run(commands.collect(room))

    @abstractmethod
    def _run(self, command: Command[V, T]) -> Awaitable[T]:
        """Carry a command out."""


share_docstrings(AsyncTable, Table)
