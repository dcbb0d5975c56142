"""Two tasks that enter the same mirror or follower of failures at once: one of them is refused, nothing is left."""

from __future__ import annotations

import asyncio

import pytest

from redis_kvpoll import AsyncStatusStore, StoreClosedError


def following():
    return [task for task in asyncio.all_tasks() if task.get_name().startswith("kvpoll-follow")]


@pytest.mark.parametrize("what", ["mirror", "failures"])
async def test_second_entry_at_once_is_refused(server, what):
    async with AsyncStatusStore(server.async_client()) as store:
        opened = store.mirror() if what == "mirror" else store.failures(list)
        found = await asyncio.gather(opened.__aenter__(), opened.__aenter__(), return_exceptions=True)
        assert found.count(opened) == 1
        assert [type(one) for one in found if one is not opened] == [StoreClosedError]
        assert len(following()) == 1
        await opened.aclose()
        assert not following()
