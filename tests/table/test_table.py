"""Each operation on the table, on every server, blocking and asyncio."""

from __future__ import annotations

import pytest

from redis_kvpoll import (
    CorruptEntryError,
    KVPoll,
    KVTransferError,
    Outcome,
    RoomNotFoundError,
    StoreClosedError,
    Update,
)
from redis_kvpoll.model import Entry
from tests.support.calls import put

ROOM = 2**64 - 1  # the largest id, which tonumber in Lua would corrupt
KEY = f"kvpoll:{{default}}:room:{ROOM}"
PREFIX = f"kvpoll:{{default}}:prefix:{ROOM}"


class TestUpdate:
    def test_update_creates_room_with_readable_fields(self, store, client):
        assert store.update_status(ROOM, KVPoll.Bootstrapping) == Update(Outcome.CREATED, KVPoll.Bootstrapping)
        fields = client.hgetall(KEY)
        assert fields.keys() == {"status", "generation", "opened_ms", "updated_ms"}
        assert fields["status"] == "Bootstrapping"
        seconds, _ = client.time()
        assert abs(int(fields["opened_ms"]) / 1000 - seconds) < 60
        assert fields["opened_ms"] == fields["updated_ms"]

    def test_plain_ints_are_statuses(self, store):
        assert store.update_status(1, 3).status is KVPoll.Transferring

    def test_status_never_goes_back(self, store):
        put(store, 1, KVPoll.Transferring)
        assert store.update_status(1, KVPoll.WaitingForInput) == Update(Outcome.UNCHANGED, KVPoll.Transferring)

    def test_failed_is_final(self, store):
        put(store, 1, KVPoll.Transferring)
        assert store.update_status(1, KVPoll.Failed) == Update(Outcome.FAILED, KVPoll.Failed)
        assert store.update_status(1, KVPoll.Failed) == Update(Outcome.UNCHANGED, KVPoll.Failed)

    def test_failed_creates_no_room(self, make_store, policy, client):
        store = make_store(policy=policy)
        assert store.update_status(ROOM, KVPoll.Failed) == Update(Outcome.SKIPPED, None)
        assert not client.exists(KEY)

    def test_success_becomes_nothing_but_failed(self, store):
        put(store, 1, KVPoll.Success)
        assert store.update_status(1, KVPoll.Transferring).outcome is Outcome.UNCHANGED
        assert store.update_status(1, KVPoll.Failed).outcome is Outcome.FAILED

    @pytest.mark.parametrize("status", [KVPoll.Transferring, KVPoll.Success])
    def test_only_compat_creates_room_at_late_status(self, make_store, status):
        assert make_store(policy="compat", namespace="a").update_status(1, status).outcome is Outcome.CREATED
        assert make_store(policy="strict", namespace="b").update_status(1, status).outcome is Outcome.SKIPPED

    def test_only_compat_leaves_failed_and_drops_reason(self, make_store):
        compat, strict = make_store(policy="compat", namespace="a"), make_store(policy="strict", namespace="b")
        for store in (compat, strict):
            put(store, 1, KVPoll.Transferring)
            store.abort(1, "first")
        assert compat.update_status(1, KVPoll.Success) == Update(Outcome.ADVANCED, KVPoll.Success)
        assert compat.failure_reason(1) is None
        assert strict.update_status(1, KVPoll.Success) == Update(Outcome.UNCHANGED, KVPoll.Failed)
        assert strict.failure_reason(1) == "first"

    def test_update_many_answers_like_single_updates(self, make_store, policy):
        store = make_store(policy=policy)
        put(store, 2, KVPoll.Transferring)
        put(store, 3, KVPoll.Failed)
        incoming = {1: KVPoll.Bootstrapping, 2: KVPoll.WaitingForInput, 3: KVPoll.Success, 4: KVPoll.Failed}
        twin = make_store(policy=policy, namespace="twin")
        put(twin, 2, KVPoll.Transferring)
        put(twin, 3, KVPoll.Failed)
        assert store.update_many(incoming) == {room: twin.update_status(room, s) for room, s in incoming.items()}

    def test_update_many_takes_more_than_one_call(self, store):
        updates = store.update_many(dict.fromkeys(range(2_001), KVPoll.Bootstrapping))
        assert list(updates) == list(range(2_001))
        assert {update.outcome for update in updates.values()} == {Outcome.CREATED}

    def test_empty_batches_send_nothing(self, store, client):
        assert store.update_many({}) == {}
        assert (store.poll([]), store.touch([]), store.clear_many([])) == ([], 0, {})
        assert client.dbsize() == 0


