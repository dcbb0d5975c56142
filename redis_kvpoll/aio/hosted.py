"""What a store does for an agent, which speaks for another process."""

from __future__ import annotations

from redis_kvpoll.aio.store import AsyncStatusStore
from redis_kvpoll.engine import reaper


async def owner_names(store: AsyncStatusStore) -> list[str]:
    """Return the names of the owners in a store's table, those lost in the last hour included."""
    return await store._dispatcher.run(reaper.owner_names(store._executor))
