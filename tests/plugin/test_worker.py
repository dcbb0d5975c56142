"""One process of SGLang on the table, with a stand-in for its manager. For the real one see tests/sglang."""

from __future__ import annotations

import itertools
import threading

import pytest
import redis

from redis_kvpoll import AsyncStatusStore, KVPoll, StatusStore
from redis_kvpoll.agent.outbox import RoomLife
from redis_kvpoll.agent.session.publisher import OutboxPublisher
from redis_kvpoll.agent.session.table_member import StoreMember
from redis_kvpoll.agent.session.told import ToldRooms
from redis_kvpoll.aio.room import AsyncRoom
from redis_kvpoll.integrations.sglang import worker
from redis_kvpoll.integrations.sglang.compat import identify
from tests.support import real
from tests.support.internals import known_servers_of
from tests.support.standin import OWNER, Manager, joined, learn_servers, manager, until_entry_is

FAIL, BOOT, WAIT, MOVE, OK = range(5)
ROOM = 4711


class TestOneLife:
    def test_statuses_and_length_reach_the_table(self, table):
        sglang = manager()
        with joined(sglang):
            sglang.request_status[ROOM] = BOOT
            until_entry_is(table, ROOM, status=KVPoll.Bootstrapping, owner=OWNER)
            sglang.req_to_decode_prefix_len[ROOM] = 17
            sglang.request_status[ROOM] = MOVE
            until_entry_is(table, ROOM, status=KVPoll.Transferring, decode_prefix_len=17)
            sglang.request_status.pop(ROOM, None)
            real.until(lambda: table.entry(ROOM) is None, "it is cleared")

    def test_failure_reaches_the_table_with_its_reason(self, table):
        sglang = manager()
        with joined(sglang):
            sglang.request_status[ROOM] = BOOT
            sglang.failure_records[ROOM] = "no route"
            sglang.request_status[ROOM] = FAIL
            until_entry_is(table, ROOM, status=KVPoll.Failed, reason="no route")

    def test_abort_by_operator_reaches_both_sides(self, table):
        prefill, decode = manager(), manager("decode")
        with joined(prefill, decode):
            prefill.request_status[ROOM] = decode.request_status[ROOM] = BOOT
            learn_servers(decode, ROOM, prefill)
            until_entry_is(table, ROOM, status=KVPoll.Bootstrapping)
            table.abort(ROOM, "wrong model")
            for sglang in (prefill, decode):
                real.until(lambda sglang=sglang: sglang.request_status[ROOM] == FAIL, "the failure arrives")
                assert sglang.failure_records[ROOM] == "wrong model"

    @pytest.mark.parametrize("role", ["prefill", "decode"])
    def test_failure_of_former_generation_fails_nothing(self, table, url, role):
        """Abort, clear, opened again, and only then is the entry read: of the own table, and of the other role's."""
        prefill, decode = manager(), manager("decode")
        with joined(prefill, decode), redis.Redis.from_url(url) as client:
            prefill.request_status[ROOM] = decode.request_status[ROOM] = BOOT
            learn_servers(decode, ROOM, prefill)
            until_entry_is(table, ROOM, status=KVPoll.Bootstrapping)
            late = ["origin", "operator", "reason", "late"]
            client.execute_command("XADD", f"kvpoll:{{t-{role}}}:failed", "*", ROOM, 1_600_000_000_000_000, *late)
            client.execute_command("XADD", f"kvpoll:{{t-{role}}}:failed", "*", ROOM + 1, 1, *late)
            client.pexpire(f"kvpoll:{{t-{role}}}:failed", 600_000)
            # What is told later is read later.
            prefill.request_status[ROOM + 2] = decode.request_status[ROOM + 2] = BOOT
            learn_servers(decode, ROOM + 2, prefill)
            until_entry_is(table, ROOM + 2, status=KVPoll.Bootstrapping)
            table.abort(ROOM + 2, "wrong model")
            for sglang in (prefill, decode):
                real.until(lambda sglang=sglang: sglang.request_status[ROOM + 2] == FAIL, "the failure arrives")
                assert sglang.request_status[ROOM] == BOOT

    def test_process_reads_failures_alone(self, table, url, real_servers):
        """Neither the feed of its role nor the other's, and no room at its start."""
        with StatusStore.from_url(url, namespace="t-prefill", policy="strict") as early:
            early.update_many(dict.fromkeys(range(100), 1))
        with real_servers.get("valkey").client(decode_responses=True) as client, client.monitor() as monitor:
            with joined(manager(), manager("decode")):
                for number in range(20):
                    table.update_status(number, 3)
                table.abort(19)
                real.until(lambda: client.xlen("kvpoll:{t-prefill}:failed") > 1, "it is told")
            client.echo("the end")
            commands = (said["command"] for said in monitor.listen())
            said = list(itertools.takewhile(lambda command: command != "ECHO the end", commands))
        reads = {word for command in said if command.startswith("XREAD") for word in command.split() if ":f" in word}
        assert reads == {"kvpoll:{t-prefill}:failed", "kvpoll:{t-decode}:failed"}
        assert not [command for command in said if command.startswith("SCAN")]

    def test_process_that_goes_on_alone_keeps_nothing_for_the_table(self, table):
        prefill, decode = manager(), manager("decode")
        with joined(prefill, decode):
            for room in ROOM, ROOM + 1:
                decode.request_status[room] = BOOT
                learn_servers(decode, room, prefill)
                if room == ROOM:
                    decode.kvpoll_worker.client.go_on_alone()
            assert not known_servers_of(decode.kvpoll_worker)

    def test_abort_after_decode_success_changes_nothing(self, table):
        prefill, decode = manager(), manager("decode")
        with joined(prefill, decode):
            for room in (ROOM, ROOM + 1):
                prefill.request_status[room] = decode.request_status[room] = BOOT
                learn_servers(decode, room, prefill)
            decode.request_status[ROOM] = OK
            for room in (ROOM, ROOM + 1):
                until_entry_is(table, room, status=KVPoll.Bootstrapping)
                table.abort(room)
            real.until(lambda: decode.request_status[ROOM + 1] == FAIL, "the later one fails")
            assert decode.request_status[ROOM] == OK

    def test_room_busy_at_opening_is_published_later(self, table):
        sglang = manager()
        with joined(sglang):
            room = table.open(ROOM, request="another")
            sglang.request_status[ROOM] = BOOT
            sglang.request_status[ROOM] = WAIT
            room.clear()
            until_entry_is(table, ROOM, status=KVPoll.WaitingForInput, owner=OWNER)

    def test_reason_of_another_rank_is_returned(self, table, monkeypatch):
        monkeypatch.setattr(worker, "REASON_WAIT_SECONDS", 20.0)  # it returns with the reason, however slow that is
        ranks = [manager(attn_tp_size=2, attn_tp_rank=rank) for rank in range(2)]
        with joined(*ranks):
            for sglang in ranks:
                sglang.request_status[ROOM] = BOOT
            real.until(lambda: table.collect(ROOM).keys() == {0, 1}, "both are published")
            real.until(lambda: ranks[0].kvpoll_worker.registry.waiting.longest, "the failures are followed")
            ranks[1].failure_records[ROOM] = "rank 1 says no"
            ranks[1].request_status[ROOM] = FAIL
            ranks[0].request_status.pop(ROOM, None)  # after SGLang's own all-reduce, before any push
            assert ranks[0].failure_records.pop(ROOM, None) == "rank 1 says no"

    def test_room_reopened_before_other_rank_clears_waits(self, table):
        ranks = [manager(attn_tp_size=2, attn_tp_rank=rank) for rank in range(2)]
        with joined(*ranks):
            for sglang in ranks:
                sglang.request_status[ROOM] = BOOT
                sglang.request_status[ROOM] = OK
            real.until(lambda: table.get(ROOM) is KVPoll.Success, "both have ended")
            generation = lambda: getattr(table.entry(ROOM), "generation", 0)  # noqa: E731
            first = generation()
            ranks[0].request_status.pop(ROOM)
            ranks[0].request_status[ROOM] = BOOT
            real.until(lambda: table.entry(ROOM).cleared, "one has cleared")
            ranks[1].request_status.pop(ROOM)
            real.until(lambda: generation() > first, "it is opened again")
            assert table.entry(ROOM).ranks == {0: KVPoll.Bootstrapping}