class TestFailure:
    def test_abort_sets_failed_and_reason_together(self, store, client):
        put(store, ROOM, KVPoll.WaitingForInput)
        assert store.abort(ROOM) == Update(Outcome.FAILED, KVPoll.Failed)
        assert client.hget(KEY, "reason") == "Aborted by AbortReq."
        assert store.failure_reason(ROOM) == "Aborted by AbortReq."

    def test_abort_of_absent_room_writes_nothing(self, store, client):
        assert store.abort(ROOM, "too late") == Update(Outcome.SKIPPED, None)
        assert not client.exists(KEY)

    def test_first_reason_is_kept(self, store):
        put(store, 1, KVPoll.Transferring)
        assert store.record_failure(1, "cause") is True
        assert store.record_failure(1, "symptom") is False
        assert store.abort(1, "symptom").outcome is Outcome.FAILED
        assert store.abort(1, "symptom").outcome is Outcome.UNCHANGED
        assert store.failure_reason(1) == "cause"

    def test_repeated_record_failure_returns_true(self, store):
        put(store, 1, KVPoll.Transferring)
        assert [store.record_failure(1, "cause") for _ in range(2)] == [True, True]

    def test_record_failure_keeps_status_and_ttl(self, store, client):
        put(store, ROOM, KVPoll.Transferring)
        client.pexpire(KEY, 100_000)
        store.record_failure(ROOM, "cause")
        assert store.get(ROOM) is KVPoll.Transferring
        assert 0 < client.pttl(KEY) <= 100_000

    def test_absent_room_stores_no_reason(self, store, client):
        assert store.record_failure(ROOM, "cause") is False
        assert store.failure_reason(ROOM) is None
        assert not client.exists(KEY)

    def test_reasons_are_cut_and_keep_any_text(self, store):
        for room, reason in enumerate(("x" * 5000, "naïve ☃\n\x1b[31m", "lone \udc80 surrogate")):
            put(store, room, KVPoll.Transferring)
            store.abort(room, reason)
        assert store.failure_reason(0) == "x" * 999 + "…"
        assert store.failure_reason(1) == "naïve ☃\n\x1b[31m"
        assert store.failure_reason(2) == "lone ? surrogate"

    def test_failure_exception_clears_and_raises(self, store, client):
        put(store, ROOM, KVPoll.Transferring)
        store.set_decode_prefix_len(ROOM, 7)
        store.abort(ROOM, "peer \x1b[31mgone")
        with pytest.raises(KVTransferError) as caught:
            store.failure_exception(ROOM)
        assert (caught.value.room, caught.value.reason) == (ROOM, "peer \x1b[31mgone")
        assert "\x1b" not in str(caught.value)
        assert client.exists(KEY, PREFIX) == 0
        with pytest.raises(KVTransferError, match="no reason was recorded"):
            store.failure_exception(ROOM)


