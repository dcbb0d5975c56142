"""Which absent rooms replay.lua creates again: every branch of include/survival.lua, on every kind of server."""

from __future__ import annotations

import pytest

from redis_kvpoll import Outcome
from redis_kvpoll.protocol import keys, room_commands
from redis_kvpoll.protocol.rank_commands import RankChange, RankIdentity, write_ranks
from tests.support.calls_of_scripts import GENERATION, A, B, at, replay, send, table, take_lease

FEED, CLEARED, ROOM = keys.feed("ns"), keys.cleared("ns"), keys.rooms("ns", [A])[0]
DAY_MS = 24 * 3600 * 1000
CREATED, SKIPPED, STALE = Outcome.CREATED.value, Outcome.SKIPPED.value, Outcome.STALE.value
OPENING = f"100-2/{A}/{GENERATION}"
"""The mark of an opening that is in the feed below."""
WRITE = f"100-3/{A}/Transferring"
LOST, TRIMMED = f"100-9/{A}/{GENERATION}", f"99-5/{A}/{GENERATION}"
MARKS = {"there": WRITE, "rank there": f"100-4/{A}/Success", "lost": LOST, "trimmed": TRIMMED, "none": ""}
MARKS |= {"lost and trimmed": f"{LOST} {TRIMMED}", "another status": f"100-3/{A}/Success"}
OPENINGS = {
    "there": (OPENING, STALE),
    "lost": (LOST, CREATED),
    "other generation": (f"100-2/{A}/{GENERATION + 1}", CREATED),
    "another entry": (f"100-3/{B}/{GENERATION}", CREATED),
    "another room": (f"100-2/{B}/{GENERATION}", CREATED),
    "one of several": (f"{LOST} {OPENING} {LOST}", STALE),
    "none of several": (f"{LOST} 100-8/{A}/{GENERATION}", CREATED),
    "one trimmed": (f"{TRIMMED} {OPENING}", STALE),
    "id alone": ("100-10//", STALE),
    "id of no clock": (f"{2**64 - 1}-7/{A}/{GENERATION}", STALE),
}
"""Marks of an opening, and what becomes of a room that has them."""


@pytest.fixture
def feed(client):
    """The feed of a shard that does not have the room any more."""
    client.xadd(FEED, {"ttl_ms": "900000", str(B): "Success"}, id="100-1")
    entry = {"ttl_ms": "900000", str(B): "Bootstrapping", str(A): "Bootstrapping", "first": str(GENERATION)}
    client.xadd(FEED, entry, id="100-2")
    client.xadd(FEED, {str(A): "Transferring"}, id="100-3")
    client.xadd(FEED, {str(A): "Bootstrapping", "rank:1": "Success"}, id="100-4")
    client.xadd(FEED, {str(A): "absent"}, id="100-5")
    client.xadd(FEED, {"by": "hand"}, id="100-10")
    client.pexpire(FEED, DAY_MS)


def outcome(client, generation=GENERATION, **item):
    """The outcome of the replay of a room."""
    return send(client, replay(A, generation=generation, **item), table())[2]


def now_us(client):
    seconds, micros = client.time()
    return seconds * 1_000_000 + micros


class TestWithMarks:
    """Another server with the same epoch: its data is a prefix of the history."""

    @pytest.mark.parametrize("case", OPENINGS)
    def test_creator_creates_what_was_lost(self, client, feed, case):
        opened, expected = OPENINGS[case]
        assert outcome(client, loss="server", opened=opened) == expected
        assert client.exists(ROOM) == (expected == CREATED)

    @pytest.mark.parametrize("opened", ["trimmed", "none", "lost and trimmed"])
    @pytest.mark.parametrize("written", ["none", "lost", "trimmed"])
    def test_trimmed_opening_creates_recent_room_only(self, client, feed, opened, written):
        """The feed does not tell: a room that was opened in the last minute is more likely to be lost than cleared."""
        marks = {"loss": "server", "opened": MARKS[opened], "written": MARKS[written]}
        assert outcome(client, generation=now_us(client) - 70_000_000, **marks) == STALE
        assert outcome(client, generation=now_us(client) - 10_000_000, **marks) == CREATED

    @pytest.mark.parametrize("written", ["there", "rank there"])
    def test_trimmed_opening_with_kept_write_is_kept(self, client, feed, written):
        generation = now_us(client) - 10_000_000
        marks = {"loss": "server", "opened": TRIMMED, "written": MARKS[written]}
        assert outcome(client, generation=generation, **marks) == STALE

    def test_cleared_generation_is_compared_as_a_number(self, client):
        client.hset(CLEARED, str(A), "999999999999999")  # of a clock before September 2001
        client.pexpire(CLEARED, DAY_MS)
        assert outcome(client) == CREATED

    def test_deleted_feed_creates_recent_room_only(self, client):
        marks = {"loss": "server", "opened": OPENING, "written": WRITE}
        assert outcome(client, **marks) == STALE
        assert outcome(client, generation=now_us(client) - 10_000_000, **marks) == CREATED

    @pytest.mark.parametrize("role", ["attached", "cleared"])
    @pytest.mark.parametrize(
        ("written", "expected"),
        [("there", STALE), *((mark, SKIPPED) for mark in ("lost", "trimmed", "none", "another status"))],
    )
    def test_attached_waits_unless_it_wrote(self, client, feed, role, written, expected):
        assert outcome(client, role=role, loss="server", opened=OPENING, written=MARKS[written]) == expected
        assert not client.exists(ROOM)

    @pytest.mark.parametrize("loss", ["data", "server", "none"])
    def test_room_that_is_there_is_merged(self, client, loss):
        at(1)(client, table())
        assert outcome(client, status="Success", loss=loss, opened=LOST) == Outcome.ADVANCED.value