class TestFailureFromTable:
    """It goes through SGLang's own update_status, because more may hang on it."""

    def test_failure_of_a_room_runs_sglangs_update_status(self, table):
        class Notifies(Manager):
            def update_status(self, room, status):
                super().update_status(room, status)
                if status == FAIL:
                    self.notified.append((room, self.request_status.get(room), self.failure_records.get(room)))

        sglang = manager(kind=Notifies, notified=[])
        with joined(sglang):
            sglang.notified.clear()  # of the check at the start
            sglang.update_status(ROOM, BOOT)
            until_entry_is(table, ROOM, status=KVPoll.Bootstrapping)
            table.abort(ROOM, "wrong model")
            real.until(lambda: sglang.notified, "it is notified")
        assert sglang.notified == [(ROOM, FAIL, "wrong model")]

    @pytest.fixture
    def sends(self, table):
        """A manager with the policy prefill_complete: a Failed is a message to a process that may be dead."""

        class Sends(Manager):
            def update_status(self, room, status):
                super().update_status(room, status)
                if room == ROOM and status == FAIL:
                    self.blocked.set()
                    self.go.wait()

        sglang = manager(kind=Sends, deferred_bootstrap=object(), blocked=threading.Event(), go=threading.Event())
        with joined(sglang):
            for room in (ROOM, ROOM + 1):
                sglang.update_status(room, BOOT)
                until_entry_is(table, room, status=KVPoll.Bootstrapping)
            yield sglang
            sglang.go.set()

    def test_update_status_that_blocks_delays_no_heartbeat(self, table, sends):
        table.abort(ROOM)
        assert sends.blocked.wait(120)
        sends.update_status(ROOM + 1, WAIT)
        until_entry_is(table, ROOM + 1, status=KVPoll.WaitingForInput)

    def test_failure_is_published_after_its_message(self, table, sends):
        failing = threading.Thread(target=sends.update_status, args=(ROOM, FAIL), daemon=True)
        failing.start()
        assert sends.blocked.wait(120)
        sends.update_status(ROOM + 1, WAIT)
        until_entry_is(table, ROOM + 1, status=KVPoll.WaitingForInput)
        assert table.get(ROOM) is KVPoll.Bootstrapping
        sends.go.set()
        until_entry_is(table, ROOM, status=KVPoll.Failed)
        failing.join()


