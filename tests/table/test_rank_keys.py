"""The data of ranks in Redis: TTLs, prefix lengths, the feed, and their memory."""

from __future__ import annotations

import contextlib

import pytest

from redis_kvpoll import KVPoll, StatusStore
from tests.support.feeds import words

BOOT, INPUT, MOVE, DONE, FAIL = (KVPoll(number) for number in (1, 2, 3, 4, 0))
ROOM = 2**63 - 1
KEY, PREFIX = f"kvpoll:{{default}}:room:{ROOM}", f"kvpoll:{{default}}:prefix:{ROOM}"


class TestTimeToLive:
    def test_room_has_live_ttl_until_all_ranks_end(self, ranks, client):
        first, second = ranks(2, ttl=100, terminal_ttl=20)
        for store, status in ((first, BOOT), (second, BOOT), (first, DONE), (second, MOVE)):
            store.update_status(ROOM, status)
            assert 20_000 < client.pttl(KEY) <= 100_000
        second.update_status(ROOM, DONE)
        assert 0 < client.pttl(KEY) <= 20_000

    def test_failed_rank_gives_terminal_ttl(self, ranks, client):
        first, second = ranks(2, ttl=100, terminal_ttl=20)
        first.update_status(ROOM, BOOT)
        first.update_status(ROOM, FAIL)
        assert 0 < client.pttl(KEY) <= 20_000
        second.update_status(ROOM, BOOT)
        assert 0 < client.pttl(KEY) <= 20_000

    def test_clear_of_one_rank_keeps_ttl(self, ranks, client):
        first, second = ranks(2)
        for store in (first, second):
            store.update_status(ROOM, DONE)
        client.pexpire(KEY, 100_000)
        first.clear(ROOM)
        assert 0 < client.pttl(KEY) <= 100_000


class TestPrefixLength:
    def test_each_rank_has_its_own_length(self, ranks, client):
        first, second = ranks(2)
        first.set_decode_prefix_len(ROOM, 7)
        second.set_decode_prefix_len(ROOM, 8)
        assert client.hgetall(PREFIX) == {"length:0": "7", "length:1": "8"}
        first.update_status(ROOM, BOOT)
        assert first.entry(ROOM).decode_prefix_len == 7
        assert first.pop_decode_prefix_len(ROOM) == 7
        assert first.pop_decode_prefix_len(ROOM) == 0
        assert second.pop_decode_prefix_len(ROOM) == 8

    @pytest.mark.parametrize("world_size", [1, 2])
    @pytest.mark.parametrize("is_there", [True, False])
    def test_clear_drops_own_length_only(self, make_store, is_there, world_size):
        """Also for the last clear, or an absent room: lengths of other ranks may be for the next request."""
        store = make_store(rank=0, world_size=world_size)
        other = make_store(rank=1, world_size=2)
        if is_there:
            store.update_status(ROOM, BOOT)
        for each in (store, other):
            each.set_decode_prefix_len(ROOM, 7)
        store.clear(ROOM)
        assert (store.pop_decode_prefix_len(ROOM), other.pop_decode_prefix_len(ROOM)) == (0, 7)

    def test_length_before_an_opening_brings_no_former_ones_back(self, ranks, client):
        stores = ranks(2)
        for store in stores:
            store.open(ROOM, request="former").set_decode_prefix_len(5)
        client.pexpireat(KEY, 1)
        stores[0].set_decode_prefix_len(ROOM, 7)
        assert client.hgetall(PREFIX) == {"length:0": "7"}
        assert [store.open(ROOM, request="next").decode_prefix_len() for store in stores] == [7, 0]

    def test_length_of_a_plain_room_brings_no_former_ones_back(self, ranks, client):
        """A room that a plain update creates keeps what was recorded before it."""
        stores = ranks(2)
        for store in stores:
            store.open(ROOM, request="former").set_decode_prefix_len(5)
        client.pexpireat(KEY, 1)
        stores[0].update_status(ROOM, BOOT)
        handles = [store.attach(ROOM) for store in stores]
        handles[0].set_decode_prefix_len(7)
        assert [handle.decode_prefix_len() for handle in handles] == [7, 0]

    def test_clear_deletes_prefix_key_of_another_type(self, make_store, client):
        store = make_store(rank=0, world_size=1)
        client.set(PREFIX, "by hand", ex=1000)
        store.update_status(ROOM, BOOT)
        store.clear(ROOM)
        assert not client.exists(PREFIX)

    def test_prefill_failure_drops_own_and_abort_all_lengths(self, ranks):
        first, second = stores = ranks(2, mode="prefill")
        for store in stores:
            store.update_status(ROOM, BOOT)
            store.set_decode_prefix_len(ROOM, 7)
        first.update_status(ROOM, FAIL)
        assert [store.entry(ROOM).decode_prefix_len for store in stores] == [None, 7]
        first.abort(ROOM)
        assert second.entry(ROOM).decode_prefix_len is None
        for store in stores:
            store.clear(ROOM)
            store.set_decode_prefix_len(ROOM, 7)
        first.abort(ROOM)
        assert [store.pop_decode_prefix_len(ROOM) for store in stores] == [0, 7]