class TestWithoutMarks:
    def test_lost_data_is_created_by_its_creator(self, client, feed):
        assert outcome(client, role="attached", loss="data") == SKIPPED
        assert outcome(client, loss="data", opened=OPENING) == CREATED

    def test_what_is_there_is_found_among_many(self, client):
        """They are asked for many at once: one that exists anywhere, or the length of one, is not written over."""
        (later,), (prefix,) = keys.rooms("ns", [170]), keys.prefixes("ns", [100])
        client.hset(later, mapping={"status": "Success", "generation": GENERATION + 1})
        client.pexpire(later, DAY_MS)
        client.hset(prefix, mapping={"length": 7, "generation": GENERATION - 1})
        client.pexpire(prefix, DAY_MS)
        take_lease(client, table("owner"))
        reply = send(client, replay(*range(200)), table("owner"))
        assert [code for code in reply[2::3] if code != CREATED] == [STALE]
        assert reply[2 + 170 * 3 : 4 + 170 * 3] == [STALE, "Success"]
        assert not client.exists(prefix), "the length of a former generation"
        assert sorted(map(int, client.zrange(keys.owned("ns"), 0, -1))) == [n for n in range(200) if n != 170]

    @pytest.mark.parametrize("role", ["creator", "attached"])
    def test_nothing_lost_creates_nothing(self, client, role):
        generation = now_us(client) - 10_000_000  # which a lost opening would create
        assert outcome(client, generation=generation, role=role, loss="none", opened=LOST) == STALE
        assert not client.exists(ROOM)


class TestCleared:
    """Another store may not know that its replay was answered by a clear."""

    @pytest.mark.parametrize("loss", ["data", "server"])
    def test_replayed_room_that_was_cleared_stays_cleared(self, client, loss):
        assert outcome(client) == CREATED
        assert client.hget(ROOM, "replayed") == "1"
        send(client, room_commands.clear(A), table())
        assert client.hget(CLEARED, str(A)) == str(GENERATION)
        assert DAY_MS - 60_000 < client.pttl(CLEARED) <= DAY_MS
        lost = {"loss": loss, "opened": f"9999999999999-1/{A}/{GENERATION}"}
        assert outcome(client, **lost) == STALE
        assert outcome(client, generation=GENERATION - 1, **lost) == STALE
        assert outcome(client, generation=GENERATION + 1, **lost) == CREATED

    @pytest.mark.parametrize("how", ["one by one", "together", "replayed"])
    def test_replayed_room_that_all_ranks_cleared_stays_cleared(self, client, how):
        """The last one notes it, for as long as a clear without ranks does."""
        world_size = int(table("rank").world_size)
        ranks = [table("rank", rank=str(rank)) for rank in range(world_size)]
        for mine in ranks:
            send(client, replay(A), mine)
        assert not client.exists(CLEARED)
        if how == "together":
            identities = [RankIdentity(rank, world_size) for rank in range(world_size)]
            send(client, write_ranks([RankChange(A, one, GENERATION, clears=True) for one in identities]), table())
        else:
            for mine in ranks:
                send(client, replay(A, role="cleared") if how == "replayed" else room_commands.clear(A), mine)
        assert not client.exists(ROOM)
        assert client.hget(CLEARED, str(A)) == str(GENERATION)
        assert DAY_MS - 60_000 < client.pttl(CLEARED) <= DAY_MS

    def test_clear_of_other_room_leaves_nothing(self, client):
        send(client, room_commands.update_status(A, 1), table())
        send(client, room_commands.clear(A), table())
        assert not client.exists(CLEARED)
