"""A key that the rooms of a shard share, of another type: a call is refused before it writes anything.

What a call writes must also be in the feed, so an error after the first write would hide changes from every mirror.
"""

from __future__ import annotations

import itertools

import pytest
from redis.exceptions import ResponseError

from redis_kvpoll import KVPoll, ServerRefusedError
from redis_kvpoll.doctor import key_types
from redis_kvpoll.protocol import fenced_commands, keys, lease_commands, rank_commands, room_commands
from redis_kvpoll.protocol.feed import parse_entry
from redis_kvpoll.protocol.lease_commands import LeaseConfig
from redis_kvpoll.protocol.rank_commands import RankChange
from tests.support.calls_of_scripts import _OWNER, GENERATION, RANKS, REQUEST, A, B, replay, send, table, take_lease
from tests.support.feeds import entries

SHARED = (keys.feed, keys.failed, keys.epoch, keys.leases, keys.due, keys.owned, keys.cleared, keys.refused)
HELD, FREE = RANKS[:2]
"""A rank with a lease, and one without."""
INCARNATION, LEASE = _OWNER["incarnation"], LeaseConfig(_OWNER["owner"], 5.0, 1.5, 0.5)


def ranks(*changes):
    return lambda room: rank_commands.write_ranks([RankChange(room, *change) for change in changes])


WRITES = {
    **{f"update {status}": lambda room, s=status: room_commands.update_status(room, s) for status in range(5)},
    **{f"fenced {s}": lambda room, s=s: fenced_commands.update(room, GENERATION, s) for s in (0, 2, 4)},
    "open again": lambda room: fenced_commands.open(room, REQUEST, 1, 0),
    "open another": lambda room: fenced_commands.open(room, "another", 2, GENERATION),
    "replay": lambda room: replay(room, status="Transferring", length="7"),
    "replay cleared": lambda room: replay(room, status="Transferring", role="cleared"),
    "abort": lambda room: room_commands.abort(room, "why"),
    "reap": lambda room: lease_commands.reap([room], INCARNATION, "why"),
    "record_failure": lambda room: room_commands.record_failure(room, "why"),
    "clear": room_commands.clear,
    "fenced clear": lambda room: fenced_commands.clear(room, GENERATION),
    "touch": lambda room: room_commands.touch([room]),
    "set_prefix": lambda room: room_commands.set_decode_prefix_len(room, 7),
    "ranks go up": ranks((FREE, GENERATION, KVPoll.Transferring), (HELD, GENERATION, KVPoll.Transferring)),
    "ranks end": ranks((FREE, GENERATION, KVPoll.Success), (HELD, GENERATION, KVPoll.Success)),
    "a rank goes up": ranks((FREE, GENERATION, KVPoll.Transferring)),
    "a held rank goes up": ranks((HELD, GENERATION, KVPoll.Transferring)),
    "ranks begin": ranks((FREE, 0, KVPoll.Bootstrapping), (HELD, 0, KVPoll.Bootstrapping)),
    "ranks fail": ranks((FREE, GENERATION, KVPoll.Failed), (HELD, GENERATION, KVPoll.Failed)),
    "a rank clears": ranks((FREE, GENERATION, None, "", None, True)),
    "a held rank clears": ranks((HELD, GENERATION, None, "", None, True)),
}
PAIRS = [
    *((name, name) for name in WRITES),
    *itertools.permutations(("update 0", "update 1", "update 4"), 2),
    *itertools.product(("a rank goes up", "a rank clears"), [name for name in WRITES if "rank" in name]),
]
"""Of what a batch has for two rooms."""
STATES = [("absent", "absent"), ("Bootstrapping", "absent")]
STATES += [("Bootstrapping", "other rank"), ("other rank", "Bootstrapping")]


def fill(client, context, room, state):
    if state == "other rank":
        send(client, replay(room, status="Bootstrapping"), table("rank", rank="1"))
    elif state != "absent":
        send(client, replay(room, status=state, length="5"), context)
    if client.hexists(*keys.rooms("ns", [room]), "version"):
        client.hset(*keys.rooms("ns", [room]), "version", "7")  # not the clock's: else no fast path takes the room


