"""Handles: a write through one generation of a room never changes another."""

from __future__ import annotations

import asyncio
import copy
import inspect
import pickle

import pytest
import time_machine

from redis_kvpoll import (
    CorruptEntryError,
    InvalidInputError,
    KVPoll,
    Outcome,
    Room,
    RoomBusyError,
    RoomNotFoundError,
    StoreClosedError,
    Update,
)
from redis_kvpoll.protocol.script_specs import CLEAR_FENCED, OPEN, WRITE
from tests.support.servers import keys_without_ttl

ROOM = 2**53 + 1
KEY = f"kvpoll:{{default}}:room:{ROOM}"
EPOCH = "kvpoll:{default}:epoch"
PREFIX = f"kvpoll:{{default}}:prefix:{ROOM}"


def dump(client):
    """All rooms and prefix lengths on the server."""
    keys = [*client.scan_iter("kvpoll:*:room:*"), *client.scan_iter("kvpoll:*:prefix:*")]
    return {key: client.hgetall(key) for key in keys}


async def awaited(method, *args):
    answer = method(*args)
    return await answer if inspect.isawaitable(answer) else answer


@pytest.mark.parametrize("method", ["status", "decode_prefix_len", "update", "clear"])
def test_error_names_the_called_method(store, method):
    room = store.open(ROOM)
    store.close()
    with pytest.raises(StoreClosedError, match=rf"^{method}: "):
        getattr(room, method)(*[KVPoll.Success] * (method == "update"))


