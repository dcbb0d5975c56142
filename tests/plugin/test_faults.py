"""What must not grow, stall or raise in SGLang's process while the table cannot be told; with a stand-in manager."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from redis_kvpoll import KVPoll
from redis_kvpoll.aio.lease import AsyncLease
from redis_kvpoll.integrations.sglang import outbox, worker
from tests.support import pace, real
from tests.support.standin import joined, manager, serve, table

FAIL, BOOT, WAIT, MOVE, OK = range(5)
ROOM = 4711


@pytest.fixture
def world():
    with real.World("sync") as world:
        yield world


@pytest.fixture
def server(world, monkeypatch):
    return serve(world, monkeypatch, deadline=0.5)


def life(one, room):
    for status in (BOOT, WAIT, MOVE, OK):
        one.request_status[room] = status
    one.request_status.pop(room, None)


def test_what_comes_and_goes_in_an_outage_is_bounded_though_the_link_has_looked_at_it(world, server, monkeypatch):
    monkeypatch.setattr(outbox, "LIMIT", 20)
    one = manager()
    with joined(one):
        its = one.kvpoll_link
        os.kill(server.pid, signal.SIGKILL)
        one.request_status[ROOM] = BOOT
        real.until(lambda: not its._publisher.is_up.is_set(), "the outage is noticed")
        for room in range(200):
            one.request_status[room] = BOOT
            real.until(lambda: not its.registry._outbox._news, "the link has looked at it")
            life(one, room)
        real.until(lambda: its._publisher.is_idle, "the link only waits")
        assert len(its.registry) <= 21
        assert its.registry.dropped >= 180
        server = world.restart(server)
        with table(server) as store:
            real.until(lambda: store.get(ROOM), "what lives is told")


@pytest.mark.parametrize("ends", ["by a fault", "by close"])
def test_without_its_thread_the_maps_go_on_and_wait_for_nothing(server, monkeypatch, caplog, ends):
    ranks = [manager(attn_tp_size=2, attn_tp_rank=rank) for rank in range(2)]
    with joined(*ranks):
        one, its = ranks[0], ranks[0].kvpoll_link
        one.request_status[ROOM] = BOOT
        real.until(lambda: its.registry.reason_seconds and its.is_idle, "it is told")
        if ends == "by close":
            its.close()
            its.close()
        else:
            monkeypatch.setattr(its._metrics_of_link, "show", lambda *_: monkeypatch.undo() or 1 / 0)
        real.until(lambda: not its._thread.is_alive(), "the thread has ended")
        assert its.statuses_of(ROOM) == {}
        for room in (ROOM, ROOM + 1):
            life(one, room)
            one.failure_records[room] = "no route"
        assert one.failure_records.pop(ROOM, None) == "no route"
        with pace.Stopwatch() as took:
            assert one.failure_records.pop(ROOM, None) is None
        assert took.seconds < 0.2
        assert len(its.registry) == 0
    assert ("ZeroDivisionError" in caplog.text) == (ends == "by a fault")


def test_what_was_under_way_under_a_lost_lease_has_failed_also_when_more_was_to_be_said_of_it(server, monkeypatch):
    is_noticed, leases, real_is_lost = [], [], worker._Lease.is_lost.fget
    is_lost = property(lambda it: leases.append(it) or bool(is_noticed and real_is_lost(it)))
    monkeypatch.setattr(worker._Lease, "is_lost", is_lost)
    monkeypatch.setattr(worker.TableWorker, "_heard", lambda *_: None)  # the push comes later than the end of the lease
    monkeypatch.setenv("KVPOLL_LEASE", "1")
    one = manager()
    with joined(one), table(server) as thief:
        its = one.kvpoll_link
        one.request_status[ROOM] = BOOT
        real.until(lambda: thief.get(ROOM), "it is told")
        with thief.lease("prefill/10.0.0.1:8998"):
            real.until(lambda: leases and real_is_lost(leases[-1]), "the lease is lost")
            one.request_status[ROOM] = WAIT
            real.until(lambda: not its.registry._outbox._news and not its._publisher.is_idle, "more is to be said")
            is_noticed.append(True)
            real.until(lambda: one.request_status[ROOM] == FAIL, "SGLang is told")
        one.request_status[ROOM + 1] = BOOT
        real.until(lambda: thief.get(ROOM + 1), "it goes on under a new lease")
        assert thief.get(ROOM) is KVPoll.Failed
        real.until(lambda: its.is_idle, "all is said")


def test_nothing_is_opened_between_two_leases(server, monkeypatch):
    gates, enter = [], AsyncLease.__aenter__

    async def slowly(lease):
        gates.append(asyncio.Event())
        if len(gates) > 1:
            gates.append(asyncio.get_running_loop())
            await gates[1].wait()
        return await enter(lease)

    monkeypatch.setattr(AsyncLease, "__aenter__", slowly)
    monkeypatch.setenv("KVPOLL_LEASE", "1")
    one = manager()
    with joined(one), table(server) as thief:
        its = one.kvpoll_link
        with thief.lease("prefill/10.0.0.1:8998"):
            real.until(lambda: len(gates) == 3, "it is about to take another lease")
            one.request_status[ROOM] = BOOT
            real.until(lambda: not its.registry._outbox._news and its._publisher.is_idle, "the news is seen to")
        gates[2].call_soon_threadsafe(gates[1].set)
        real.until(lambda: thief.get(ROOM), "it is told")
        assert thief.entry(ROOM).owner == "prefill/10.0.0.1:8998"


def test_what_the_server_refuses_is_said_once_it_is_willing(server, caplog):
    one = manager()
    with joined(one), table(server) as store, server.client() as client:
        its = one.kvpoll_link
        one.request_status[1] = one.request_status[2] = BOOT
        real.until(lambda: store.get(1) and store.get(2), "they are told")
        client.execute_command("ACL", "SETUSER", "default", "-evalsha")
        one.request_status.pop(1)
        one.failure_records[2] = "no route"
        one.request_status[2] = FAIL
        one.request_status[3] = BOOT
        real.until(lambda: "NOPERM" in caplog.text, "it is refused")
        client.execute_command("ACL", "SETUSER", "default", "+evalsha")
        real.until(lambda: its.is_idle, "all is said")
        assert {room: store.get(room) for room in (1, 2, 3)} == {1: None, 2: KVPoll.Failed, 3: KVPoll.Bootstrapping}
        assert store.entry(2).reason == "no route"
    assert caplog.text.count("the table does not take") == 1


def test_one_that_is_refused_now_and_then_is_one_line(server, caplog):
    one = manager()
    with joined(one):
        its = one.kvpoll_link
        for room in range(5):
            one.request_status[2**63 + room] = BOOT  # no room of the table's
            one.request_status[room] = BOOT
            real.until(lambda: its.is_idle, "it is seen to")
    assert caplog.text.count("the table does not take") == 1
