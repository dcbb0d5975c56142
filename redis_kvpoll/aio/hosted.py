"""What a store does for an agent, which speaks for another process."""

from __future__ import annotations

from redis_kvpoll.aio.room import AsyncRoom
from redis_kvpoll.aio.store import AsyncStatusStore
from redis_kvpoll.engine import reaper
from redis_kvpoll.protocol import fenced_commands


async def record_failure(handle: AsyncRoom, reason: str) -> bool:
    """Record why a room fails; False if it has another reason, or this generation is gone."""
    return await handle._run(fenced_commands.record_failure(handle.id, handle.generation, reason))


async def owner_names(store: AsyncStatusStore) -> list[str]:
    """Return the names of the owners in a store's table, those lost in the last hour included."""
    return await store._dispatcher.run(reaper.owner_names(store._executor))
