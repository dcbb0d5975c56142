"""A store that is dropped without ``close`` is collected with its open mirrors, and their followers end."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest

from redis_kvpoll import AsyncStatusStore, KVPoll, StatusStore
from tests.support import pace, real
from tests.support.mirrors import threads_that_follow

BOOT, MOVE = KVPoll.Bootstrapping, KVPoll.Transferring
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")


@pytest.fixture
def server():
    with real.World("sync") as world:
        yield world.shared()


def gone(refs):
    gc.collect()
    return not any(ref() for ref in refs)


@pytest.mark.parametrize("kept", ["nothing", "a callback"])
def test_dropped_store_with_open_mirror_is_collected(server, kept):
    with server.client() as client:
        before = real.connections(client)
        store = StatusStore.from_url(server.tcp)
        store.update_status(1, BOOT)
        mirror = store.mirror().__enter__()
        if kept == "a callback":
            mirror.on_change(lambda room, status, store=store: store.get(room))
        assert store.wait(1, BOOT) is mirror.get(1) is BOOT
        assert threads_that_follow()
        refs = [weakref.ref(store), weakref.ref(mirror)]
        del store, mirror
        real.until(lambda: gone(refs), "collected")
        real.until(lambda: not threads_that_follow(), "no thread is left")
        real.until(lambda: gone(refs) and not real.connections(client) - before, "no connection is left")


def test_dropped_mirror_lives_as_long_as_its_store(server):
    """Its callbacks go on."""
    with StatusStore.from_url(server.tcp) as store:
        changes = []
        store.mirror().__enter__().on_change(lambda room, status: changes.append(status))
        gc.collect()
        store.update_status(1, BOOT)
        real.until(lambda: changes == [BOOT], "it is told")


def test_mirror_outlives_its_dropped_store(server):
    mirror = StatusStore.from_url(server.tcp).mirror().__enter__()
    gc.collect()
    with StatusStore.from_url(server.tcp) as peer:
        peer.update_status(1, MOVE)
        real.until(lambda: mirror.get(1) is MOVE, "it follows")
    mirror.close()
    assert not threads_that_follow()


def test_dropped_asyncio_store_is_collected(server):
    def tasks():
        return [task for task in asyncio.all_tasks() if task.get_name().startswith("kvpoll-follow")]

    async def use():
        store = AsyncStatusStore.from_url(server.tcp)
        await store.update_status(1, BOOT)
        mirror = await store.mirror().__aenter__()
        assert await store.wait(1, BOOT) is mirror.get(1) is BOOT
        assert tasks()
        return [weakref.ref(store), weakref.ref(mirror)]

    async def run():
        with server.client() as client:
            before = real.connections(client)
            refs = await use()
            async with asyncio.timeout(pace.patience(20)):
                while not gone(refs) or tasks() or real.connections(client) - before:  # noqa: ASYNC110 - no event
                    await asyncio.sleep(0.05)

    asyncio.run(run())
