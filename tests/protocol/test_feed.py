"""The change feed: what each operation appends, and how the stream is bounded and expires."""

from __future__ import annotations

import random
import threading

import pytest

from redis_kvpoll import KVPoll, NamespaceMismatchError, Outcome, ServerRefusedError, StatusStore
from redis_kvpoll.protocol import keys, room_commands
from redis_kvpoll.protocol.script_specs import SNAPSHOT
from tests.support import real
from tests.support.contexts import context
from tests.support.feeds import Replay, entries, words

ROOM = 2**64 - 1
FEED = "kvpoll:{default}:feed"
DAY_MS = 24 * 3600 * 1000
CONTEXT = context(namespace="default")


@pytest.fixture
def store(make_store):
    return make_store(ttl=900, terminal_ttl=300)


def after(client, call):
    """The words that a call appends."""
    before = entries(client)
    call()
    return words(client)[len(before) :]


class TestAppended:
    def test_update_appends_ttl_room_and_status(self, store, client):
        assert after(client, lambda: store.update_status(ROOM, 1)) == [
            ["ttl_ms", "900000", str(ROOM), "Bootstrapping", "first", ""]
        ]
        assert after(client, lambda: store.update_status(ROOM, 4)) == [["ttl_ms", "300000", str(ROOM), "Success"]]
        assert after(client, lambda: store.update_status(ROOM, 0)) == [["ttl_ms", "300000", str(ROOM), "Failed"]]

    def test_update_many_is_one_entry_with_shared_ttls(self, store, client):
        updates = {0: 1, 1: 2, 2: 4, 3: 4, 4: 3, 5: 0}
        expected = "ttl_ms 900000 0 Bootstrapping first _ 1 WaitingForInput first _ ttl_ms 300000 2 Success first _"
        expected += " 3 Success first _ ttl_ms 900000 4 Transferring first _"
        found = after(client, lambda: store.update_many(updates))
        assert [[word or "_" for word in fields] for fields in found] == [expected.split()]

    def test_call_that_changes_nothing_appends_nothing(self, make_store, client):
        store = make_store(policy="strict")
        store.update_many({1: 3, 2: 1})  # 1 is skipped
        store.update_many({2: 3, 3: 1})
        store.abort(3, "why")
        calls = (
            lambda: store.update_status(2, 3),  # UNCHANGED
            lambda: store.update_many({2: 1, 3: 4}),
            lambda: store.update_many({7: 0, 8: 4}),  # SKIPPED
            lambda: store.abort(3, "again"),
            lambda: store.abort(9),
            lambda: store.record_failure(3, "again"),
            lambda: store.record_failure(9, "absent"),
            lambda: store.clear(9),
            lambda: store.clear_many([8, 9]),
            lambda: store.touch([3, 9]),  # at its end, and absent
            lambda: store.set_decode_prefix_len(2, 7),
            lambda: store.pop_decode_prefix_len(2),
            lambda: store.poll([2, 3]),
            lambda: store.entry(2),
            lambda: list(store.rooms()),
        )
        assert [after(client, call) for call in calls] == [[]] * len(calls)

    def test_failure_appends_its_reason_once(self, store, client):
        store.update_many({1: 3, 2: 3})
        assert after(client, lambda: store.abort(1, "naïve ☃\n")) == [
            ["ttl_ms", "300000", "1", "Failed", "reason", "naïve ☃\n"]
        ]
        assert after(client, lambda: store.record_failure(2, "cause")) == [["2", "Transferring", "reason", "cause"]]
        assert after(client, lambda: store.abort(2, "symptom")) == [["ttl_ms", "300000", "2", "Failed"]]

    def test_clear_appends_absent(self, store, client):
        store.update_many({1: 1, 2: 1})
        assert after(client, lambda: store.clear(1)) == [["1", "absent"]]
        assert after(client, lambda: store.clear_many([1, 2])) == [["2", "absent"]]

    def test_clear_of_key_of_another_type_appends_absent(self, store, client):
        """A mirror must drop the room."""
        store.update_status(1, 1)
        client.delete("kvpoll:{default}:room:1")
        client.set("kvpoll:{default}:room:1", "by hand", ex=600)
        assert after(client, lambda: store.clear(1)) == [["1", "absent"]]

    def test_touch_appends_live_rooms(self, store, client):
        store.update_many({1: 3, 2: 4, 3: 1})
        expected = ["ttl_ms", "900000", "1", "Transferring", "3", "Bootstrapping"]
        assert after(client, lambda: store.touch([1, 2, 3, 4])) == [expected]

    def test_other_rooms_of_failing_batch_are_appended(self, store, client):
        """Other rooms of the batch were written, so they are in the feed."""
        client.set("kvpoll:{default}:room:5", "by hand", ex=600)
        with pytest.raises(Exception, match="room 5"):
            store.update_many({4: 1, 5: 1, 6: 1})
        assert words(client) == [
            ["ttl_ms", "900000", "4", "Bootstrapping", "first", "", "6", "Bootstrapping", "first", ""]
        ]

    def test_large_batch_makes_entries_of_sixteen_rooms(self, store, client):
        batch = dict.fromkeys(range(1000), KVPoll.Bootstrapping)
        appended = after(client, lambda: store.update_many(batch))
        assert [len(fields) for fields in appended] == [2 + 16 * 4] * 62 + [2 + 8 * 4]
        assert all(fields[:2] == ["ttl_ms", "900000"] for fields in appended), "each entry is complete by itself"
        assert [room for fields in appended for room in fields[2::4]] == list(map(str, batch))
        assert len(after(client, lambda: store.touch(range(32)))) == 2
        assert len(after(client, lambda: store.clear_many(range(17)))) == 2


