"""A process of SGLang when Redis is unreachable, has lost its data, or has expired its lease; with a real server."""

from __future__ import annotations

import asyncio
import logging
import os
import signal

import pytest

from redis_kvpoll import KVPoll
from redis_kvpoll.agent.client import client
from redis_kvpoll.agent.session import rounds
from redis_kvpoll.aio.lease import AsyncLease
from tests.support import real
from tests.support.own_threads import own_threads
from tests.support.standin import OWNER, joined, manager, serve, serve_rooms, session_of, table, until_equal

FAIL, BOOT, WAIT, MOVE, OK = range(5)
ROOMS = range(1000, 1200)


@pytest.fixture
def world():
    with real.World("sync") as world:
        yield world


@pytest.fixture
def server(world, monkeypatch):
    return serve(world, monkeypatch, deadline=3.0)


@pytest.mark.parametrize("world_size", [1, 2])
def test_table_after_outage_and_data_loss_is_complete(world, server, caplog, world_size):
    caplog.set_level(logging.INFO, "redis_kvpoll")
    ranks = [manager(attn_tp_size=world_size, attn_tp_rank=rank) for rank in range(world_size)]
    with joined(*ranks):
        for sglang in ranks:
            serve_rooms(sglang, ROOMS[:100])
        with table(server) as store:
            until_equal(store, ranks[0])
        os.kill(server.pid, signal.SIGKILL)
        for sglang in ranks:
            serve_rooms(sglang, ROOMS[100:])
            for room in ROOMS[:50]:
                sglang.request_status.pop(room, None)
        assert dict(ranks[0].request_status) == {room: MOVE for room in ROOMS[50:] if room % 3 == 0}
        real.until(lambda: caplog.text.count("Redis is unreachable") >= world_size, "the outage is logged")
        real.until(lambda: caplog.text.count("has no contact with Redis: ") >= world_size, "so is its cause")
        server = world.restart(server)
        with table(server) as store:
            until_equal(store, ranks[0])
            for sglang in ranks:
                for room in list(sglang.request_status):
                    sglang.request_status[room] = OK
                    sglang.request_status.pop(room)
            until_equal(store, ranks[0])
        real.until(lambda: caplog.text.count("is reachable again") >= world_size, "its end is logged")
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    away = sum("Redis is unreachable" in text for text in warnings)
    lost = sum("lost data (noticed by another epoch)" in text for text in warnings)
    causes = sum("has no contact with Redis: " in text for text in warnings)
    assert (away >= world_size, lost) == (True, world_size), warnings  # a pause of the machine is an outage, too
    assert len(warnings) == away + lost + causes, warnings


@pytest.mark.parametrize("world_size", [1, 2])
def test_server_that_takes_no_writes_is_an_outage(server, caplog, world_size):
    """Its reads go on, and so do the followers. It is an outage also for a process that has nothing to publish."""
    caplog.set_level(logging.INFO, "redis_kvpoll")
    ranks = [manager(attn_tp_size=world_size, attn_tp_rank=rank) for rank in range(world_size)]
    with joined(*ranks), server.client() as client:
        with real.three_tries():
            client.config_set("min-replicas-to-write", 1)
            for sglang in ranks:
                session = session_of(sglang)
                real.until(lambda session=session: "NOREPLICAS" in session.table.trouble, "the reason is known")
            real.until(lambda: caplog.text.count("Redis is unreachable; ") >= world_size, "the outage is logged")
        assert not any(sglang.kvpoll_worker.client.state.is_reachable for sglang in ranks)
        client.config_set("min-replicas-to-write", 0)
        real.until(lambda: caplog.text.count("is reachable again") >= world_size, "its end is logged")
        real.until(lambda: not any(session_of(sglang).table.trouble for sglang in ranks), "nothing is wrong")


def test_reason_of_an_outage_is_known(world, server):
    sglang = manager()
    with joined(sglang):
        os.kill(server.pid, signal.SIGKILL)
        session = session_of(sglang)
        real.until(lambda: "check that the server is up" in session.table.trouble, "the reason is known, with a remedy")
        world.restart(server)
        real.until(lambda: not session.table.trouble, "nothing is wrong")


def test_lost_lease_fails_rooms_and_is_replaced(server, caplog):
    sglang = manager()
    with joined(sglang), table(server) as thief:
        sglang.request_status[1] = BOOT
        real.until(lambda: thief.get(1), "it is published")
        with thief.lease(OWNER):  # as a second process of the same name would
            real.until(lambda: sglang.request_status[1] == FAIL, "its rooms have failed")
            assert "lost" in sglang.failure_records[1]
            sglang.request_status[2] = BOOT
        real.until(lambda: thief.entry(2) and thief.entry(2).owner == OWNER, "it continues under a new lease")
        real.until(lambda: "continuing under a new lease" in caplog.text, "that is logged")
    assert "take a new" not in caplog.text  # the advice of a lost lease: here the plugin has followed it


def test_room_opened_between_leases_has_an_owner(server, monkeypatch):
    """A room opened without a lease would have no owner, and would not fail when the process is killed."""
    sglang, entered = manager(), []
    enter = AsyncLease.__aenter__

    async def entering(lease):
        entered.append(lease)
        if len(entered) == 2:
            sglang.request_status[2] = BOOT
            for _ in range(20):  # time in which it must not be published
                await asyncio.sleep(rounds.ROUND_SECONDS)
        return await enter(lease)

    monkeypatch.setattr(AsyncLease, "__aenter__", entering)
    with joined(sglang), table(server) as thief:
        with thief.lease(OWNER):
            real.until(lambda: len(entered) == 2, "it takes a new lease")
        entry = real.until(lambda: thief.entry(2), "it is published")
        assert entry.owner == OWNER


def test_close_publishes_what_is_pending(server):
    sglang = manager()
    with joined(sglang):
        sglang.request_status[1] = BOOT
        sglang.request_status[1] = FAIL
    with table(server) as store:
        assert store.get(1) is KVPoll.Failed
        assert store.owners() == []


def test_close_during_outage_ends_in_time(world, server, monkeypatch):
    monkeypatch.setattr(client, "CLOSE_SECONDS", 3.0)
    sglang = manager()
    with joined(sglang):
        os.kill(server.pid, signal.SIGKILL)
        sglang.request_status[1] = BOOT
    assert not own_threads("kvpoll-table")
    sglang.request_status[1] = OK  # SGLang runs on until it ends
    assert sglang.request_status[1] == OK
    world.restart(server)