class TestPublishing:
    @pytest.mark.parametrize(("is_open", "status"), [(False, WAIT), (True, MOVE)], ids=["at once", "later"])
    async def test_prefix_length_is_published_before_the_status(self, monkeypatch, is_open, status):
        """A reader of the status relies on the length."""
        statuses_before = []
        set_length = AsyncRoom.set_decode_prefix_len

        async def observed(room, length):
            statuses_before.append(await store.get(ROOM))
            await set_length(room, length)

        monkeypatch.setattr(AsyncRoom, "set_decode_prefix_len", observed)
        rooms = ToldRooms(lambda: None, lambda room, reason: None)
        first = RoomLife(1, is_new=True, status=BOOT) if is_open else RoomLife(1, is_new=True, status=status, length=17)
        async with AsyncStatusStore.from_url("memory://", policy="strict") as store:
            publisher = OutboxPublisher(StoreMember(store, "a"), rooms, identify(manager()), lambda *_: None)
            publisher.resume()
            rooms.change(ROOM, first)
            await publisher.flush()
            if is_open:
                rooms.change(ROOM, RoomLife(1, status=status, length=17))
                await publisher.flush()
            entry = await store.entry(ROOM)
        assert statuses_before == [KVPoll.Bootstrapping]
        assert (entry.status, entry.decode_prefix_len) == (status, 17)

    @pytest.mark.parametrize("refused", [{"reason": " "}, {"length": 2**53}], ids=["reason", "length"])
    async def test_refused_part_keeps_no_other_from_the_table(self, refused):
        """Else a room would stay as it was, and live for ever if that part comes with its end."""
        rooms = ToldRooms(lambda: None, lambda room, reason: None)
        async with AsyncStatusStore.from_url("memory://", policy="strict") as store:
            publisher = OutboxPublisher(StoreMember(store, "a"), rooms, identify(manager()), lambda *_: None)
            publisher.resume()
            rooms.change(ROOM, RoomLife(1, is_new=True, status=BOOT))
            rooms.change(ROOM + 1, RoomLife(2, is_new=True, status=BOOT))
            await publisher.flush()
            rooms.change(ROOM, RoomLife(1, status=FAIL, **refused))
            rooms.change(ROOM + 1, RoomLife(2, status=FAIL, is_over=True, **refused))
            await publisher.flush()
            assert await store.get(ROOM) is KVPoll.Failed
            assert await store.entry(ROOM + 1) is None
