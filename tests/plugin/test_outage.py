"""A process of SGLang when Redis is away, has lost its data, or takes the process for dead; with a real server."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading

import pytest

from redis_kvpoll import KVPoll
from redis_kvpoll.aio.lease import AsyncLease
from redis_kvpoll.integrations.sglang import worker
from tests.support import real
from tests.support.standin import joined, manager, serve, table

FAIL, BOOT, WAIT, MOVE, OK = range(5)
ROOMS = range(1000, 1200)
OWNER = "prefill/10.0.0.1:8998"


@pytest.fixture
def world():
    with real.World("sync") as world:
        yield world


@pytest.fixture
def server(world, monkeypatch):
    return serve(world, monkeypatch, deadline=1.0)


def whole(store, one):
    """Wait until the table has just what SGLang has."""

    def look():
        rooms = list(store.rooms())
        return dict(zip(rooms, store.poll(rooms), strict=True)) == dict(one.request_status)

    real.until(look, "the table is as SGLang has it")


def lives(one, rooms):
    """A request's life in each room; every third is still under way afterwards."""
    for room in rooms:
        for status in (BOOT, WAIT, MOVE):
            one.request_status[room] = status
        if room % 3:
            one.request_status[room] = OK
            one.request_status.pop(room, None)


@pytest.mark.parametrize("world_size", [1, 2])
def test_serving_goes_on_and_then_the_table_is_whole_again(world, server, caplog, world_size):
    caplog.set_level(logging.INFO, "redis_kvpoll")
    ranks = [manager(attn_tp_size=world_size, attn_tp_rank=rank) for rank in range(world_size)]
    with joined(*ranks):
        for one in ranks:
            lives(one, ROOMS[:100])
        with table(server) as store:
            whole(store, ranks[0])
        os.kill(server.pid, signal.SIGKILL)
        for one in ranks:
            lives(one, ROOMS[100:])
            for room in ROOMS[:50]:
                one.request_status.pop(room, None)
        assert dict(ranks[0].request_status) == {room: MOVE for room in ROOMS[50:] if room % 3 == 0}
        real.until(lambda: caplog.text.count("Redis is away") == world_size, "the outage is noticed")
        server = world.restart(server)
        with table(server) as store:
            whole(store, ranks[0])
            for one in ranks:
                for room in list(one.request_status):
                    one.request_status[room] = OK
                    one.request_status.pop(room)
            whole(store, ranks[0])
        real.until(lambda: caplog.text.count("is back") == world_size, "that it is back is said")
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == world_size, warnings
    assert all("Redis is away" in text for text in warnings)


def test_who_was_taken_for_dead_fails_what_it_had_and_goes_on(server, caplog):
    one = manager()
    with joined(one), table(server) as thief:
        one.request_status[1] = BOOT
        real.until(lambda: thief.get(1), "it is told")
        with thief.lease(OWNER):  # as a second process would that has the same name
            real.until(lambda: one.request_status[1] == FAIL, "its rooms have failed")
            assert "lost" in one.failure_records[1] or "dead" in one.failure_records[1]
            one.request_status[2] = BOOT
        real.until(lambda: thief.entry(2) and thief.entry(2).owner == OWNER, "it goes on under a new lease")
        real.until(lambda: "taken for dead" in caplog.text, "that is said")
    assert "take a new lease" not in caplog.text  # what a lost lease advises otherwise: here the plugin has done it


def test_nothing_is_said_between_two_leases(server, monkeypatch):
    """What is opened under none has no owner: nobody would fail it when the process is killed."""
    one, entered = manager(), []
    enter = AsyncLease.__aenter__

    async def entering(lease):
        entered.append(lease)
        if len(entered) == 2:
            one.request_status[2] = BOOT
            for _ in range(20):  # time for it to be told, which it must not be
                await asyncio.sleep(worker.REST_SECONDS)
        return await enter(lease)

    monkeypatch.setattr(AsyncLease, "__aenter__", entering)
    with joined(one), table(server) as thief:
        with thief.lease(OWNER):
            real.until(lambda: len(entered) == 2, "it takes another lease")
        entry = real.until(lambda: thief.entry(2), "it is told")
        assert entry.owner == OWNER


def test_the_end_of_a_process_says_what_is_still_to_be_said(server):
    one = manager()
    with joined(one):
        one.request_status[1] = BOOT
        one.request_status[1] = FAIL
    with table(server) as store:
        assert store.get(1) is KVPoll.Failed
        assert store.owners() == []


def test_and_takes_no_longer_when_redis_is_away(world, server):
    one = manager()
    with joined(one):
        os.kill(server.pid, signal.SIGKILL)
        one.request_status[1] = BOOT
    assert f"kvpoll-{OWNER}" not in {thread.name for thread in threading.enumerate()}
    one.request_status[1] = OK  # SGLang goes on until it ends
    assert one.request_status[1] == OK
    world.restart(server)
