"""Calls on rooms that are held for the whole run: opened once, written step by step up to Success, and waited for.

Nobody else writes to them or clears them, and few are cleared at all. So what a holder was told must stay true,
whatever happened to the servers in between.
"""

from __future__ import annotations

from typing import NamedTuple

from chaos.calls import Store
from chaos.handles import Handle, HandleCaller
from chaos.history import HistoryWriter
from chaos.recording import Recorder
from redis_kvpoll import KVPoll

FIRST = 2 * 10**9
"""The first held room."""
ROOMS_PER_WORKER = 10**6
ROOMS_PER_LEASE = 10**4
WAIT_TIMEOUT = 1.0
"""Seconds that a wait is given: longer than most faults last."""
RECENT = 20
"""Rooms that are written to; the older ones are only read."""


class HeldRoom(NamedTuple):
    """A room that is held, and its last known status."""

    handle: Handle
    status: KVPoll


class HoldingCaller(HandleCaller):
    """Opens rooms and advances them."""

    def __init__(
        self, store: Store, writer: HistoryWriter, seed: str, start: float, worker: int, lease_number: int
    ) -> None:
        super().__init__(store, writer, seed, start)
        self._next = FIRST + worker * ROOMS_PER_WORKER + lease_number * ROOMS_PER_LEASE
        self.held: list[HeldRoom] = []
        self._choices = [self._open] * 4 + [self._advance] * 10 + [self._read_status] * 4 + [self._release_one]

    def _room(self) -> int:
        self._next += 1
        return self._next

    async def _open(self) -> None:
        room = self._room()
        call = lambda: self._store.open(room, f"request {room}")  # noqa: E731
        await self._get("open", room, call, f"request {room}")
        if self._handles and self._handles[-1].id == room:
            self.held.append(HeldRoom(self._handles[-1], KVPoll.Bootstrapping))

    async def _advance(self) -> None:
        """Write the next status; after an error it is written again."""
        at = self._recent()
        if at is None or self.held[at].status is KVPoll.Success:
            return
        handle, status = self.held[at]
        told = await self._through(handle, "write", status + 1, lambda: handle.update(status + 1))
        if told is not None and told.status is not None:
            self.held[at] = HeldRoom(handle, told.status)

    async def _release_one(self) -> None:
        at = self._recent()
        if at is not None:
            handle = self.held.pop(at).handle
            await self._through(handle, "release", None, lambda: handle.clear())

    def _handle(self) -> Handle | None:
        return self._chance.choice(self.held).handle if self.held else None

    def _recent(self) -> int | None:
        """The position of one of the rooms that were opened last."""
        count = len(self.held)
        return self._chance.randrange(max(0, count - RECENT), count) if count else None


class WaitingCaller(Recorder):
    """Waits for the rooms that another caller of the same store holds."""

    def __init__(self, store: Store, writer: HistoryWriter, seed: str, start: float, holder: HoldingCaller) -> None:
        super().__init__(writer, seed, start)
        self._store = store
        self._holder = holder

    async def call(self) -> None:
        """Wait for the end of a room: of one that was opened last, or of any."""
        held = self._holder.held[-self._chance.choice((3, 10**9)) :]
        if not held:
            return
        handle = self._chance.choice(held).handle
        call = lambda: self._store.wait(handle.id, timeout=WAIT_TIMEOUT)  # noqa: E731
        answers = lambda rooms, status: {rooms[0]: [None, status]}  # noqa: E731
        arguments = {handle.id: WAIT_TIMEOUT}
        await self._record("await", arguments, call, answers, generation=str(handle.generation))