class TestOpen:
    def test_opened_room_has_status_request_and_generation(self, store, client):
        room = store.open(ROOM, request="rid", status=KVPoll.WaitingForInput)
        fields = client.hgetall(KEY)
        assert (fields["status"], fields["request"]) == ("WaitingForInput", "rid")
        assert (room.id, room.generation, room.request) == (ROOM, int(fields["generation"]), "rid")
        assert room.status() is KVPoll.WaitingForInput
        entry = store.entry(ROOM)
        assert (entry.generation, entry.request, entry.owner) == (room.generation, "rid", None)
        assert not keys_without_ttl(client)

    def test_same_request_reopens_its_room(self, store):
        room = store.open(ROOM, request="rid")
        room.update(KVPoll.Transferring)
        again = store.open(ROOM, request="rid")
        assert again == room
        assert again.status() is KVPoll.Transferring

    def test_unnamed_requests_are_all_different(self, store):
        store.open(ROOM)
        with pytest.raises(RoomBusyError):
            store.open(ROOM)

    def test_busy_error_names_request_status_and_age(self, store):
        store.open(ROOM, request="one").update(KVPoll.Transferring)
        with pytest.raises(RoomBusyError, match=r"Transferring, opened \d+\.\d s ago by request one;") as caught:
            store.open(ROOM, request="two")
        error = caught.value
        assert (error.room, error.status, error.request, error.owner) == (ROOM, KVPoll.Transferring, "one", None)
        assert 0 <= error.age < 60

    def test_success_is_busy_until_cleared(self, store):
        store.open(ROOM, request="one").update(KVPoll.Success)
        with pytest.raises(RoomBusyError):
            store.open(ROOM, request="two")

    def test_failed_room_is_replaced_completely(self, store, client):
        old = store.open(ROOM, request="one")
        old.set_decode_prefix_len(7)
        old.fail("why")
        new = store.open(ROOM, request="two")
        assert new.generation > old.generation
        assert client.hgetall(KEY).keys() == {"status", "generation", "request", "opened", "updated_ms"}
        assert not client.exists(PREFIX)
        assert old.update(KVPoll.Success) == Update(Outcome.STALE, KVPoll.Bootstrapping)

    def test_failed_request_reopens_its_failed_room(self, store):
        store.open(ROOM, request="one").fail("why")
        assert store.open(ROOM, request="one").status() is KVPoll.Failed

    def test_plainly_created_room_is_busy(self, store):
        store.update_status(ROOM, KVPoll.Bootstrapping)
        with pytest.raises(RoomBusyError, match="ago by a plain update; it is free once all its ranks have cleared it"):
            store.open(ROOM, request="rid")

    @pytest.mark.parametrize("status", [KVPoll.Failed, KVPoll.Transferring, KVPoll.Success, 7])
    def test_open_with_later_status_is_refused(self, store, client, status):
        with pytest.raises(InvalidInputError, match=r"^open: a"):
            store.open(ROOM, status=status)
        assert not client.exists(KEY)

    @pytest.mark.parametrize("request_id", ["", "x" * 1001, "a\nb", "\x1b[2J", 7, b"rid"])
    def test_bad_request_is_refused(self, store, client, request_id):
        with pytest.raises(InvalidInputError, match=r"^open: a request is"):
            store.open(ROOM, request=request_id)
        assert not client.exists(KEY)

    def test_generations_grow_when_clock_goes_back(self, store, client):
        first = store.open(ROOM, request="one")
        ahead = first.generation + 10**12
        client.hset("kvpoll:{default}:epoch", "generation", str(ahead))
        first.clear()
        second = store.open(ROOM, request="two")
        assert second.generation == ahead + 1
        second.clear()
        store.update_status(ROOM, KVPoll.Bootstrapping)
        assert store.attach(ROOM).generation == ahead + 2

    def test_generations_grow_when_server_forgot_them(self, store, client):
        first = store.open(ROOM, request="one")
        client.hset("kvpoll:{default}:epoch", "generation", str(first.generation + 10**12))
        first.clear()
        second = store.open(ROOM, request="two")
        second.clear()
        client.hdel("kvpoll:{default}:epoch", "generation")
        assert store.open(ROOM, request="three").generation > second.generation

    @pytest.mark.parametrize("junk", ["", "x", "-1", "1e20", "9" * 16, "9" * 20, "9" * 400, str(2**53), "0" + "9" * 15])
    def test_junk_as_last_generation_counts_as_none(self, store, client, junk):
        """Beyond 2^53 a number and the next are the same in Lua: two opens had one generation."""
        client.hset(EPOCH, "generation", junk)
        found = [store.open(ROOM, request="one").generation]
        client.hset(EPOCH, "generation", junk)
        store.update_status(1, KVPoll.Bootstrapping)
        found.append(store.attach(1).generation)
        found += [store.open(room, request="one").generation for room in (2, 3)]
        assert sorted(set(found)) == found
        assert max(found) < 9 * 10**15

    @pytest.mark.parametrize("server", ["fakeredis"], indirect=True)
    def test_generations_grow_when_clock_goes_back_to_2001(self, store, client):
        first = store.open(ROOM, request="one").generation
        with time_machine.travel("2001-01-01", tick=True):
            second = store.open(2, request="two").generation
            store.update_status(3, KVPoll.Bootstrapping)
            third = store.attach(3).generation
        assert first < second < third

    def test_key_of_another_type_is_corrupt(self, store, client):
        client.set(KEY, "by hand", ex=600)
        with pytest.raises(CorruptEntryError, match="a key of another type"):
            store.open(ROOM)
        with pytest.raises(CorruptEntryError, match="a key of another type"):
            store.attach(ROOM)
        assert client.get(KEY) == "by hand"


