"""Entries that fail leave nothing behind: without a server, or at the same time as another."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from redis_kvpoll import AsyncStatusStore, KVPoll, KVPollError, StatusStore, StoreClosedError, StoreUnavailableError
from tests.support import pace, real
from tests.support.interrupts import failing_start
from tests.support.own_threads import own_threads

ENTERED = {
    "mirror": lambda store: store.mirror(),
    "failures": lambda store: store.failures(list),
    "statistics": lambda store: store.statistics(),
}


def following():
    return [task for task in asyncio.all_tasks() if task.get_name().startswith("kvpoll-follow")]


@pytest.mark.parametrize("what", ["mirror", "failures"])
def test_failed_entry_opens_nothing(side, what):
    """A call does not enter it later, once the server is there; another ``with`` does, or it is closed."""
    with real.World("sync") as world:
        port = real.free_port()
        store = side.open(f"redis://127.0.0.1:{port}", deadline=pace.seconds(1))
        opened = store.mirror() if what == "mirror" else store.failures(list)
        with pytest.raises(StoreUnavailableError):
            opened.__enter__()
        world.serve(port=port)
        real.until(lambda: is_up(store), "the server is up")
        with pytest.raises(StoreClosedError):
            opened.get(1)
        if what == "mirror":
            with opened as mirror:
                assert mirror.get(1) is KVPoll.Bootstrapping


def is_up(store):
    try:
        return store.update_status(1, KVPoll.Bootstrapping)
    except StoreUnavailableError:
        return False


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


@pytest.mark.parametrize("what", ENTERED)
def test_second_entry_is_refused_and_changes_nothing(side, what):
    opened = ENTERED[what](side.open("memory://"))

    def read():
        return opened.snapshot() if what == "statistics" else opened.get(1)

    with opened:
        with pytest.raises(StoreClosedError, match="entered already"):
            opened.__enter__()
        read()
    with pytest.raises(StoreClosedError, match="closed"):
        opened.__enter__()
    with pytest.raises(StoreClosedError, match="closed"):
        read()


@pytest.mark.parametrize("what", [*ENTERED, "wait"])
def test_process_without_threads_is_told_so(what):
    with StatusStore.from_url("memory://") as store:
        store.update_status(1, KVPoll.Bootstrapping)
        with (
            failing_start("kvpoll-follow", RuntimeError("can't start new thread")),
            pytest.raises(KVPollError, match=f"^{what}: this process can start no thread"),
        ):
            store.wait(1, timeout=30) if what == "wait" else ENTERED[what](store).__enter__()
        assert not own_threads("kvpoll-follow")
        assert store.wait(1, KVPoll.Bootstrapping) is KVPoll.Bootstrapping


def test_statistics_whose_entry_is_interrupted_end():
    with StatusStore.from_url("memory://") as store:
        statistics = store.statistics()
        with failing_start("kvpoll-follow", KeyboardInterrupt(), after=True), pytest.raises(KeyboardInterrupt):
            statistics.__enter__()
        real.until(lambda: not own_threads("kvpoll-follow"), "no thread is left")
        with pytest.raises(StoreClosedError):
            statistics.snapshot()


async def test_mirror_answers_once_it_is_entered(server):
    """Until then, it may lack rooms."""
    async with AsyncStatusStore(server.async_client()) as store:
        await store.update_status(1, KVPoll.Bootstrapping)
        opened, answers = store.mirror(), []
        entering = asyncio.ensure_future(opened.__aenter__())
        while not entering.done():
            with contextlib.suppress(StoreClosedError):
                answers.append(opened.get(1))
            await asyncio.sleep(0)
        assert await entering is opened
        assert answers == []
        assert opened.get(1) is KVPoll.Bootstrapping
        await opened.aclose()
