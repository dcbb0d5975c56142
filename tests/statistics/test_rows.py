"""Lists of many rooms: rows, which cost little to read, and entries."""

from __future__ import annotations

import math

import pytest

from redis_kvpoll import CorruptEntryError, InvalidInputError, KVPoll
from tests.support.internals import inner


@pytest.fixture
def store(make_store):
    return make_store()


def rows_of(store, *args):
    return {row.room: row for row in store.rows(*args)}


def test_rows_are_what_entries_have(store, client):
    with_owner = {1: KVPoll.Bootstrapping, 2: KVPoll.Transferring, 3: KVPoll.Failed}
    store.open(1, request="rid")
    store.update_status(2, KVPoll.Transferring)
    store.update_status(3, KVPoll.Bootstrapping)
    store.abort(3, "why")
    client.persist("kvpoll:{default}:room:2")
    rows, entries = rows_of(store), store.entries([1, 2, 3, 4])
    client.expire("kvpoll:{default}:room:2", 600)
    assert {room: row.status for room, row in rows.items()} == with_owner
    assert entries.keys() == {1, 2, 3}
    assert (entries[1].request, entries[3].reason) == ("rid", "why")
    for room, row in rows.items():
        assert (row.since, row.opened_at) == (entries[room].updated_at, entries[room].opened_at)
    assert rows[2].ttl == math.inf
    assert 0 < rows[1].ttl <= 900


def test_rows_at_one_status_are_those(store):
    store.update_many({1: KVPoll.Success, 2: KVPoll.Bootstrapping})
    assert set(rows_of(store, KVPoll.Success)) == {1}


def test_many_rooms_are_listed_in_pages(store):
    store.update_many(dict.fromkeys(range(2500), KVPoll.Success))
    assert len(rows_of(store)) == 2500
    assert len(store.entries(range(2500))) == 2500


def test_corrupt_room_hides_no_other(store, client):
    store.update_status(1, KVPoll.Success)
    client.set("kvpoll:{default}:room:2", "by hand", ex=600)
    client.hset("kvpoll:{default}:room:3", "status", "Banana")
    client.expire("kvpoll:{default}:room:3", 600)
    assert {room: row.status for room, row in rows_of(store).items()} == {1: KVPoll.Success, 2: None, 3: None}
    entries = store.entries([1, 2, 3])
    assert entries[1].status is KVPoll.Success
    assert isinstance(entries[2], CorruptEntryError)
    assert isinstance(entries[3], CorruptEntryError)


def test_row_names_the_lease_of_its_room(make_store):
    store = make_store()
    if hasattr(inner(store), "aclose"):
        pytest.skip("a lease for asyncio is entered with await; the script is the same")
    with store.lease("prefill-0"):
        store.open(1)
        assert rows_of(store)[1].owner == "prefill-0"


def test_entries_take_a_list_of_rooms(store):
    assert store.entries([]) == {}
    with pytest.raises(InvalidInputError, match="entries: "):
        store.entries("12")