def contents(client):
    """{key: value} of the whole table, with the TTLs in steps of 100 s."""
    readers = {
        b"hash": client.hgetall,
        b"string": client.get,
        b"stream": client.xrange,
        b"zset": lambda key: client.zrange(key, 0, -1, withscores=True),
    }
    return {key: (readers[client.type(key)](key), -(-client.ttl(key) // 100)) for key in client.keys("*")}


def spoil(client, key):
    client.delete(key)
    client.set(key, "by hand", ex=550)


def assert_spoiled(error):
    assert "WRONGTYPE" in str(error)


def outcome(client, source, words):
    """What a call has replied, None if it was refused; and the table before and after it."""
    before = contents(client)
    try:
        return client.eval(source, *words), before, contents(client)
    except ResponseError as error:
        return assert_spoiled(error), before, contents(client)


def check_changes_are_told(client, before, after):
    told = {}
    if client.type(keys.feed("ns")) == b"stream":
        told = {room: status for _, fields in entries(client, "ns") for room, status, *_ in parse_entry(fields)}
    for room, key in zip((A, B), keys.rooms("ns", [A, B]), strict=True):
        old, new = ({} if key.encode() not in found else found[key.encode()][0] for found in (before, after))
        if old.get(b"status") != new.get(b"status"):
            assert told.get(room) == new.get(b"status", b"absent"), f"{old} became {new}"


@pytest.fixture
def raw(server):
    return server.client()


@pytest.mark.parametrize("actor", ["plain", "both"])
@pytest.mark.parametrize("shared", SHARED, ids=lambda key: key.__name__)
def test_call_with_a_spoiled_key_is_whole_or_refused(raw, shared, actor):
    context, spoiled = table(actor, mode="prefill"), shared("ns")
    for names, states in itertools.product(PAIRS, STATES):
        first, second = (WRITES[name](room).calls(context)[0] for name, room in zip(names, (A, B), strict=True))
        call = first.merged_with([second])
        if not first.can_merge_with(second) or spoiled not in [*call.all_keys, keys.refused("ns")]:
            continue
        raw.flushall()
        take_lease(raw, table("both"))
        for room, state in zip((A, B), states, strict=True):
            fill(raw, context, room, state)
        spoil(raw, spoiled)
        reply, before, after = outcome(raw, call.spec.script.source, call.words()[2:])
        if reply is None:
            assert after == before, (names, states)
            assert shared.__name__ in key_types.KINDS  # the doctor names it
        else:
            assert not [word for word in reply if isinstance(word, Exception)], (names, states)  # the rooms are sound
            check_changes_are_told(raw, before, after)


ACTIONS = ("take", "extend", "renew", "leave", "drop", "reaped", "sweep")


@pytest.mark.parametrize("is_lost", [False, True], ids=["held", "lost"])
@pytest.mark.parametrize("is_first", [False, True], ids=["later", "first"])
@pytest.mark.parametrize("shared", [keys.epoch, keys.leases, keys.owned, keys.due], ids=lambda key: key.__name__)
def test_lease_call_is_whole_or_refused(raw, shared, is_first, is_lost):
    context = table("owner")
    for action in ACTIONS:
        raw.flushall()
        take_lease(raw, context)
        send(raw, replay(A), context)
        if is_lost:
            dropping = lease_commands.drop(context, "ns", INCARNATION, "lost")
            raw.eval(dropping.spec.script.source, *dropping.words()[2:])
        if is_first:
            raw.delete(keys.epoch("ns"))
        spoil(raw, shared("ns"))
        call = LEASE.call(context, "ns", action, INCARNATION)
        reply, before, after = outcome(raw, call.spec.script.source, call.words()[2:])
        assert reply is not None or (after == before and shared.__name__ in key_types.KINDS), action


def test_epoch_of_another_type_is_blamed_on_no_room(make_store, client, server):
    """What creates no room is done, as it is alone; a batch says what is wrong once it comes to a new room."""
    if server.is_fake:
        pytest.skip("fakeredis has another error message")
    store = make_store(namespace="ns")
    store.update_many({A: 1, B: 1})
    store.clear(B)
    spoil(client, keys.epoch("ns"))
    for rooms, left in (({B: 1}, 1), ({B: 1, A: 2}, 1), ({A: 2, B: 1}, 2)):
        with pytest.raises(ServerRefusedError, match="WRONGTYPE"):
            store.update_many(rooms)
        assert store.poll([A, B]) == [left, None]
    store.update_many({A: 3, 5: 0})
    assert store.check_status(A) is KVPoll.Transferring
    assert entries(client, "ns")[-1][1][2:] == [str(A).encode(), b"Transferring"]
