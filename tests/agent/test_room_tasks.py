"""How many of a client's rooms are published at once: after an outage, thousands wait."""

from __future__ import annotations

import asyncio

import pytest

from redis_kvpoll.agent.session import room_tasks
from redis_kvpoll.agent.session.room_tasks import RoomTasks
from redis_kvpoll.aio.rank_group import AsyncRankGroup
from tests.support import calls, instance

MANY = 20


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(room_tasks, "MAX_AT_ONCE", 2)


class Server:
    """Publishes a room once it is let."""

    def __init__(self):
        self.asked = []
        self.answers = {}

    async def publish(self, room):
        self.asked.append(room)
        await self.answers.setdefault(room, asyncio.Event()).wait()


async def turns():
    for _ in range(5):
        await asyncio.sleep(0)


async def started(count):
    """Return a server, and the tasks of so many rooms, which have asked it as far as they may."""
    server = Server()
    tasks = RoomTasks(server.publish)
    for room in range(count):
        tasks.start(room)
    await turns()
    return server, tasks


async def test_so_many_run_at_once_in_the_order_in_which_they_came():
    server, tasks = await started(5)
    assert server.asked == [0, 1]
    assert all(room in tasks for room in range(5))
    server.answers[1].set()
    await turns()
    assert server.asked == [0, 1, 2]
    assert 1 not in tasks
    for _ in range(3):
        [event.set() for event in server.answers.values()]
        await turns()
    assert server.asked == [0, 1, 2, 3, 4]
    assert tasks.is_idle


async def test_one_that_pauses_lets_another_run_and_waits_for_a_place():
    server, events = Server(), []

    async def publish(room):
        if room == 0:
            await tasks.pause(0)
            events.append("goes on")
        await server.publish(room)

    tasks = RoomTasks(publish)
    for room in range(3):
        tasks.start(room)
    await turns()
    assert server.asked == [1, 2]
    assert not events
    server.answers[1].set()
    await calls.until(lambda: events, "its place")
    assert server.asked == [1, 2, 0]
    tasks.cancel()


async def test_none_begins_once_they_are_cancelled():
    server, tasks = await started(5)
    tasks.cancel()
    await turns()
    assert server.asked == [0, 1]
    assert tasks.is_idle


async def test_opened_rooms_reach_the_table_few_at_once(ranks, store, monkeypatch):
    """As after an outage: the heartbeats of the lease are never behind all of them."""
    running, most, opens = 0, 0, AsyncRankGroup.open

    async def counted(*arguments, **words):
        nonlocal running, most
        running += 1
        most = max(most, running)
        try:
            return await opens(*arguments, **words)
        finally:
            running -= 1

    monkeypatch.setattr(AsyncRankGroup, "open", counted)
    for room in range(MANY):
        ranks[0].change(room, is_new=True, status=instance.BOOT, request="rid")
    await instance.flushed(ranks[:1])
    assert most == 2
    assert [room for room in range(MANY) if await store.get(room) is None] == []
