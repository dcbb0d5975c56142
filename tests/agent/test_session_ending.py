"""The end of a process while Redis is out of reach: its agent tells the rest afterwards, then ends its lease."""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import replace

import pytest

from redis_kvpoll import AsyncStatusStore, KVPoll
from redis_kvpoll.agent import messages
from redis_kvpoll.agent.messages import ClientHello
from redis_kvpoll.agent.session.lease import LeaseEnd
from redis_kvpoll.agent.session.session_ending import SessionEnding
from redis_kvpoll.agent.session_state import SessionState
from tests.support import pace, real
from tests.support.table_clients import Process

OWNER = "h:1"
BOOT, MOVE, DONE = 1, 3, 4
LEASE = 60.0
"""Longer than any test."""
CLEARED, FINISHED, LIVE, NEW, BUSY = range(1, 6)
"""Rooms, by what becomes of them during the outage."""


@pytest.fixture
def server():
    with real.World("sync") as world:
        server = world.serve()
        yield server
        os.kill(server.pid, signal.SIGCONT)


@pytest.fixture(params=[{}, {"rank": 0, "world_size": 1}], ids=["alone", "rank"])
def hello(server, request):
    options = {"namespace": "t", "policy": "strict", "deadline": pace.seconds(0.5), **request.param}
    return ClientHello(server.tcp, options, OWNER, OWNER, "h", LEASE, 60.0)


@pytest.fixture
async def process(sessions, hello):
    """A process with rooms that the table has, and its lease as it was told."""
    process = Process(sessions, hello)
    process.lease = messages.decode_words(await process.until(messages.LEASE))
    for room in (CLEARED, FINISHED, LIVE):
        process.change(room, is_new=True, status=BOOT, request="rid")
        _, _, process.generation = await process.until_opened()
    return process


def finish_rooms(process):
    process.change(CLEARED, status=DONE, is_over=True)
    process.change(FINISHED, status=DONE)
    process.change(NEW, is_new=True, status=DONE, request="rid")


async def until(condition):
    async with asyncio.timeout(pace.patience(60)):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def has(hello, server):
    """What the table has, of each room; and why the one that was live has failed."""
    async with AsyncStatusStore.from_url(server.tcp, **hello.options | {"deadline": 60.0}) as store:
        rooms = (CLEARED, FINISHED, LIVE, NEW)
        return dict(zip(rooms, await store.poll(rooms), strict=True)), await store.failure_reason(LIVE)


def told(word):
    rooms = {CLEARED: None, FINISHED: KVPoll.Success, LIVE: KVPoll.Failed, NEW: KVPoll.Success}
    return rooms, f"owner {OWNER} {word}"


def test_lease_is_renewed_for_one_who_has_left():
    """Nobody hears it any more, but its agent speaks for it: its rooms must not fail as those of a lost owner."""
    end = SessionEnding(lambda: 1000.0, had_session=False)
    assert end.stands_still()
    end.tell(LeaseEnd.LOST, may_be_dead=False)
    assert not end.stands_still()
    end.is_given_up.set()
    assert end.stands_still()


@pytest.mark.parametrize(("how", "word"), [("goodbye", "left"), ("killed", "lost")])
async def test_rest_is_told_after_the_outage(process, sessions, hello, server, how, word):
    """The server keeps its data, and answers nothing. The process need not wait for it."""
    os.kill(server.pid, signal.SIGSTOP)
    finish_rooms(process)
    process.silence = 1000.0
    process.session.ended(how)
    await process.until(messages.LEFT)
    await asyncio.sleep(pace.seconds(1.0))  # longer than a call lasts
    assert not sessions.is_told()
    os.kill(server.pid, signal.SIGCONT)
    await until(sessions.is_told)
    assert await has(hello, server) == told(word)


async def test_agent_that_ends_waits_for_no_server(process, sessions, server):
    os.kill(server.pid, signal.SIGSTOP)
    finish_rooms(process)
    process.session.ended("killed")
    await process.until(messages.LEFT)
    await sessions.close()
    assert sessions.is_told()


async def test_next_process_of_the_name_waits_for_the_former(process, sessions, hello, server):
    """However many of them are refused meanwhile: each would take the former's lease."""
    os.kill(server.pid, signal.SIGSTOP)
    finish_rooms(process)
    process.session.ended("killed")
    refused = Process(sessions, replace(hello, join=0.1))
    await refused.until(messages.REFUSED)
    await refused.until(messages.LEFT)
    following = Process(sessions, hello)
    os.kill(server.pid, signal.SIGCONT)
    await following.until(messages.JOINED)
    assert await has(hello, server) == told("lost")


async def test_process_that_ends_before_it_joins_again_is_told(process, sessions, hello, server):
    """What it has in the table is from a former agent, which Redis was out of reach for, too."""
    os.kill(server.pid, signal.SIGSTOP)
    process.session.ended("superseded")
    await process.until(messages.LEFT)
    again = Process(sessions, replace(hello, former=process.lease))
    again.change(LIVE, is_new=True, status=DONE, generation=process.generation)
    again.session.ended("killed")
    await asyncio.sleep(pace.seconds(1.5))  # longer than a try
    assert not sessions.is_told()
    os.kill(server.pid, signal.SIGCONT)
    await until(sessions.is_told)
    assert (await has(hello, server))[0][LIVE] is KVPoll.Success


async def test_process_that_had_joined_is_not_refused_by_a_bug(process, sessions, hello, caplog):
    """As an agent of another version may have one: its changes would go to a session that has ended."""
    process.session.ended("superseded")
    await process.until(messages.LEFT)
    options = hello.options | {"of_a_later_version": True}
    again = Process(sessions, replace(hello, former=process.lease, options=options))
    assert not SessionState(*messages.decode_words(await again.until(messages.STATE))).is_reachable
    await asyncio.sleep(pace.seconds(1.5))  # longer than a try
    assert messages.REFUSED not in again.kinds
    (line,) = [line for line in caplog.records if "cannot join again" in line.message]
    assert "of_a_later_version" in line.message
    assert line.exc_info is not None
    again.session.ended("killed")


async def test_room_that_others_hold_delays_no_end(process, sessions, hello, server):
    """The server answers: that it does not take the room is no reason to wait."""
    options = hello.options | {"deadline": 60.0}
    async with AsyncStatusStore.from_url(server.tcp, **options) as other:
        await other.open(BUSY, "another's")
        process.change(BUSY, is_new=True, status=DONE, request="rid")
        process.session.ended("killed")
        await until(sessions.is_told)
        assert await other.get(BUSY) is KVPoll.Bootstrapping
        assert await other.get(LIVE) is KVPoll.Failed


async def test_reason_that_nobody_waits_for_delays_no_end(process, sessions, hello, server):
    process.session.received(messages.WANT_REASON, messages.encode_life(CLEARED, 1, True))
    process.change(CLEARED, status=MOVE, is_over=True)
    process.session.ended("goodbye")
    process.session.received(messages.WANT_REASON, messages.encode_life(CLEARED, 1, True))
    await until(sessions.is_told)
    assert (await has(hello, server))[0][CLEARED] is None
