"""Nothing grows, blocks or raises in SGLang's process while changes cannot be published; with a stand-in manager."""

from __future__ import annotations

import asyncio
import os
import signal
from types import SimpleNamespace

import pytest

from redis_kvpoll import KVPoll
from redis_kvpoll.agent import outbox
from redis_kvpoll.agent.session import lease, own_failures
from redis_kvpoll.aio.lease import AsyncLease
from redis_kvpoll.integrations.sglang import hooks
from tests.support import pace, real
from tests.support.standin import OWNER, joined, manager, serve, session_of, table

FAIL, BOOT, WAIT, MOVE, OK = range(5)
ROOM = 4711


@pytest.fixture
def world():
    with real.World("sync") as world:
        yield world


@pytest.fixture
def server(world, monkeypatch):
    return serve(world, monkeypatch, deadline=3.0)


def life(sglang, room):
    for status in (BOOT, WAIT, MOVE, OK):
        sglang.request_status[room] = status
    sglang.request_status.pop(room, None)


def has_taken(sglang):
    """Whether the session has taken all changes out of its outbox, or found that it cannot."""
    part = session_of(sglang)
    return part.rooms.received == sglang.kvpoll_worker.client.sent and not part.rooms.outbox.has_changes


def test_lives_during_outage_are_bounded(world, server, monkeypatch):
    """Also those that the publisher took once and put back."""
    monkeypatch.setattr(outbox, "MAX_ENDED_LIVES", 20)
    sglang = manager()
    with joined(sglang):
        part = session_of(sglang)
        os.kill(server.pid, signal.SIGKILL)
        sglang.request_status[ROOM] = BOOT
        real.until(lambda: not part.table.publisher.is_online.is_set(), "the outage is detected")
        for room in range(200):
            sglang.request_status[room] = BOOT
            real.until(lambda: has_taken(sglang), "the publisher has taken the change")
            life(sglang, room)
        real.until(lambda: has_taken(sglang) and part.table.publisher.is_idle, "the publisher is idle")
        assert len(part.rooms.outbox) <= 21
        real.until(lambda: sglang.kvpoll_worker.dropped >= 180, "the client is told what was dropped")
        server = world.restart(server)
        with table(server) as store:
            real.until(lambda: store.get(ROOM), "the live room is published")


@pytest.mark.parametrize("ends", ["by a fault", "by close"])
def test_maps_without_worker_thread_go_on(server, monkeypatch, caplog, ends):
    """They wait for nothing and keep nothing for the table."""
    ranks = [manager(attn_tp_size=2, attn_tp_rank=rank) for rank in range(2)]
    with joined(*ranks):
        sglang, its_worker = ranks[0], ranks[0].kvpoll_worker
        sglang.request_status[ROOM] = BOOT
        real.until(lambda: its_worker.registry.waiting.longest and its_worker.is_idle, "it is published")
        if ends == "by close":
            its_worker.close()
            its_worker.close()
        else:
            monkeypatch.setattr(session_of(sglang), "_report", lambda: monkeypatch.undo() or 1 / 0)
        real.until(lambda: not its_worker.client.channel.thread.is_alive(), "the thread has ended")
        assert its_worker.statuses_of(ROOM) == {}
        for room in (ROOM, ROOM + 1):
            life(sglang, room)
            sglang.failure_records[room] = "no route"
        assert sglang.failure_records.pop(ROOM, None) == "no route"
        with pace.Stopwatch() as took:
            assert sglang.failure_records.pop(ROOM, None) is None
        assert took.seconds < 0.2
        assert len(its_worker.registry.sender) == 0
    assert ("ZeroDivisionError" in caplog.text) == (ends == "by a fault")


def test_room_of_lost_lease_with_pending_change_fails(server, monkeypatch):
    """The pending change does not hide the failure, and is not published under the new lease."""
    may_notice, leases, real_is_lost = [], [], lease.ReplaceableLease.is_lost.fget
    is_lost = property(lambda it: leases.append(it) or bool(may_notice and real_is_lost(it)))
    monkeypatch.setattr(lease.ReplaceableLease, "is_lost", is_lost)
    # The failure is told later than the end of the lease.
    monkeypatch.setattr(own_failures.OwnFailures, "on_failure", lambda *_: None)
    monkeypatch.setenv("KVPOLL_LEASE", "1")
    sglang = manager()
    with joined(sglang), table(server) as thief:
        its_worker = sglang.kvpoll_worker
        sglang.request_status[ROOM] = BOOT
        real.until(lambda: thief.get(ROOM), "it is published")
        with thief.lease(OWNER):
            real.until(lambda: leases and real_is_lost(leases[-1]), "the lease is lost")
            sglang.request_status[ROOM] = WAIT
            real.until(
                lambda: has_taken(sglang) and not session_of(sglang).table.publisher.is_idle,
                "a change is pending",
            )
            may_notice.append(True)
            real.until(lambda: sglang.request_status[ROOM] == FAIL, "the room fails in SGLang")
        sglang.request_status[ROOM + 1] = BOOT
        real.until(lambda: thief.get(ROOM + 1), "it continues under a new lease")
        assert thief.get(ROOM) is KVPoll.Failed
        real.until(lambda: its_worker.is_idle, "all is published")


