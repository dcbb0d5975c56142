"""One store that speaks for several ranks, each with a lease of its own: for a process beside those of an engine.

Invariant: the heartbeats of all its leases that are due at about the same time are one call.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Self

from redis_kvpoll import validation
from redis_kvpoll._fork import forkable
from redis_kvpoll._process import this_process
from redis_kvpoll.aio.callers import LastingTask, result_of
from redis_kvpoll.aio.lease import CHECK_SECONDS, send_heartbeat
from redis_kvpoll.aio.store import AsyncStatusStore
from redis_kvpoll.engine.leases.lease import LeaseKeeper
from redis_kvpoll.engine.leases.lease_state import LeaseState
from redis_kvpoll.engine.rank_group import RankGroup
from redis_kvpoll.engine.recovery.lease_holder import never
from redis_kvpoll.engine.recovery.members import RankMember
from redis_kvpoll.model import Entry, KVPoll
from redis_kvpoll.protocol.lease_commands import LeaseConfig
from redis_kvpoll.protocol.rank_commands import Answer, RankChange, RankIdentity
from redis_kvpoll.protocol.replies import OpenedRoom


class RankLease:
    """The lease of one rank of a group, for who holds it."""

    def __init__(self, group: AsyncRankGroup, identity: RankIdentity, keeper: LeaseKeeper) -> None:
        self.identity = identity
        self._group = group
        self._keeper = keeper

    @property
    def lost(self) -> bool:
        """Whether it is known to be lost."""
        return self._keeper.lost

    @property
    def state(self) -> LeaseState:
        """What another group needs to resume it."""
        return self._keeper.state

    @property
    def trouble(self) -> str:
        """Why the latest heartbeat failed; empty once one has succeeded."""
        return self._keeper.trouble

    async def aclose(self) -> None:
        """Release it, and fail the live rooms in which its rank has a part. May be repeated."""
        await self._group.leave(self.identity)

    async def abandon(self, *, as_lost: bool) -> None:
        """Stop renewing it. ``as_lost``: its holder is dead, so its rooms fail at once; else it expires."""
        self._group.forget(self.identity)
        try:
            if as_lost:
                await self._group.end_as_lost(self._keeper)
        finally:
            self._keeper.stop_renewing()


class AsyncRankGroup:
    """The ranks that a store speaks for. Internal.

    Each is tracked, and recovered after a loss of data, as a store of its rank under its lease would be. What several
    ranks say of a room costs the server little more than what one says, if it is in one call of ``write``.
    ``on_lost`` is called with the identity of a rank whose lease was lost.
    """

    def __init__(self, store: AsyncStatusStore, on_lost: Callable[[RankIdentity], None] = lambda _: None) -> None:
        self._dispatcher = store._dispatcher
        self._group = RankGroup(self._dispatcher.executor)
        self._on_lost = on_lost
        self._keepers: dict[RankIdentity, LeaseKeeper] = {}
        self._opening: dict[tuple[int, str], asyncio.Future[None]] = {}
        self._together: tuple[list[RankChange], asyncio.Task[list[Answer]]] | None = None
        """The changes of this turn, and the call that will have them."""
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        forkable.add(self)

    # The ranks

    async def join(
        self, rank: int, world_size: int, name: str = "", ttl: float = 5.0, heartbeat: float | None = None
    ) -> RankIdentity:
        """Add a rank, under a lease of its own if it has a ``name``. Returns its identity.

        Raises:
            InvalidInputError: an invalid rank or name.
            LeaseLostError: other processes take the same name at the same time.
        """
        member = self._group.member(rank, world_size)
        if not name:
            member.join()
            return member.identity
        return (await self._hold(member, LeaseConfig.checked(name, ttl, heartbeat), None, never)).identity

    async def hold(
        self,
        ranks: tuple[int, int],
        config: LeaseConfig,
        former: LeaseState | None = None,
        stands_still: Callable[[], bool] = never,
    ) -> RankLease:
        """Add a rank, given with its world size, for another process. Returns its lease, for which that process counts.

        The lease is not renewed while the process stands still. ``former`` is one to resume, instead of taking it: then
        LeaseLostError says that it is lost.
        """
        return await self._hold(self._group.member(*ranks), config, former, stands_still)

    async def _hold(
        self, member: RankMember, config: LeaseConfig, former: LeaseState | None, stands_still: Callable[[], bool]
    ) -> RankLease:
        config = replace(config, process=config.process or this_process())
        keeper = LeaseKeeper(self._dispatcher.executor, config, member)
        keeper.stands_still = stands_still
        try:
            await self._dispatcher.run(keeper.take() if former is None else keeper.resume(former))
        except BaseException:
            keeper.stop_renewing()
            raise
        self._keepers[member.identity] = keeper
        self._changed.set()
        if self._task is None:
            self._start()
        return RankLease(self, member.identity, keeper)

    async def leave(self, identity: RankIdentity, *, is_lost: bool = False) -> None:
        """Take a rank out, and fail the live rooms in which it has a part: as of an owner that has left, or is lost.

        While the server is away, its lease expires by itself; with ``is_lost``, a StoreUnavailableError says so.
        """
        keeper = self.forget(identity)
        if keeper is not None:
            await self._dispatcher.run(keeper.end_as_lost() if is_lost else keeper.release())
        elif member := self._group.members.get(identity):
            member.leave()

    def forget(self, identity: RankIdentity) -> LeaseKeeper | None:
        """Renew a rank's lease no more."""
        return self._keepers.pop(identity, None)

    async def end_as_lost(self, keeper: LeaseKeeper) -> None:
        """End the lease of a rank that was taken out."""
        await self._dispatcher.run(keeper.end_as_lost())

    def is_lost(self, identity: RankIdentity) -> bool:
        """Whether a rank is no member any more, or its lease is known to be lost."""
        member = self._group.members.get(identity)
        return member is None or (member.lease is not None and member.lease.lost)

    # Rooms

    async def open(self, room: int, request: str, status: KVPoll | int, identity: RankIdentity) -> OpenedRoom:
        """Open a room for a rank, as ``AsyncStatusStore.open``.

        The first rank opens it. Those that come meanwhile, or later in one turn of the event loop, join it in one step.
        """
        room, request, first_status = validation.room(room), validation.request(request), validation.status(status)
        validation.opening_status(status)
        self._group.check("open", identity)
        if (first := self._opening.get((room, request))) is not None:
            await asyncio.wait([first])
        if (known := self._group.opened_by_another(room, request, identity)) is not None:
            change = RankChange(room, identity, known.generation, first_status)
            [answer] = await self.write_together([change])
            if (joined := self._group.joined(change, known, answer)) is not None:
                return joined
        opening = asyncio.get_running_loop().create_future()
        if self._opening.setdefault((room, request), opening) is not opening:
            return await self._dispatcher.run(self._group.open(room, request, first_status, identity))
        try:
            return await self._dispatcher.run(self._group.open(room, request, first_status, identity))
        finally:
            del self._opening[room, request]
            opening.set_result(None)

    def adopt(self, entry: Entry, identity: RankIdentity) -> None:
        """Track a room that the rank has opened in another group, as the table has it."""
        self._group.adopt(entry, identity)

    async def record_failure(self, room: int, generation: int, reason: str, identity: RankIdentity) -> bool:
        """Record why a generation of a room fails, as a store of the rank's does."""
        return await self._dispatcher.run(self._group.record_failure(room, generation, reason, identity))

    async def write(self, changes: Sequence[RankChange]) -> list[Answer]:
        """Apply what ranks say, of each room in this order. Returns an update for each, or the error of its refusal.

        What they say of one room is one step on the server, as far as it has one generation and one reason, and no rank
        speaks twice.
        """
        return await self._dispatcher.run(self._group.write(changes))

    async def write_together(self, changes: Sequence[RankChange]) -> list[Answer]:
        """Apply changes as ``write``, in one call with the others of this turn of the event loop."""
        if self._together is None or self._together[1].done():  # it was cancelled before it began
            collected: list[RankChange] = []
            self._together = collected, asyncio.create_task(self._write_at_end_of_turn(collected))
        collected, writing = self._together
        first = len(collected)
        collected += changes
        return (await result_of(writing))[first : first + len(changes)]

    async def _write_at_end_of_turn(self, changes: list[RankChange]) -> list[Answer]:
        await asyncio.sleep(0)
        self._together = None
        return await self.write(changes)

    # The leases

    def _start(self) -> None:
        """Start the task that renews the leases."""
        self._task = LastingTask(self._keep(), "kvpoll-rank-leases", self._restart)

    def _restart(self) -> None:
        if self._task is not None and self._task.done():
            self._start()

    async def _keep(self) -> None:
        while True:
            self._changed.clear()
            due_in = min(map(_due_in, self._keepers.values()), default=None)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(due_in):
                    await self._changed.wait()
                    continue
            due = [
                (identity, keeper)
                for identity, keeper in self._keepers.items()
                if keeper.may_send_heartbeat and not keeper.stands_still()
            ]
            await asyncio.gather(*(self._send_heartbeat(identity, keeper) for identity, keeper in due))

    async def _send_heartbeat(self, identity: RankIdentity, keeper: LeaseKeeper) -> None:
        await send_heartbeat(self._dispatcher, keeper)
        if keeper.lost and self._keepers.get(identity) is keeper:
            self.forget(identity)
            keeper.stop_renewing()
            self._on_lost(identity)

    async def aclose(self) -> None:
        """Take all ranks out. May be repeated."""
        task, self._task = self._task, None
        if task is not None and task.get_loop() is asyncio.get_running_loop():
            task.cancel()
            await asyncio.wait([task])
        for identity in list(self._group.members):
            await self.leave(identity)

    def after_fork(self) -> None:
        """In the child of a fork: leave the leases to the parent."""
        self._task = None
        for keeper in self._keepers.values():
            keeper.stop_renewing()
        self._keepers = {}
        self._group.members.clear()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


def _due_in(keeper: LeaseKeeper) -> float:
    """Return the seconds until a rank's lease must be looked at."""
    seconds = keeper.seconds_until_heartbeat()
    return max(seconds, CHECK_SECONDS) if keeper.stands_still() else seconds