def test_feed_marks_the_first_rank_of_a_room(ranks, client):
    first, second = ranks(2)
    first.open(7, request="former")
    second.open(7, request="former")
    first.abort(7)
    second.open(7, request="next")
    first.open(7, request="next")
    client.pexpireat("kvpoll:{default}:room:7", 1)
    second.update_status(7, MOVE)
    assert [[*fields[3:5]] for fields in words(client)] == [
        ["Bootstrapping", "first:0"],
        ["Bootstrapping", "rank:1"],
        ["Failed", "reason"],
        ["Bootstrapping", "first:1"],
        ["Bootstrapping", "rank:0"],
        ["Bootstrapping", "first:1"],
    ]


def test_feed_has_consensus_and_rank_of_change(ranks, client):
    first, second = ranks(2, ttl=90, terminal_ttl=30)
    first.update_status(7, BOOT)
    former = first.entry(7).generation
    second.update_status(7, FAIL)
    second.update_status(7, INPUT)
    first.update_status(7, FAIL)
    second.clear(7)
    first.abort(7)
    first.clear(7)
    first.update_status(7, BOOT)
    later = first.entry(7).generation
    first.abort(7, "why")
    assert words(client) == [
        ["ttl_ms", "90000", "7", "Bootstrapping", "first:0", "Bootstrapping", "first", str(former)],
        ["ttl_ms", "90000", "7", "Bootstrapping", "rank:1", "WaitingForInput"],
        ["ttl_ms", "30000", "7", "Failed", "rank:0", "Failed"],
        ["7", "Failed", "rank:1", "absent"],
        ["7", "absent"],
        ["ttl_ms", "90000", "7", "Bootstrapping", "first:0", "Bootstrapping", "first", str(later)],
        ["ttl_ms", "30000", "7", "Failed", "reason", "why"],
    ]


@pytest.mark.parametrize("world_size", [None, 1, 4])
def test_room_with_all_fields_takes_at_most_384_bytes(server, client, world_size):
    """Beside its key name, with a generation, a request as long as SGLang's, and an owner.

    The least of ten rooms: libc's allocator gives some blocks 16 bytes more than was asked for, as its heap stands.
    """
    if server.is_fake:
        pytest.skip("fakeredis has no MEMORY USAGE")
    rooms, request = range(ROOM - 9, ROOM + 1), "0123456789abcdef0123456789abcdef"
    with contextlib.ExitStack() as stack:
        for rank in range(world_size or 1):
            ranks = {} if world_size is None else {"rank": rank, "world_size": world_size}
            store = stack.enter_context(StatusStore(server.store_client(), **ranks))
            if rank == 0:
                stack.enter_context(store.lease("prefill-0"))
            for room in rooms:
                store.open(room, request=request).update(MOVE)
        entry = store.entry(ROOM)
        assert (entry.owner, entry.request, entry.reason) == ("prefill-0", request, None)
        sizes = [client.memory_usage(f"kvpoll:{{default}}:room:{room}", samples=0) for room in rooms]
        assert min(sizes) - len(KEY) <= 384