def test_change_between_leases_waits_for_the_new_one(server, monkeypatch):
    gates, enter = [], AsyncLease.__aenter__

    async def slowly(lease):
        gates.append(asyncio.Event())
        if len(gates) > 1:
            gates.append(asyncio.get_running_loop())
            await gates[1].wait()
        return await enter(lease)

    monkeypatch.setattr(AsyncLease, "__aenter__", slowly)
    monkeypatch.setenv("KVPOLL_LEASE", "1")
    sglang = manager()
    with joined(sglang), table(server) as thief:
        with thief.lease(OWNER):
            real.until(lambda: len(gates) == 3, "it is about to take a new lease")
            sglang.request_status[ROOM] = BOOT
            real.until(
                lambda: has_taken(sglang) and session_of(sglang).table.publisher.is_idle,
                "the change is taken",
            )
        gates[2].call_soon_threadsafe(gates[1].set)
        real.until(lambda: thief.get(ROOM), "it is published")
        assert thief.entry(ROOM).owner == OWNER


def test_rejected_change_is_published_once_accepted(server, caplog):
    sglang = manager()
    with joined(sglang), table(server) as store, server.client() as client:
        its_worker = sglang.kvpoll_worker
        sglang.request_status[1] = sglang.request_status[2] = BOOT
        real.until(lambda: store.get(1) and store.get(2), "they are published")
        client.execute_command("ACL", "SETUSER", "default", "-evalsha")
        sglang.request_status.pop(1)
        sglang.failure_records[2] = "no route"
        sglang.request_status[2] = FAIL
        sglang.request_status[3] = BOOT
        real.until(lambda: "NOPERM" in caplog.text, "it is rejected")
        client.execute_command("ACL", "SETUSER", "default", "+evalsha")
        real.until(lambda: its_worker.is_idle, "all is published")
        assert {room: store.get(room) for room in (1, 2, 3)} == {1: None, 2: KVPoll.Failed, 3: KVPoll.Bootstrapping}
        assert store.entry(2).reason == "no route"
    assert caplog.text.count("the status table rejected") == 1


def test_repeated_rejections_log_one_line(server, caplog):
    sglang = manager()
    with joined(sglang):
        its_worker = sglang.kvpoll_worker
        for room in range(5):
            sglang.request_status[2**64 + room] = BOOT  # not a room id
            sglang.request_status[room] = BOOT
            real.until(lambda: its_worker.is_idle, "it is handled")
    assert caplog.text.count("the status table rejected") == 1


def test_room_that_no_message_can_name_is_logged(server, caplog):
    """Decode's message opens it on prefill, before it has a sender; SGLang's thread gets what a dict gives."""
    sglang = manager()
    with joined(sglang):
        sglang.request_status.registry.awaits_claims = True
        for room in (2**127, ROOM):
            sglang.update_status(room, WAIT)
            assert sglang.request_status.pop(room) == WAIT
    assert caplog.text.count(f"a change of room {2**127} cannot be told") == 2


def test_names_of_prefill_that_are_none_raise_nothing(server, caplog):
    """An exception of SGLang's own, which is under way, is the one that its scheduler gets."""
    decode = manager("decode")
    with joined(decode):
        decode.request_status[ROOM] = WAIT
        infos = [{"rank_ip": "10.0.0.1", "rank_port": "a port"}]
        receiver = SimpleNamespace(kv_mgr=decode, bootstrap_room=ROOM, bootstrap_infos=infos)
        assert hooks.around_receiver_init(lambda _: "done", receiver) == "done"
        with pytest.raises(ZeroDivisionError):
            hooks.around_receiver_init(lambda _: 1 / 0, receiver)
    assert caplog.text.count("names the processes of prefill in another way") == 2
