"""Followers of failures: which rooms a worker holds for them, what is done to those rooms, and what they report.

All workers share a few rooms, so that a room is soon cleared and opened again for another request, before its failure
is read. The calls have names of their own: only chaos.followed judges them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from chaos.calls import Store
from chaos.handles import Handle
from chaos.history import HistoryWriter
from chaos.recording import Recorder
from redis_kvpoll import AsyncFailures, Failures, KVPoll, RoomFailure

FIRST = 3 * 10**9
"""The first of the rooms."""
ROOMS = 12
REQUESTS = 3
"""Requests for each room: some are joined by another worker, some find the room busy."""


class Holdings:
    """The rooms of one worker, as its followers ask for them, and what each follower has reported."""

    def __init__(self, writer: HistoryWriter) -> None:
        self.handles: dict[int, Handle] = {}
        self.opening: set[int] = set()
        self._writer = writer
        self._followers: list[Failures | AsyncFailures] = []
        self._reported: list[set[tuple[int, int]]] = []

    def rooms(self) -> list[int]:
        """The held rooms, and those that are being opened."""
        return [*self.opening.copy(), *self.handles.copy()]

    def add(self, follower: Failures | AsyncFailures) -> None:
        """Record what a follower reports from now on."""
        reported: set[tuple[int, int]] = set()
        self._followers.append(follower)
        self._reported.append(reported)

        def report(failure: RoomFailure) -> None:
            reported.add((failure.room, failure.generation))
            self._writer.reported(failure.room, failure.generation, failure.reason)

        follower.on_failure(report)

    def are_current(self, since: float) -> bool:
        """Whether every follower is synced, with a proof from after a time."""
        return all(one.synced and time.monotonic() - one.lag > since for one in self._followers)

    def record(self, since: float) -> None:
        """Record each held generation, and whether all followers know a failure of it."""
        if not self._followers:
            return
        error = "" if self.are_current(since) else "NotSynced: a follower of failures is not current"
        for room, handle in self.handles.items():
            known = all(
                (room, handle.generation) in reported or _known(follower, room) == handle.generation
                for follower, reported in zip(self._followers, self._reported, strict=True)
            )
            number = self._writer.begin("held", {room: None}, str(handle.generation))
            self._writer.end(number, {} if error else {room: known}, error)


def _known(follower: Failures | AsyncFailures, room: int) -> int | None:
    failure = follower.get(room)
    return None if failure is None else failure.generation


class FollowingCaller(Recorder):
    """Opens, fails, aborts and clears rooms that are followed."""

    def __init__(self, store: Store, writer: HistoryWriter, seed: str, start: float, holdings: Holdings) -> None:
        super().__init__(writer, seed, start)
        self._store = store
        self._holdings = holdings
        self._choices: list[Callable[[], Any]] = [self._claim] * 8 + [self._doom] * 3 + [self._stop] * 2
        self._choices += [self._free] * 4

    async def call(self) -> None:
        """Make one random call."""
        await self._chance.choice(self._choices)()

    def _room(self) -> int:
        return FIRST + self._chance.randrange(ROOMS)

    async def _claim(self) -> None:
        room, held = self._room(), self._holdings
        request = f"request {room} {self._chance.randrange(REQUESTS)}"
        held.opening.add(room)  # before: a failure may come before the answer
        call = lambda: self._store.open(room, request, KVPoll.Bootstrapping)  # noqa: E731
        answers = lambda rooms, handle: {rooms[0]: True}  # noqa: E731
        learned = lambda handle: str(handle.generation)  # noqa: E731
        handle = await self._record("claim", {room: None}, call, answers, request=request, learned=learned)
        if handle is not None:
            held.handles[room] = handle
        held.opening.discard(room)

    async def _doom(self) -> None:
        if handle := self._handle():
            await self._through(handle, "doom", lambda: handle.fail("by chance"))

    async def _free(self) -> None:
        if handle := self._handle():
            await self._through(handle, "free", lambda: handle.clear())
            self._holdings.handles.pop(handle.id, None)

    async def _stop(self) -> None:
        """As an operator does, of whatever generation."""
        room = self._room()
        await self._record("stop", {room: None}, lambda: self._store.abort(room, "by an operator"), _single)

    def _handle(self) -> Handle | None:
        handles = list(self._holdings.handles.values())
        return self._chance.choice(handles) if handles else None

    async def _through(self, handle: Handle, name: str, call: Callable[[], Any]) -> None:
        await self._record(name, {handle.id: None}, call, _single, generation=str(handle.generation))


def _single(rooms: list[int], answer: Any) -> dict[int, Any]:
    return {rooms[0]: answer}
