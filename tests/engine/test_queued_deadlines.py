"""Calls of asyncio that wait behind one without a reply: each fails at its own deadline, as one task sends for all."""

from __future__ import annotations

import asyncio
import re
import time

import pytest

from redis_kvpoll import AsyncStatusStore, StoreUnavailableError
from redis_kvpoll.engine.retry import describe_queued
from tests.support import pace, real
from tests.support.calls import gather, until
from tests.support.internals import executor_of, queue_of

DEADLINE, STEP = 600.0, 100.0
"""Seconds of a clock that the test sets forward."""


@pytest.fixture
def server():
    with real.World("sync") as world:
        yield world.shared()


@pytest.fixture
def let_pass(monkeypatch):
    """Lets time pass, for the event loop, too."""
    passed, now = [0.0], time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: now() + passed[0])

    def let_pass(seconds):
        passed[0] += seconds

    return let_pass


@pytest.fixture
async def store(proxy, let_pass):
    """Its deadline is far beyond what the test takes in real time."""
    async with AsyncStatusStore.from_url(f"{proxy.url}?socket_timeout={DEADLINE}", deadline=DEADLINE) as store:
        await store.get(1), await store.failure_reason(1)
        yield store


@pytest.mark.parametrize("fault", ["no reply", "no connection"])
async def test_each_call_fails_at_its_own_deadline(store, proxy, let_pass, fault):
    """Those of one kind become a batch, which has the deadline of the last; those of the other kind wait behind it."""
    sent = proxy.calls("poll")
    if fault == "no connection":
        proxy.refusing = True
        proxy.cut()
    else:
        proxy.stalled = True
    first = asyncio.create_task(store.get(1))
    await until(lambda: proxy.refusing or proxy.calls("poll") > sent, "it is sent")
    await asyncio.sleep(0)
    pairs = []
    for _ in range(5):
        let_pass(STEP)
        pairs.append([asyncio.create_task(call) for call in (store.get(2), store.failure_reason(3))])
        await asyncio.sleep(0)
    let_pass(1.5 * STEP)
    await asyncio.wait([first], timeout=pace.seconds(5))
    assert type(first.exception()) is StoreUnavailableError
    while pairs:
        assert not any(task.done() for pair in pairs for task in pair)
        let_pass(STEP)
        pair = pairs.pop(0)
        await asyncio.wait(pair, timeout=pace.seconds(5))
        assert [type(task.exception()) for task in pair if task.done()] == [StoreUnavailableError] * 2
        assert "was queued" in str(pair[1].exception()), "a caller learns that it was not sent"


async def test_timer_ends_with_the_queue(store):
    await gather(*(store.get(room) for room in range(3)), store.failure_reason(1))
    assert queue_of(store).expiry is None


async def test_call_behind_a_refused_one_is_told_why(let_pass, monkeypatch):
    """Else its error names no cause: it has met none itself."""
    monkeypatch.setattr("redis_kvpoll.engine.retry._BACKOFF.compute", lambda tries: 0.005)
    with real.World("sync") as world:
        server = world.serve()
        async with AsyncStatusStore.from_url(server.tcp, deadline=DEADLINE) as store:
            await store.update_status(1, 1)
            delays = executor_of(store).session.delays
            with server.client() as client:
                client.config_set("min-replicas-to-write", 1)
                first = asyncio.create_task(store.update_status(1, 3))
                await until(lambda: delays, "it is refused")
                second = asyncio.create_task(store.touch([1]))
                await asyncio.sleep(0)
                let_pass(0.9 * DEADLINE)
                delays.clear()
                await until(lambda: delays, "it is refused again")
                let_pass(0.2 * DEADLINE)
                await asyncio.wait([first, second], timeout=pace.seconds(5))
                client.config_set("min-replicas-to-write", 0)
            assert type(first.exception()) is StoreUnavailableError
            text = str(second.exception())
            assert re.search("not sent: it was queued all the time; last: NOREPLICAS.*: .*min-replicas-to-write", text)
            await store.update_status(1, 3)
            delays.clear()
            said = describe_queued(executor_of(store).session, "default")
            assert said == f"no answer within {DEADLINE:g} s (not sent: it was queued all the time)"