class TestReading:
    def test_absent_room_reads_as_none_or_raises(self, store):
        assert store.get(1) is None
        assert store.get(1, "gone") == "gone"
        assert store.entry(1) is None
        assert store.poll([1, 2]) == [None, None]
        with pytest.raises(RoomNotFoundError, match=r"^check_status: room 1 is not in the table"):
            store.check_status(1)
        with pytest.raises(KeyError):
            store.check_status(1)

    def test_poll_keeps_order_and_duplicates(self, store):
        put(store, 5, KVPoll.Transferring)
        put(store, 0, KVPoll.Failed)
        assert store.poll(iter([5, 9, 0, 5])) == [KVPoll.Transferring, None, KVPoll.Failed, KVPoll.Transferring]

    def test_entry_has_every_field(self, make_store):
        store = make_store(ttl=100.0, terminal_ttl=50.0)
        store.update_status(ROOM, KVPoll.Bootstrapping)
        store.set_decode_prefix_len(ROOM, 7)
        store.abort(ROOM, "why")
        entry = store.entry(ROOM)
        assert isinstance(entry, Entry)
        assert (entry.room, entry.status, entry.reason, entry.decode_prefix_len) == (ROOM, KVPoll.Failed, "why", 7)
        assert 0 < entry.opened_at <= entry.updated_at
        assert 0 < entry.ttl <= 50

    def test_rooms_and_counts_list_the_table(self, store):
        store.update_many({0: 1, 1: 2, ROOM: 4, 7: 4})
        store.abort(1, "why")
        assert sorted(store.rooms()) == [0, 1, 7, ROOM]
        assert sorted(store.rooms(KVPoll.Success)) == [7, ROOM]
        assert store.counts() == {
            KVPoll.Failed: 1,
            KVPoll.Bootstrapping: 1,
            KVPoll.WaitingForInput: 0,
            KVPoll.Transferring: 0,
            KVPoll.Success: 2,
        }

    def test_rooms_yields_each_room_once(self, store):
        store.update_many(dict.fromkeys(range(5_000), KVPoll.Bootstrapping))
        assert sorted(store.rooms()) == list(range(5_000))

    def test_foreign_keys_are_no_rooms(self, store, client):
        store.update_status(1, KVPoll.Bootstrapping)
        for name in ("room:x", "room:01", "room:-1", f"room:{2**64}", "other:5"):
            client.set(f"kvpoll:{{default}}:{name}", "?", ex=600)
        assert list(store.rooms()) == [1]

    def test_unknown_status_is_an_error_that_names_the_room(self, store, client):
        client.hset(KEY, "status", "Banana")
        client.expire(KEY, 600)
        for read in (store.get, store.entry, lambda room: store.poll([1, room])):
            with pytest.raises(CorruptEntryError, match=f"room {ROOM} holds status 'Banana'"):
                read(ROOM)
        with pytest.raises(CorruptEntryError, match="Banana"):
            store.update_status(ROOM, KVPoll.Success)
        assert client.hget(KEY, "status") == "Banana"
        assert store.clear(ROOM) is None
        assert store.get(ROOM) is None

    def test_key_of_another_type_is_named_and_clearable(self, store, client):
        store.update_status(1, KVPoll.Transferring)
        client.set(KEY, "by hand", ex=600)
        for read in (store.get, store.entry, lambda room: store.poll([1, room]), lambda room: store.counts()):
            with pytest.raises(CorruptEntryError, match=f"room {ROOM} holds a key of another type .*WRONGTYPE"):
                read(ROOM)
        assert store.clear_many([ROOM, 1]) == {ROOM: None, 1: KVPoll.Transferring}
        assert not client.exists(KEY)

    def test_error_of_a_listing_names_the_method(self, store, client):
        """Each is made of several calls, none of which a caller knows."""
        client.set(KEY, "by hand", ex=600)
        lists = {
            "counts": store.counts,
            "rooms": lambda: list(store.rooms(KVPoll.Success)),
            "rows": lambda: list(store.rows()),
        }
        for name in ("counts", "rooms"):  # a row of a corrupt room has no status
            with pytest.raises(CorruptEntryError, match=f"^{name}: room {ROOM} "):
                lists[name]()
        store.close()
        for name, read in lists.items():
            with pytest.raises(StoreClosedError, match=f"^{name}: "):
                read()

    @pytest.mark.parametrize("mode", ["none", "prefill"])
    def test_key_of_another_type_blocks_no_other_write(self, make_store, client, mode):
        store = make_store(mode=mode)
        client.set(KEY, "by hand", ex=600)
        corrupt = {"match": f"room {ROOM} holds a key of another type .*WRONGTYPE"}
        with pytest.raises(CorruptEntryError, **corrupt):
            store.update_many({1: KVPoll.Bootstrapping, ROOM: KVPoll.Failed, 2: KVPoll.Success})
        assert store.poll([1, 2]) == [KVPoll.Bootstrapping, KVPoll.Success]
        client.pexpire("kvpoll:{default}:room:1", 100_000)
        with pytest.raises(CorruptEntryError, **corrupt):
            store.touch([ROOM, 1])
        assert client.pttl("kvpoll:{default}:room:1") > 100_000
        for write in (store.abort, lambda room: store.record_failure(room, "why")):
            with pytest.raises(CorruptEntryError, **corrupt):
                write(ROOM)
        assert client.get(KEY) == "by hand"

    def test_prefix_key_of_another_type_blocks_no_other_failure(self, make_store, client):
        store = make_store(mode="prefill")
        store.update_many({1: 1, ROOM: 1, 2: 1})
        client.set(PREFIX, "by hand", ex=600)
        for write in (lambda: store.update_many(dict.fromkeys((1, ROOM, 2), 0)), lambda: store.abort(ROOM)):
            with pytest.raises(CorruptEntryError, match=f"room {ROOM} holds a key of another type"):
                write()
        assert store.poll([1, ROOM, 2]) == [KVPoll.Failed, KVPoll.Bootstrapping, KVPoll.Failed]


class TestClearing:
    def test_clear_returns_status_and_deletes_keys(self, store, client):
        put(store, ROOM, KVPoll.Transferring)
        store.set_decode_prefix_len(ROOM, 7)
        assert store.clear(ROOM) is KVPoll.Transferring
        assert store.clear(ROOM) is None
        assert client.exists(KEY, PREFIX) == 0

    def test_clear_many_returns_each_status(self, store):
        put(store, 1, KVPoll.Transferring)
        assert store.clear_many([1, 2, 1]) == {1: KVPoll.Transferring, 2: None}


class TestDecodePrefixLength:
    def test_length_may_precede_room_and_is_popped_once(self, store):
        store.set_decode_prefix_len(1, 4096)
        assert store.pop_decode_prefix_len(1) == 4096
        assert store.pop_decode_prefix_len(1) == 0

    def test_last_length_counts(self, store):
        store.set_decode_prefix_len(1, 1)
        store.set_decode_prefix_len(1, 2)
        assert store.pop_decode_prefix_len(1) == 2

    def test_clear_drops_length_of_absent_room(self, store):
        store.set_decode_prefix_len(1, 7)
        store.clear(1)
        assert store.pop_decode_prefix_len(1) == 0

    @pytest.mark.parametrize(("mode", "left"), [("prefill", 0), ("decode", 7), ("none", 7)])
    def test_failed_drops_length_in_mode_prefill_only(self, make_store, mode, left):
        store = make_store(mode=mode)
        for room in (1, 2, 3, 4):
            store.set_decode_prefix_len(room, 7)
        store.update_many({2: 1, 4: 1})
        store.update_status(1, KVPoll.Failed)  # absent
        store.update_many({2: KVPoll.Failed, 3: KVPoll.Failed})
        store.abort(4)
        assert [store.pop_decode_prefix_len(room) for room in (1, 2, 3, 4)] == [left] * 4
