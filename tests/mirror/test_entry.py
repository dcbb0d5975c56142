"""Entries that fail leave nothing behind: without a server, or at the same time as another."""

from __future__ import annotations

import asyncio
import contextlib
import threading

import pytest

from redis_kvpoll import AsyncStatusStore, KVPoll, KVPollError, StatusStore, StoreClosedError, StoreUnavailableError
from redis_kvpoll.replica import health
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


OF_A_FUNCTION = pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, asyncio.CancelledError])
"""What ends a thread that lets it through, without a word."""


@OF_A_FUNCTION
def test_mirror_goes_on_after_what_a_callback_has_raised(server, peer, error):
    raised, told = [], []

    def fail(room, status):
        raised.append(room)
        raise error

    with StatusStore(server.store_client()) as store, store.mirror() as mirror:
        mirror.on_change(fail)
        mirror.on_change(lambda room, status: told.append(room))
        for room in (1, 2):
            peer.update_status(room, KVPoll.Bootstrapping)
        real.until(lambda: told == [1, 2], "both are told")
        assert raised == [1, 2]
        assert mirror.wait(2, KVPoll.Bootstrapping, timeout=30) is KVPoll.Bootstrapping


@OF_A_FUNCTION
def test_mirror_goes_on_after_what_its_rooms_have_raised(server, peer, error, monkeypatch, caplog):
    monkeypatch.setattr(health, "REJECTED_RETRY", 0.01)
    errors = []

    def rooms(room):
        if errors:
            raise errors.pop()
        return True

    with StatusStore(server.store_client()) as store, store.mirror(rooms=rooms) as mirror:
        errors.append(error)
        peer.update_status(1, KVPoll.Bootstrapping)
        real.until(lambda: mirror.get(1), "it was read by another session")
    assert "a follower's session failed unexpectedly" in caplog.text


@OF_A_FUNCTION
@pytest.mark.parametrize("what", ["mirror", "failures"])
def test_entry_is_told_what_the_rooms_have_raised(server, peer, what, error):
    def fail(*_):
        raise error

    def enter():
        opened = store.mirror(rooms=fail) if what == "mirror" else store.failures(fail)
        with pytest.raises(KVPollError, match=f"^{what}: .*{error.__name__}"):
            opened.__enter__()
        ended.append(True)

    ended = []
    peer.update_status(1, KVPoll.Bootstrapping)
    with StatusStore(server.store_client()) as store:
        threading.Thread(target=enter, daemon=True).start()  # else a follower that is dead would stop the tests
        real.until(lambda: ended, "it was raised")
