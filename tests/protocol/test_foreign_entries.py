"""Entries that a hand has appended to the feed: no ghosts, no lost change, and all readers say the same."""

from __future__ import annotations

import pytest

from redis_kvpoll import KVPoll, Outcome
from redis_kvpoll.engine.recovery.marks import Mark
from redis_kvpoll.protocol import fenced_commands, keys, room_commands
from redis_kvpoll.protocol.script_specs import SNAPSHOT
from tests.support import real
from tests.support.calls_of_scripts import GENERATION, REQUEST, A, B, bare, replay, send, table
from tests.support.feeds import entries
from tests.support.mirrors import never_stale

C = 7
FEED, FEED_NS = keys.feed("default"), keys.feed("ns")
LAST = f"{2**64 - 1}-{2**64 - 1}"
DAY_MS = 24 * 3600 * 1000
FOREIGN = {
    "leading zeros": ["ttl_ms", "900000", "007", "Success"],
    "30 digits": ["ttl_ms", "900000", "9" * 30, "Success"],
    "5,000 digits": ["ttl_ms", "900000", "9" * 5000, "Success"],
    "above the last room": ["ttl_ms", "900000", str(2**63), "Success"],
    "no TTL": ["ttl_ms", "abc", "8", "Success"],
    "TTL without end": ["ttl_ms", "9" * 20, "8", "Success"],
    "unknown status": ["ttl_ms", "900000", "1", "Done"],
    "unknown rank": ["ttl_ms", "900000", "1", "Transferring", "rank:" + "9" * 5000, "Success"],
    "odd": ["", "", "rank:0", "Success", "reason", "why", "first", "x"],
    "not text": [b"\xff\xfe", b"\xff", "1", b"\xff"],
}


SEEN = (1, 2, 7, 8)


@pytest.mark.parametrize("server", ["fakeredis", "valkey", "redis62"], indirect=True)
class TestForeignEntries:
    def test_no_reader_takes_what_no_script_writes(self, side, server, client, monkeypatch):
        never_stale(monkeypatch)
        store = side.over(server)
        store.update_many({1: 3, 2: 1})
        with store.mirror() as mirror:
            real.until(lambda: mirror.synced, "synced")
            for words in FOREIGN.values():
                client.execute_command("XADD", FEED, "*", *words)
            client.execute_command("XADD", FEED, "*", "ttl_ms", "900000", "2", "Transferring")
            real.until(lambda: mirror.get(2) is KVPoll.Transferring, "the entry after them")
            assert mirror.synced
            shown = {room: mirror.get(room) for room in SEEN}
        assert shown == {1: KVPoll.Transferring, 2: KVPoll.Transferring, 7: None, 8: None}
        last = {room: [change.status for change in store.history(room)][-1:] for room in SEEN}
        assert last == {room: [status] if status is not None else [] for room, status in shown.items()}

    @pytest.mark.parametrize("rank", [{}, {"rank": 0, "world_size": 2}], ids=["plain", "rank"])
    def test_mirror_reads_rooms_of_entries_without_ttl(self, side, server, client, rank, monkeypatch):
        """Every script that changes a status sets a TTL. A ghost would stay until the sweep."""
        never_stale(monkeypatch)
        store = side.over(server, **rank)
        store.update_many({1: 3, 2: 1})
        with store.mirror() as mirror:
            real.until(lambda: mirror.synced, "synced")
            shown = []
            mirror.on_change(lambda room, status: shown.append((room, status)))
            for words in (["7", "Success"], ["1", "Failed"], ["7", "Success", "first:0", "Success"]):
                client.execute_command("XADD", FEED, "*", *words)
            store.update_status(2, 3)
            real.until(lambda: (2, KVPoll.Transferring) in shown, "the entry after them")
            assert mirror.synced
            assert mirror.poll([1, 2, 7]) == [KVPoll.Transferring, KVPoll.Transferring, None]
        assert shown == [(2, KVPoll.Transferring)]

    def test_change_after_the_last_id_reaches_a_mirror(self, side, server, client, peer):
        """Redis gives no id after the last one. The change must not be made without being told."""
        store = side.over(server)
        store.update_many({1: 1, 2: 1})
        with store.mirror() as mirror:
            real.until(lambda: mirror.synced, "synced")
            client.execute_command("XADD", FEED, LAST, "made", "by hand")
            assert peer.update_status(1, 3).outcome is Outcome.ADVANCED
            real.until(lambda: mirror.get(1) is KVPoll.Transferring, "the change")
        assert [change.status for change in store.history(1)] == [KVPoll.Transferring]


CALLS = {
    "update": room_commands.update_status(A, 4),
    "update many": room_commands.update_many({A: 4, B: 3}),
    "fenced": fenced_commands.update(A, GENERATION, 2),
    "open": fenced_commands.open(C, "rid", 1, 0),
    "abort": room_commands.abort(A, "why"),
    "record_failure": room_commands.record_failure(A, "why"),
    "touch": room_commands.touch([A]),
    "clear": room_commands.clear(A),
}


class TestBegunAnew:
    """A feed that takes no entry is begun anew in the same step, with the change."""

    @pytest.mark.parametrize("made", ["last id", "last id, deleted", "another type"])
    @pytest.mark.parametrize("name", CALLS)
    def test_change_is_in_the_new_feed(self, client, name, made):
        send(client, replay(A), table())
        spoil(client, made)
        command = CALLS[name]
        reply = send(client, command, table())
        ((entry_id, fields),) = entries(client, "ns")
        assert reply[0] == entry_id.decode()
        assert str(command.rooms[0]).encode() in fields
        assert client.pttl(FEED_NS) > DAY_MS - 60_000

    def test_ids_run_out_within_a_call(self, client):
        """The first of three entries has the last id."""
        rooms = range(40)
        client.execute_command("XADD", FEED_NS, f"{2**64 - 1}-{2**64 - 2}", "made", "by hand")
        client.pexpire(FEED_NS, DAY_MS)
        send(client, room_commands.update_many(dict.fromkeys(rooms, 1)), table())
        told = [int(word) for _, fields in entries(client, "ns") for word in fields if word.isdigit() and len(word) < 3]
        assert told == list(rooms)[16:]
        assert send(client, room_commands.poll(rooms), table()) == ["Bootstrapping"] * 40

    @pytest.mark.parametrize("made", ["last id, deleted"])
    def test_snapshot_has_a_position(self, client, made):
        spoil(client, made)
        reply = send(client, bare("snapshot", SNAPSHOT, [A]), table())
        assert [reply[0].encode()] == [entry_id for entry_id, _ in entries(client, "ns")]

    @pytest.mark.parametrize("words", [["9" * 5000, "Success"], ["007", "Success"], ["7", b"a/b c\xff"], ["x", "y"]])
    def test_mark_of_foreign_entry_is_its_id(self, server, words):
        client = server.client()
        context = table("plain")
        send(client, replay(A), context)
        entry_id = client.execute_command("XADD", FEED_NS, "*", *words)
        reply = send(client, fenced_commands.open(A, REQUEST, 1, 0), context)
        mark = Mark.parse(reply[0])
        assert (mark.feed_id, mark.room, str(mark)) == (entry_id, None, f"{entry_id.decode()}//")


def spoil(client, made):
    client.delete(FEED_NS)
    if made == "another type":
        client.set(FEED_NS, "by hand")
    else:
        client.execute_command("XADD", FEED_NS, LAST, "made", "by hand")
    if made == "last id, deleted":
        client.xdel(FEED_NS, LAST)
    client.pexpire(FEED_NS, 600_000)