class TestFence:
    @pytest.fixture(params=("cleared", "expired", "reused", "reused at once", "created plainly"))
    def stale(self, request, store, client):
        """A handle whose generation has ended."""
        handle = store.open(ROOM, request="old")
        if request.param == "reused at once":
            handle.fail("why")
            store.open(ROOM, request="new")
        elif request.param == "expired":
            client.pexpireat(KEY, 1)
        else:
            store.clear(ROOM)
        if request.param == "reused":
            store.open(ROOM, request="new")
        if request.param == "created plainly":
            store.update_status(ROOM, KVPoll.Bootstrapping)
        store.set_decode_prefix_len(ROOM, 5)
        return handle

    @pytest.mark.parametrize("status", list(KVPoll))
    def test_stale_write_changes_nothing(self, store, client, stale, status):
        before, there = dump(client), store.get(ROOM)
        assert stale.update(status) == Update(Outcome.STALE, there)
        assert stale.fail("late") == Update(Outcome.STALE, there)
        assert stale.clear() == Update(Outcome.STALE, there)
        assert stale.set_decode_prefix_len(9) is False
        assert dump(client) == before

    def test_stale_handle_reads_nothing(self, stale):
        assert stale.status() is None
        assert stale.decode_prefix_len() == 0

    def test_stale_failure_keeps_newer_prefix_in_mode_prefill(self, make_store, client):
        store = make_store(mode="prefill")
        old = store.open(ROOM, request="old")
        old.clear()
        store.open(ROOM, request="new").set_decode_prefix_len(5)
        assert old.update(KVPoll.Failed).outcome is Outcome.STALE
        assert client.hget(PREFIX, "length") == "5"


class TestWrites:
    def test_fenced_writes_are_strict_under_any_policy(self, make_store, policy):
        store = make_store(policy=policy)
        room = store.open(ROOM)
        assert room.update(KVPoll.Success) == Update(Outcome.ADVANCED, KVPoll.Success)
        assert room.update(KVPoll.Transferring) == Update(Outcome.UNCHANGED, KVPoll.Success)
        assert room.fail("why") == Update(Outcome.FAILED, KVPoll.Failed)
        assert room.fail("later") == Update(Outcome.UNCHANGED, KVPoll.Failed)
        assert store.failure_reason(ROOM) == "why"
        for status in KVPoll:
            assert room.update(status) == Update(Outcome.UNCHANGED, KVPoll.Failed)
        assert room.clear() == Update(Outcome.CLEARED, KVPoll.Failed)
        assert room.clear() == Update(Outcome.STALE, None)

    def test_plain_calls_work_beside_handles(self, store):
        room = store.open(ROOM)
        assert store.update_status(ROOM, KVPoll.Transferring).outcome is Outcome.ADVANCED
        assert room.status() is KVPoll.Transferring
        assert store.abort(ROOM, "by hand").outcome is Outcome.FAILED
        assert room.update(KVPoll.Success) == Update(Outcome.UNCHANGED, KVPoll.Failed)

    def test_fail_in_mode_prefill_drops_prefix(self, make_store):
        room = make_store(mode="prefill").open(ROOM)
        room.set_decode_prefix_len(5)
        room.fail("why")
        assert room.decode_prefix_len() == 0

    def test_prefix_may_be_set_before_the_room(self, store):
        store.set_decode_prefix_len(ROOM, 5)
        room = store.open(ROOM)
        assert room.decode_prefix_len() == 5
        assert room.set_decode_prefix_len(6) is True
        assert (room.decode_prefix_len(), store.entry(ROOM).decode_prefix_len) == (6, 6)
        room.clear()
        assert store.pop_decode_prefix_len(ROOM) == 0

    def test_prefix_of_expired_generation_is_not_inherited(self, store, client):
        store.open(ROOM).set_decode_prefix_len(5)
        client.pexpireat(KEY, 1)
        assert store.open(ROOM).decode_prefix_len() == 0

    def test_prefix_after_an_expired_generation_is_of_the_next(self, store, client):
        store.open(ROOM).set_decode_prefix_len(5)
        client.pexpireat(KEY, 1)
        store.set_decode_prefix_len(ROOM, 7)
        assert store.open(ROOM).decode_prefix_len() == 7

    def test_with_block_clears_at_exit(self, store):
        with store.open(ROOM) as room:
            room.update(KVPoll.Success)
        assert store.get(ROOM) is None

    def test_clear_at_exit_spares_newer_generation(self, store):
        with store.open(ROOM, request="one") as room:
            room.fail("why")
            store.open(ROOM, request="two")
        assert store.attach(ROOM).request == "two"

    def test_error_inside_with_block_is_raised(self, store):
        with pytest.raises(ZeroDivisionError), store.open(ROOM):
            raise ZeroDivisionError
        assert store.get(ROOM) is None

    @pytest.mark.parametrize(("name", "argument"), [("update", 9), ("fail", " "), ("set_decode_prefix_len", -1)])
    def test_bad_input_is_refused(self, store, client, name, argument):
        room = store.open(ROOM)
        before = dump(client)
        with pytest.raises(InvalidInputError, match=f"^{name}: "):
            getattr(room, name)(argument)
        assert dump(client) == before


