"""What must not grow, stall or raise in SGLang's process while the table cannot be told; with a stand-in manager."""

from __future__ import annotations

import os
import signal
import time

import pytest

from redis_kvpoll import KVPoll, StatusStore
from redis_kvpoll.integrations.sglang import link, unsaid
from tests import real
from tests.standin import joined, link_of, manager

FAIL, BOOT, WAIT, MOVE, OK = range(5)
ROOM = 4711


@pytest.fixture
def world():
    with real.World("sync") as world:
        yield world


@pytest.fixture
def server(world, monkeypatch):
    server = world.serve()
    for name, value in {"URL": server.tcp, "NAMESPACE": "t", "LEASE": "5", "DEADLINE": "0.5"}.items():
        monkeypatch.setenv(f"KVPOLL_{name}", value)
    monkeypatch.setattr(link, "AWAY_SECONDS", 0.0)
    return server


def table(server):
    return StatusStore.from_url(server.tcp, namespace="t-prefill", policy="strict")


def life(one, room):
    for status in (BOOT, WAIT, MOVE, OK):
        one.request_status[room] = status
    one.request_status.pop(room, None)


def test_what_comes_and_goes_in_an_outage_is_bounded_though_the_link_has_looked_at_it(world, server, monkeypatch):
    monkeypatch.setattr(unsaid, "LIMIT", 20)
    one = manager()
    with joined(one):
        its = link_of(one)
        os.kill(server.pid, signal.SIGKILL)
        one.request_status[ROOM] = BOOT
        real.until(lambda: not its._teller.is_up.is_set(), "the outage is noticed")
        for room in range(200):
            one.request_status[room] = BOOT
            real.until(lambda: not its.book._unsaid._news, "the link has looked at it")
            life(one, room)
        real.until(lambda: its._teller.is_idle, "the link only waits")
        assert len(its.book) <= 21
        assert its.book.untold >= 180
        server = world.restart(server)
        with table(server) as store:
            real.until(lambda: store.get(ROOM), "what lives is told")


@pytest.mark.parametrize("ends", ["by a fault", "by close"])
def test_without_its_thread_the_maps_go_on_and_wait_for_nothing(server, monkeypatch, caplog, ends):
    ranks = [manager(attn_tp_size=2, attn_tp_rank=rank) for rank in range(2)]
    with joined(*ranks):
        one, its = ranks[0], link_of(ranks[0])
        one.request_status[ROOM] = BOOT
        real.until(lambda: its.book.reason_seconds and its.is_idle, "it is told")
        if ends == "by close":
            its.close()
            its.close()
        else:
            monkeypatch.setattr(its._gauge, "show", lambda *_: monkeypatch.undo() or 1 / 0)
        real.until(lambda: not its._thread.is_alive(), "the thread has ended")
        assert its.statuses_of(ROOM) == {}
        for room in (ROOM, ROOM + 1):
            life(one, room)
            one.failure_records[room] = "no route"
        assert one.failure_records.pop(ROOM, None) == "no route"
        began = time.monotonic()
        assert one.failure_records.pop(ROOM, None) is None
        assert time.monotonic() - began < 0.2
        assert len(its.book) == 0
    assert ("ZeroDivisionError" in caplog.text) == (ends == "by a fault")
