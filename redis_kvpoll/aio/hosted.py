"""What a store does for an agent, which speaks for another process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Self

from redis_kvpoll.aio.lease import AsyncLease
from redis_kvpoll.aio.room import AsyncRoom
from redis_kvpoll.aio.store import AsyncStatusStore
from redis_kvpoll.engine.effects import Flow
from redis_kvpoll.engine.executor import Executor
from redis_kvpoll.engine.leases import reaper
from redis_kvpoll.engine.leases.lease_state import LeaseState
from redis_kvpoll.engine.recovery.lease_holder import never
from redis_kvpoll.protocol import fenced_commands, keys
from redis_kvpoll.protocol.lease_commands import LeaseConfig


class HostedLease(AsyncLease):
    """The lease of another process: it is not renewed while that stands still, and may pass to another store."""

    def __init__(self, store: AsyncStatusStore, config: LeaseConfig, stands_still: Callable[[], bool] = never) -> None:
        super().__init__(store._dispatcher, config)
        self._keeper.stands_still = stands_still
        store._leases.add(self)

    @property
    def state(self) -> LeaseState:
        """What another store needs to resume it."""
        return self._keeper.state

    @property
    def trouble(self) -> str:
        """Why the latest heartbeat failed; empty once one has succeeded."""
        return self._keeper.trouble

    async def resume(self, state: LeaseState) -> Self:
        """Hold it as another store has held it, in place of entering it. LeaseLostError if it is lost."""
        return await self._hold(self._keeper.resume(state))

    async def abandon(self, *, as_lost: bool) -> None:
        """Renew it no more. ``as_lost``: its process is dead, so its rooms fail at once; else it expires."""
        async with self._ending():
            if as_lost:
                await self._dispatcher.run(self._keeper.end_as_lost())


def resume_room(handle: AsyncRoom) -> None:
    """Restore an attached room after a loss of data, as another store did that its process has opened it through."""
    executor = handle._require_dispatcher("attach").executor
    if (context := executor.session.context) is not None:
        tag = keys.tag(context.namespace, context.shards, handle.id)
        executor.recovery.tracked_rooms.own(tag, handle.id, handle.generation)


async def record_failure(handle: AsyncRoom, reason: str) -> bool:
    """Record why a room fails; False if it has another reason, or this generation is gone."""
    return await handle._run(fenced_commands.record_failure(handle.id, handle.generation, reason))


async def owner_names(store: AsyncStatusStore) -> list[str]:
    """Return the names of the owners in a store's table, those lost in the last hour included."""
    return await store._dispatcher.run(reaper.owner_names(store._executor))


async def has_lost(store: AsyncStatusStore, epochs: Mapping[str, str], room: int, generation: int) -> bool:
    """Whether the table has lost an absent generation that it had, with others of a shard, in one of these epochs."""
    return await store._dispatcher.run(_has_lost(store._executor, epochs, room, generation))


def _has_lost(executor: Executor, epochs: Mapping[str, str], room: int, generation: int) -> Flow[bool]:
    context = yield from executor.context("entry")
    tag = keys.tag(context.namespace, context.shards, room)
    known = epochs.get(tag, "")
    epoch, last = yield from executor.send_command("entry", tag, ["HMGET", keys.epoch(tag), "epoch", "generation"])
    if not known or (epoch or b"").decode() != known:
        return bool(known)
    return last is not None and last.isdigit() and int(last) < generation  # as of a replica that was behind