class TestAttach:
    def test_attach_returns_the_live_generation(self, make_store):
        room = make_store().open(ROOM, request="rid")
        other = make_store().attach(ROOM)
        assert other == room
        assert other.request == "rid"
        assert other.update(KVPoll.Success).outcome is Outcome.ADVANCED
        assert room.status() is KVPoll.Success

    def test_plainly_created_room_has_a_generation(self, store):
        store.update_status(ROOM, KVPoll.Bootstrapping)
        first = store.attach(ROOM)
        assert first.request is None
        store.clear(ROOM)
        store.update_status(ROOM, KVPoll.Bootstrapping)
        assert store.attach(ROOM).generation > first.generation
        assert first.fail("late").outcome is Outcome.STALE

    def test_attach_to_absent_room_raises(self, store):
        with pytest.raises(RoomNotFoundError, match=r"^attach: "):
            store.attach(ROOM)

    @pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda room: pickle.loads(pickle.dumps(room))])
    def test_copied_handle_works_in_another_store(self, make_store, copied):
        room = make_store().open(ROOM, request="rid")
        sent = copied(room)
        assert (sent.id, sent.generation, sent.request) == (room.id, room.generation, "rid")
        bound = make_store().attach(sent)
        assert bound.update(KVPoll.Transferring).outcome is Outcome.ADVANCED
        room.clear()
        assert bound.update(KVPoll.Success).outcome is Outcome.STALE

    def test_unbound_handle_names_the_remedy(self, store):
        sent = pickle.loads(pickle.dumps(store.open(ROOM)))
        with pytest.raises(InvalidInputError, match=r"^update: .* bind it with store.attach\(handle\)"):
            asyncio.run(awaited(sent.update, KVPoll.Success))

    def test_handle_of_another_namespace_is_refused(self, make_store):
        room = make_store(namespace="one").open(ROOM)
        with pytest.raises(InvalidInputError, match="belongs to namespace 'one', and this store to 'two'"):
            make_store(namespace="two").attach(room)

    @pytest.mark.parametrize(
        "parts",
        [
            *(("default", ROOM, generation, None) for generation in ("", "1", None, 0, -1, 2**53, 1.0, True, [])),
            *(("default", room, 1, None) for room in (None, "", "1", -1, 2**70, True)),
            *((namespace, ROOM, 1, None) for namespace in (None, "", "a}b", "\x1b[31m", 7)),
            *(("default", ROOM, 1, request) for request in ("", 7, "\x1b[31m", "x" * 9999)),
        ],
        ids=ascii,
    )
    def test_handle_that_no_store_made_is_refused(self, store, parts):
        """A pickle may hold anything; a handle without a generation would clear whatever room is there."""
        store.update_status(ROOM, KVPoll.Transferring)
        unpickled = pickle.loads(pickle.dumps(Room(None, *parts)))
        with pytest.raises(
            InvalidInputError, match=r"^attach: this handle was not made by a store: .* by its number"
        ) as no:
            store.attach(unpickled)
        assert str(no.value).isprintable()
        assert store.get(ROOM) is KVPoll.Transferring


class TestRepeatable:
    """A fenced write may be sent again."""

    @pytest.mark.parametrize("spec", [OPEN, WRITE, CLEAR_FENCED], ids=lambda spec: spec.script.name)
    def test_fenced_scripts_are_repeatable(self, spec):
        assert spec.repeatable
