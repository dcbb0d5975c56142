"""Calls on room handles: rooms are opened, attached, written through their generations (also late), and cleared.

The rooms are others than those of plain calls, so that no unfenced call explains what happens to them.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from chaos.calls import Store
from chaos.history import HistoryWriter
from chaos.recording import Recorder
from redis_kvpoll import KVPoll
from redis_kvpoll.aio.room import AsyncRoom
from redis_kvpoll.sync.room import Room

Handle = Room | AsyncRoom

FIRST = 10**9
"""The first room for handles."""
MAX_HANDLES = 12
"""Handles that a caller keeps. The generations of some have ended: writes through those are late."""


class HandleCaller(Recorder):
    """Makes and records calls on handles."""

    def __init__(self, store: Store, writer: HistoryWriter, seed: str, start: float) -> None:
        super().__init__(writer, seed, start)
        self._store = store
        self._handles: deque[Handle] = deque(maxlen=MAX_HANDLES)
        self._choices = [self._open] * 5 + [self._attach] * 3 + [self._write] * 12 + [self._fail]
        self._choices += [self._release] * 3 + [self._read_status] * 3 + [self._entry] * 3

    async def call(self) -> None:
        """Make one random call."""
        await self._chance.choice(self._choices)()

    def _room(self) -> int:
        return FIRST + super()._room()

    async def _open(self) -> None:
        """Few requests for each room: some are attached to by another worker, and most find the room busy."""
        room = self._room()
        request = f"request {room} {self._chance.randrange(4)}"
        status = self._chance.choice((KVPoll.Bootstrapping, KVPoll.WaitingForInput))
        call = lambda: self._store.open(room, request, status)  # noqa: E731
        await self._get("open", room, call, request)

    async def _attach(self) -> None:
        room = self._room()
        await self._get("attach", room, lambda: self._store.attach(room))

    async def _get(self, name: str, room: int, call: Any, request: str = "") -> None:
        handle = await self._record(name, {room: None}, call, _present, request=request, learned=_generation)
        if handle is not None:
            self._handles.append(handle)

    async def _write(self) -> None:
        if handle := self._handle():
            status = self._status()
            await self._through(handle, "write", status, lambda: handle.update(status))

    async def _fail(self) -> None:
        if handle := self._handle():
            await self._through(handle, "fail", KVPoll.Failed, lambda: handle.fail("by chance"))

    async def _release(self) -> None:
        if handle := self._handle():
            await self._through(handle, "release", None, lambda: handle.clear())

    async def _read_status(self) -> None:
        if handle := self._handle():
            await self._through(handle, "status", None, lambda: handle.status())

    async def _entry(self) -> None:
        room = self._room()
        call = lambda: self._store.entry(room)  # noqa: E731
        await self._record("entry", {room: None}, call, entry_answer, learned=entry_generation)

    def _handle(self) -> Handle | None:
        return self._chance.choice(self._handles) if self._handles else None

    async def _through(self, handle: Handle, name: str, argument: Any, call: Any) -> Any:
        answers = _status_answer if name == "status" else _single
        return await self._record(name, {handle.id: argument}, call, answers, generation=str(handle.generation))


def _single(rooms: list[int], answer: Any) -> dict[int, Any]:
    return {rooms[0]: answer}


def _present(rooms: list[int], handle: Any) -> dict[int, Any]:
    """The room has this generation; its status is unknown."""
    return {rooms[0]: [None, None]}


def _status_answer(rooms: list[int], status: Any) -> dict[int, Any]:
    return {rooms[0]: None if status is None else [None, status]}


def _generation(handle: Any) -> str:
    return str(handle.generation)


def entry_answer(rooms: list[int], entry: Any) -> dict[int, Any]:
    """An entry's owner, status and reason, by room."""
    return {rooms[0]: None if entry is None else [entry.owner, int(entry.status), entry.reason]}


def entry_generation(entry: Any) -> str:
    """The generation of an entry; empty if there is none."""
    return "" if entry is None else str(entry.generation)