class TestReply:
    """A mirror takes its own process's writes from the reply, tagged with the id."""

    def run(self, client, command, context=CONTEXT):
        (call,) = command.calls(context)
        return client.eval(call.spec.script.source, *call.words()[2:])

    def last(self, client):
        return client.xrevrange(FEED, count=1)[0][0]

    def test_reply_begins_with_last_entry_id(self, client):
        for command in (
            room_commands.update_many(dict.fromkeys(range(40), 1)),
            room_commands.touch(range(40)),
            room_commands.record_failure(1, "why"),
            room_commands.abort(1, "why"),
            room_commands.clear_many(range(40)),
        ):
            count = len(entries(client))
            assert self.run(client, command)[0] == self.last(client)
            assert len(entries(client)) == count + -(-len(command.rooms) // 16)

    def test_batched_calls_keep_words_of_each_room(self, client):
        self.run(client, room_commands.update_many(dict.fromkeys(range(20), 3)))
        one, *others = [room_commands.abort(room, f"why {room}").calls(CONTEXT)[0] for room in range(20)]
        together = one.merged_with(others)
        client.eval(together.spec.script.source, *together.words()[2:])
        assert [len(fields) for fields in words(client)[2:]] == [2 + 16 * 4, 2 + 4 * 4]
        replayed = Replay(client).read_on().table
        assert replayed == {room: [KVPoll.Failed, f"why {room}", 300.0] for room in range(20)}

    def test_reply_without_change_has_no_id(self, client):
        self.run(client, room_commands.update_status(1, 3))
        for command in (
            room_commands.update_status(1, 2),
            room_commands.clear(2),
            room_commands.abort(2, "why"),
            room_commands.touch([2]),
        ):
            assert self.run(client, command)[0] is None

    def test_snapshot_has_feed_position(self, client):
        snapshot = room_commands.Command("snapshot", SNAPSHOT, [1, 2], [], lambda *_: [], lambda *_: None)
        begun = self.run(client, snapshot)
        assert words(client) == [["begun", "feed"]]
        assert begun == [self.last(client), None, -2, None, -2]
        assert DAY_MS - 60_000 < client.pttl(FEED) <= DAY_MS
        self.run(client, room_commands.update_status(2, 3))
        feed_id, *replies = self.run(client, snapshot)
        assert feed_id == self.last(client) != begun[0]
        assert replies[:3] == [None, -2, "Transferring"]
        assert 890_000 < replies[3] <= 900_000
        assert len(entries(client)) == 2


class TestStream:
    def test_each_shard_has_its_own_feed(self, make_store, client):
        make_store(namespace="prod", shards=4).update_many(dict.fromkeys(range(100), 1))
        found = set()
        for tag in keys.tags("prod", 4):
            here = {int(room) for fields in words(client, tag) for room in fields[2::4]}
            assert {keys.tag("prod", 4, room) for room in here} == {tag}
            found |= here
        assert found == set(range(100))
        assert len(list(client.scan_iter("*:feed"))) == 4

    def test_feed_length_is_bounded(self, make_store, client):
        """Redis trims whole nodes of 100 entries; fakeredis to the number itself."""
        store = make_store(feed_length=200)
        for status in (1, 2, 3):
            store.update_many(dict.fromkeys(range(3200), status))
        assert 200 <= client.xlen(FEED) <= 300
        assert words(client)[-1][-2:] == ["3199", "Transferring"]

    def test_feed_ttl_is_a_day_renewed_by_create_and_touch(self, store, client):
        store.update_status(1, 1)
        assert DAY_MS - 60_000 < client.pttl(FEED) <= DAY_MS
        for call, renews in (
            (lambda: store.update_status(1, 2), False),
            (lambda: store.touch([1]), True),
            (lambda: store.record_failure(1, "why"), False),
            (lambda: store.abort(1), False),
            (lambda: store.clear(1), False),
            (lambda: store.update_many({1: 3, 2: 1}), True),
        ):
            client.pexpire(FEED, 100_000)
            assert after(client, call), "it appends"
            assert (client.pttl(FEED) > 100_000) is renews

    @pytest.mark.parametrize(
        "call",
        [
            lambda store: store.update_status(1, 2),
            lambda store: store.abort(1),
            lambda store: store.record_failure(1, "why"),
            lambda store: store.clear(1),
            lambda store: store.touch([1]),
        ],
    )
    def test_deleted_feed_restarts_with_ttl(self, store, client, call):
        store.update_status(1, 1)
        client.delete(FEED)
        call(store)
        assert client.pttl(FEED) > DAY_MS - 60_000
        assert len(entries(client)) == 1

    def test_feed_length_0_appends_nothing(self, make_store, client):
        store = make_store(feed_length=0)
        assert store.update_many(dict.fromkeys(range(40), 1))[7].outcome is Outcome.CREATED
        assert store.record_failure(1, "why") is True
        assert (store.abort(1).outcome, store.touch([2]), store.clear(3)) == (Outcome.FAILED, 1, KVPoll.Bootstrapping)
        assert not client.exists(FEED)
        second = make_store()
        second.update_status(50, 1)  # adopts it
        assert not client.exists(FEED)
        with pytest.raises(
            NamespaceMismatchError, match="has feed_length=0, but this store was made with feed_length=100"
        ):
            make_store(feed_length=100).update_status(50, 1)

    def test_reads_of_feed_of_another_type_are_refused(self, make_store, client, server):
        """A write begins the feed anew: see test_foreign_entries.py."""
        if server.is_fake:
            pytest.skip("fakeredis has another error message")
        store = make_store()
        client.set(FEED, "by hand", ex=600)
        for call in (lambda: store.history(1), lambda: next(iter(store.tail()))):
            with pytest.raises(ServerRefusedError, match=r"WRONGTYPE.*another type.*kvpoll doctor"):
                call()
        assert store.update_status(1, 1).changed
        assert [change.status for change in store.history(1)] == [KVPoll.Bootstrapping]


class TestReplayFeed:
    """The table can be rebuilt from the feed alone."""

    @pytest.mark.parametrize("shards", [1, 3])
    def test_feed_of_random_batches_rebuilds_table(self, make_store, client, policy, shards):
        chance = random.Random(f"{policy}{shards}")
        store = make_store(policy=policy, shards=shards)
        rooms = range(300)
        for _ in range(25):
            some = chance.sample(rooms, chance.choice((1, 15, 16, 17, 64, 200)))
            what = chance.randrange(8)
            if what < 4:
                store.update_many({room: chance.choice(tuple(KVPoll)) for room in some})
            elif what == 4:
                store.clear_many(some)
            elif what == 5:
                store.touch(some)
            else:
                for room in some[:20]:
                    chance.choice((store.abort, store.record_failure))(room, f"cause {chance.random()}")
        replayed = Replay(client, keys.tags("default", shards)).read_on().table
        assert {room: status for room, (status, *_) in replayed.items()} == {
            room: status for room, status in zip(rooms, store.poll(rooms), strict=True) if status is not None
        }
        assert 0 < len(replayed) < len(rooms)
        for room, (_, reason, left) in replayed.items():
            entry = store.entry(room)
            assert entry.reason == reason
            assert left - 60 < entry.ttl <= left

    @pytest.mark.parametrize("kind", ["valkey", "redis", "redis62"])
    def test_feed_of_concurrent_writers_rebuilds_table(self, kind):
        """Entries are in the order of their effects, whichever process wrote them."""
        server = real.shared(kind)
        rooms = range(20)

        def write(seed):
            chance = random.Random(seed)
            with StatusStore.from_url(server.url) as store:
                for _ in range(60):
                    some = chance.sample(rooms, 18)
                    what = chance.randrange(4)
                    if what == 0:
                        store.clear_many(some)
                    elif what == 1:
                        store.abort(some[0], f"by {seed}")
                    else:
                        store.update_many({room: chance.choice(tuple(KVPoll)) for room in some})

        try:
            threads = [threading.Thread(target=write, args=(seed,)) for seed in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
            with StatusStore.from_url(server.url) as store, server.client() as client:
                replayed = Replay(client).read_on().table
                found = {room: store.entry(room) for room in rooms}
            there = {room: (entry.status, entry.reason) for room, entry in found.items() if entry}
            assert {room: (status, reason) for room, (status, reason, _) in replayed.items()} == there
        finally:
            assert real.emptied(server) == []
