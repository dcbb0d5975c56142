"""The follower of failures: blocking and asyncio, on real servers and fakeredis."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal

import pytest

from redis_kvpoll import FeedOffError, InvalidInputError, KVPoll, StatusStore, StoreClosedError
from redis_kvpoll.protocol import keys
from tests.support import pace, real
from tests.support.fuzzing import Index
from tests.support.mirrors import never_stale

BOOT, MOVE, FAIL = KVPoll.Bootstrapping, KVPoll.Transferring, KVPoll.Failed
FAILED = keys.failed("default")


class Told:
    """The failures that a process was told of, and the rooms that it holds."""

    def __init__(self, *held):
        self.held = {*held}
        self.found = []

    def rooms(self):
        return list(self.held)

    def shown(self):
        return [(found.room, found.reason) for found in self.found]


@contextlib.contextmanager
def following(store, told):
    with store.failures(told.rooms) as failures:
        failures.on_failure(told.found.append)
        yield failures


@pytest.mark.parametrize("server", ["fakeredis", "valkey", "redis62"], indirect=True)
class TestOnServers:
    def test_failure_of_held_room_is_told(self, side, server, peer, monkeypatch):
        never_stale(monkeypatch)
        told, store = Told(1), side.over(server)
        room = peer.open(1, "rid")
        with following(store, told) as failures:
            assert failures.synced
            peer.update_status(2, BOOT)
            peer.abort(2, "of no interest")
            room.fail("no memory")
            real.until(lambda: told.found, "told")
            assert [found.room for found in told.found] == [1]
            (found,) = told.found
            assert (found.room, found.generation, found.request) == (1, room.generation, "rid")
            assert (found.reason, found.origin, found.by) == ("no memory", "engine", None)
            assert failures.get(1) == found
            assert failures.get(2) is None

    @pytest.mark.parametrize("error", [ZeroDivisionError, asyncio.CancelledError, SystemExit])
    def test_callback_that_raises_stops_nothing(self, side, server, peer, caplog, error):
        def fail(failure):
            raise error

        told, store = Told(1, 2), side.over(server)
        peer.update_many({1: BOOT, 2: BOOT})
        with store.failures(told.rooms) as failures:
            failures.on_failure(fail)
            failures.on_failure(told.found.append)
            peer.abort(1, "first")
            peer.abort(2, "second")
            real.until(lambda: len(told.found) == 2, "both")
        logged = [(record.exc_info[0], record.getMessage()) for record in caplog.records if record.exc_info]
        assert logged == [(error, f"a callback of on_failure raised for room {room}") for room in (1, 2)]

    def test_start_reads_held_rooms_alone(self, side, server, peer):
        told, store = Told(1, 2, 3), side.over(server)
        peer.update_many({1: BOOT, 2: BOOT, 9: BOOT})
        peer.abort(1, "before")
        peer.abort(9, "of no interest")
        with following(store, told) as failures:
            assert failures.get(1).reason == "before"
            assert [failures.get(room) for room in (2, 3, 9)] == [None, None, None]

    def test_reason_that_comes_later_is_told(self, side, server, peer):
        told, store = Told(1), side.over(server)
        peer.update_status(1, BOOT)
        with following(store, told):
            peer.update_status(1, FAIL)
            peer.record_failure(1, "the reason")
            real.until(lambda: len(told.found) == 2, "told")
            assert told.shown() == [(1, None), (1, "the reason")]

    def test_next_failure_of_a_generation_is_told(self, side, server, peer):
        """Under compat, a plain update takes a room out of Failed."""
        told, store = Told(1), side.over(server, policy="compat")
        peer.open(1, "rid")
        with following(store, told):
            for _ in range(2):
                peer.abort(1, "why")
                peer.update_status(1, MOVE)
            peer.update_status(1, FAIL)
            real.until(lambda: len(told.found) == 3, "told")
            assert told.shown() == [(1, "why"), (1, "why"), (1, None)]
            assert len({found.generation for found in told.found}) == 1

    def test_open_that_finds_room_failed_is_known_at_once(self, side, server, peer):
        """Another rank has failed it before: no entry is to come."""
        told, store = Told(2), side.over(server, rank=1, world_size=2)
        with StatusStore(server.store_client(), rank=0, world_size=2) as first, following(store, told) as failures:
            first.open(1, "rid").fail("early")
            first.open(2, "marker").fail("behind it")
            real.until(lambda: told.found, "the follower is past room 1, which nobody holds yet")
            told.held.add(1)
            room = store.open(1, "rid")
            found = failures.get(1)
            assert found is not None
            assert found.generation == room.generation

    def test_entry_of_former_generation_says_so(self, side, server, peer):
        """Abort, clear, opened again, and only then is the entry read: it names the former request."""
        told, store = Told(1), side.over(server)
        with following(store, told):
            first = peer.open(1, "first")
            peer.abort(1, "why")
            peer.clear(1)
            second = peer.open(1, "second")
            real.until(lambda: told.found, "told")
            assert [(found.generation, found.request) for found in told.found] == [(first.generation, "first")]
            assert told.found[0].generation != second.generation

    def test_shards_are_all_followed(self, side, server):
        told, store = Told(*range(20)), side.over(server, shards=3)
        with StatusStore(server.store_client(), shards=3) as peer, following(store, told):
            peer.update_many(dict.fromkeys(range(20), BOOT))
            for room in range(20):
                peer.abort(room)
            real.until(lambda: len(told.found) == 20, "told")

    @pytest.mark.parametrize("harm", ["deleted", "another type", "trimmed", "begun anew"])
    def test_harmed_stream_is_followed_again(self, side, server, client, peer, harm):
        told, store = Told(1, 2, 3), side.over(server)
        peer.update_many({1: BOOT, 2: BOOT, 3: BOOT})
        with following(store, told) as failures:
            peer.abort(1, "first")
            real.until(lambda: told.found, "told")
            with client.pipeline(transaction=True) as step:
                step.hset("kvpoll:{default}:room:2", mapping={"status": "Failed", "reason": "unseen"})
                if harm == "trimmed":
                    step.xtrim(FAILED, maxlen=0, approximate=False)
                else:
                    step.delete(FAILED)
                if harm == "another type":
                    step.set(FAILED, "by hand", px=600_000)
                elif harm == "begun anew":
                    step.execute_command("XADD", FAILED, "5-1", "begun", "by hand")
                    step.pexpire(FAILED, 600_000)
                step.execute()
            real.until(lambda: (2, "unseen") in told.shown(), "the room was read")
            peer.abort(3, "third")
            real.until(lambda: (3, "third") in told.shown(), "and followed")
            real.until(lambda: failures.synced, "synced")

    def test_entries_made_by_hand_fail_no_room(self, side, server, client, peer, caplog):
        """Whatever is in the stream, the follower reads on, and tells the next failure that is one."""
        told, store = Told(1, 2), side.over(server)
        held, other = peer.open(1, "rid"), peer.open(2, "rid")
        generation = str(held.generation)
        junk = [
            ["x", "y"],
            ["1", f"0{generation}", "reason", "another form"],
            ["01", generation, "reason", "another form"],
            ["1", f"{generation} ", "reason", "text"],
            ["1", "9" * 5000],
            ["9" * 5000, generation],
            ["reason", "of nothing", "1", "junk", "by", "nobody"],
            [b"\xff", b"\xfe", "1", b"\x00"],
            [str(word) for word in range(20_000)],
        ]
        with following(store, told) as failures:
            for words in junk:
                client.execute_command("XADD", FAILED, "*", *words)
            client.execute_command("XADD", FAILED, f"{2**64 - 1}-{2**64 - 1}", "the last", "possible id")
            other.fail("a real one")
            real.until(lambda: (2, "a real one") in told.shown(), "told")
            real.until(lambda: failures.synced, "synced")
            assert {found.generation for found in told.found if found.room == 1} <= {0, 2}  # of the numbers in a row
            assert failures.get(2).generation == other.generation
            client.pexpire(FAILED, 600_000)
        assert "unexpectedly" not in caplog.text

    def test_read_only_store_follows_and_writes_nothing(self, side, server, client, peer, monkeypatch):
        never_stale(monkeypatch)
        peer.update_status(1, BOOT)
        told, store = Told(1), side.over(server, read_only=True)
        with following(store, told) as failures:
            assert not client.exists(FAILED)
            assert failures.synced
            peer.abort(1, "why")
            real.until(lambda: told.found, "told")

    def test_what_is_no_room_and_no_function_is_refused(self, side, server, peer):
        peer.update_status(1, BOOT)
        store = side.over(server)
        with pytest.raises(InvalidInputError, match="failures: rooms is a function"):
            store.failures([1])
        with following(store, Told(1)) as failures:
            for junk in ([], "1", -1, None):
                with pytest.raises(InvalidInputError, match=r"^get: "):
                    failures.get(junk)
            with pytest.raises(InvalidInputError, match="on_failure: it takes a function"):
                failures.on_failure(1)

    @pytest.mark.parametrize("shards", [1, 2])
    def test_held_rooms_that_are_none_end_the_entry(self, side, server, shards):
        store = side.over(server, shards=shards)
        for rooms in (["8"], ["x"], [-1], [2**70], [None], [8, True], 8, "8", b"8"):
            failures = store.failures(lambda rooms=rooms: rooms)
            with pytest.raises(InvalidInputError, match=r"^failures: what rooms= returned: "), failures:
                pass

    def test_failure_at_a_moment_of_wrong_rooms_is_told_later(self, side, server, peer):
        """An entry is read once: the follower does not go on behind one that it could not tell."""
        given, told = [[1]], Told(1)
        peer.update_status(1, BOOT)
        with side.over(server).failures(lambda: given.pop() if len(given) > 1 else given[0]) as failures:
            failures.on_failure(told.found.append)
            given.append([1, -1])
            peer.abort(1, "why")
            real.until(lambda: len(given) == 1, "the wrong rooms are asked for")
            real.until(lambda: told.found, "told")
            assert told.shown() == [(1, "why")]
            real.until(lambda: failures.synced, "synced")

    def test_held_room_may_be_an_index(self, side, server, peer):
        store = side.over(server)
        peer.update_status(8, BOOT)
        with store.failures(lambda: [Index(8)]) as failures:
            peer.abort(8, "why")
            real.until(lambda: failures.get(8), "told")

    def test_namespace_without_feed_is_refused(self, side, server):
        store = side.over(server, feed_length=0)
        with pytest.raises(FeedOffError), store.failures(list):
            pass

    def test_closed_follower_says_so(self, side, server):
        store = side.over(server)
        failures = store.failures(list)
        with pytest.raises(StoreClosedError, match="is not open"):
            failures.get(1)
        with failures:
            pass
        assert not failures.synced
        for use in (lambda: failures.get(1), lambda: failures.on_failure(print)):
            with pytest.raises(StoreClosedError, match="was closed"):
                use()


class TestOutages:
    """What a session knows of the one before."""

    @pytest.fixture
    def server(self):
        with real.World("sync") as world:
            yield world.serve()

    def follow(self, side, proxy):
        return side.open(proxy.url, deadline=pace.seconds(20))

    def test_cut_connection_reads_on_without_reading_rooms(self, side, server, peer, proxy):
        told, store = Told(1, 2), self.follow(side, proxy)
        peer.update_many({1: BOOT, 2: BOOT})
        with following(store, told) as failures:
            peer.abort(1, "first")
            real.until(lambda: told.found, "told")
            before = proxy.calls("failures")
            proxy.cut()
            peer.abort(2, "meanwhile")
            real.until(lambda: (2, "meanwhile") in told.shown(), "read on")
            real.until(lambda: failures.synced, "synced")
            assert proxy.calls("failures") == before

    def test_lost_data_makes_rooms_unknown_not_failed(self, side, server, peer, proxy):
        told, store = Told(1, 2), self.follow(side, proxy)
        peer.update_many({1: BOOT, 2: BOOT})
        with following(store, told) as failures, server.client() as client:
            client.flushall()
            real.until(lambda: client.exists(FAILED), "read afresh")
            real.until(lambda: failures.synced, "synced")
            assert told.found == []
            peer.update_status(2, BOOT)
            peer.abort(2, "after")
            real.until(lambda: told.shown() == [(2, "after")], "followed")

    def test_stopped_server_is_unsynced(self, side, server, peer):
        store = side.open(server.tcp, deadline=pace.seconds(20))
        with following(store, Told(1)) as failures:
            os.kill(server.pid, signal.SIGSTOP)
            try:
                real.until(lambda: not failures.synced, "it notices", seconds=20)
            finally:
                os.kill(server.pid, signal.SIGCONT)
            real.until(lambda: failures.synced, "synced")
