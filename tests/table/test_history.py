"""Reading the feed: parsed entries, and the history of one room."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from redis_kvpoll import Change, FeedOffError, KVPoll
from redis_kvpoll.protocol import keys
from redis_kvpoll.protocol.feed import changes
from redis_kvpoll.protocol.feed_reader import PAGE, Tail
from tests.support.feeds import a_round
from tests.support.fuzzing import examples

ROOM = 2**64 - 1


def parsed(text):
    return changes(b"1763800000421-3", [word.encode() for word in text.split()])


class TestParsing:
    def test_entry_gives_all_fields(self):
        found = parsed("ttl_ms 900000 1 Bootstrapping 18446744073709551615 Transferring")
        first = Change("1763800000421-3", 1763800000.421, 1, KVPoll.Bootstrapping, None, 900.0)
        assert found == [first, first._replace(room=ROOM, status=KVPoll.Transferring)]

    def test_ttl_applies_to_the_rooms_after_it(self):
        found = parsed("1 Failed reason why ttl_ms 5 2 Failed ttl_ms 7000 3 Success 4 absent")
        assert [(c.room, c.ttl, c.reason) for c in found] == [
            (1, None, "why"),
            (2, 0.005, None),
            (3, 7.0, None),
            (4, None, None),
        ]
        assert found[3].status is None

    def test_unknown_names_are_skipped(self):
        found = parsed("begun feed generation 17 1 Failed rank 3 reason why 2 Success")
        assert [(c.room, c.status, c.reason) for c in found] == [
            (1, KVPoll.Failed, "why"),
            (2, KVPoll.Success, None),
        ]

    @pytest.mark.parametrize(
        "words",
        [
            "1 Banana",
            "01 Success",
            "-1 Success",
            "+1 Success",
            "1_0 Success",
            "٣ Success",
            f"{2**64} Success",
            "9" * 5000 + " Success",
            "reason why",
            "1 Banana reason why",
            "1",
            "ttl_ms x",
            "",
        ],
    )
    def test_malformed_words_give_no_change(self, words):
        assert parsed(words) == []

    @pytest.mark.parametrize("ttl", [b"x", b"-5", b"1.5", b"", b"9" * 14, b"9" * 5000, None, 5])
    def test_room_after_malformed_ttl_is_skipped(self, ttl):
        """A mirror that took it would keep it for good."""
        words = [
            b"1",
            b"Failed",
            b"ttl_ms",
            ttl,
            b"2",
            b"Success",
            b"reason",
            b"why",
            b"ttl_ms",
            b"900",
            b"3",
            b"Success",
        ]
        assert [(change.room, change.reason) for change in changes(b"1-1", words)] == [(1, None), (3, None)]

    word = (
        st.binary(max_size=8) | st.sampled_from([b"ttl_ms", b"reason", b"1", b"0", b"Success", b"absent"]) | st.none()
    )

    @given(st.binary(max_size=30), st.lists(word, max_size=12))
    @example(b"1-1", [b"1", b"Failed", b"reason", b"\xff"])
    @examples(300)
    def test_any_bytes_parse_without_error(self, entry_id, fields):
        for change in changes(entry_id, fields):
            assert 0 <= change.room <= ROOM
            assert change.reason is None or change.reason.encode()


class TestHistory:
    def test_history_lists_changes_oldest_first(self, make_store):
        store = make_store(ttl=100, terminal_ttl=50)
        store.update_many({ROOM: 1, 2: 1})
        store.touch([2, ROOM])
        store.update_status(2, 3)
        store.abort(ROOM, "why")
        store.clear_many([2, ROOM])
        found = store.history(ROOM)
        assert [(c.room, c.status, c.reason, c.ttl) for c in found] == [
            (ROOM, KVPoll.Bootstrapping, None, 100.0),
            (ROOM, KVPoll.Bootstrapping, None, 100.0),
            (ROOM, KVPoll.Failed, "why", 50.0),
            (ROOM, None, None, None),
        ]
        assert [c.at for c in found] == sorted(c.at for c in found)
        assert store.history(7) == []

    def test_history_reads_many_pages(self, make_store, client):
        store = make_store(shards=2)
        store.update_many({5: 1, 6: 1})
        pipeline = client.pipeline(transaction=False)
        feed = keys.feed(keys.tag("default", 2, 5))
        for number in range(2 * PAGE + 1):
            fields = {"5": "Transferring", "reason": str(number)} if number % 500 == 0 else {"8": "Success"}
            pipeline.xadd(feed, fields)
        pipeline.execute()
        found = store.history(5)
        assert [c.reason for c in found] == [None, "0", "500", "1000", "1500", "2000"]

    def test_history_without_feed_is_refused(self, make_store):
        store = make_store(namespace="prod", feed_length=0)
        with pytest.raises(
            FeedOffError, match=r"namespace 'prod' was opened with feed_length=0.* use another namespace"
        ):
            store.history(1)
        with pytest.raises(FeedOffError):
            a_round(store, Tail(0))
