"""No call holds the server for long, however many ranks its rooms have: a script stops early, and the rest is sent."""

from __future__ import annotations

import pytest

from redis_kvpoll import KVPoll, StatusStore
from redis_kvpoll.protocol import keys, lease_commands, owner_listing, rank_commands, room_commands
from redis_kvpoll.protocol.lease_commands import Reaped
from redis_kvpoll.protocol.rank_commands import RankChange, RankIdentity
from redis_kvpoll.protocol.script_specs import SPECS
from tests.support import real
from tests.support.internals import context_of, executor_of, run

BOOT, INPUT, MOVE, DONE, FAIL = (KVPoll(number) for number in (1, 2, 3, 4, 0))
WORLD_SIZE = 1024
ROOMS = range(2**62, 2**62 + 7)
HOLDER = 1_700_000_000_000_000
LOST = "owner prefill-1 lost"


def execute(store, command):
    return run(store, executor_of(store).run(command, []))


def many(command):
    """The command for all rooms."""
    return command._replace(rooms=[*ROOMS], room_args=command.room_args * len(ROOMS), finish=room_commands.by_room)


def fill(client, status=BOOT, counted=True):
    """Rooms in which every rank has a status, and holds its part under a lease."""
    with client.pipeline(transaction=False) as pipe:
        for room in ROOMS:
            key = f"kvpoll:{{default}}:room:{room}"
            fields = {"status": status.name, "generation": "1700000000000123", "world_size": WORLD_SIZE, "version": 7}
            fields |= {"opened_ms": "1700000000000", "updated_ms": "1700000000000"}
            if counted:
                fields["counts"] = " ".join(str(WORLD_SIZE * (s is status)) for s in (BOOT, INPUT, MOVE, DONE)) + " 0 0"
            fields |= {f"status:{rank}": status.name for rank in range(WORLD_SIZE)}
            pipe.hset(key, mapping={**fields, **{f"by:{rank}": HOLDER + rank for rank in range(WORLD_SIZE)}})
            pipe.pexpire(key, 600_000)
        pipe.hset(keys.leases("default"), f"lost {HOLDER + 1}", LOST)
        pipe.pexpire(keys.leases("default"), 600_000)
        pipe.execute()


def calls(client):
    return sum(stats["calls"] for name, stats in client.info("commandstats").items() if name == "cmdstat_evalsha")


def update_all(store):
    return {room: update.status for room, update in store.update_many(dict.fromkeys(ROOMS, INPUT)).items()}


def abort_all(store):
    return {room: found.status for room, found in execute(store, many(room_commands.abort(ROOMS[0], "why"))).items()}


def reap_all(store):
    return execute(store, lease_commands.reap([*ROOMS], str(HOLDER + 1), LOST))


def count_parts(store):
    found = owner_listing.Parts()
    execute(store, owner_listing.parts([*ROOMS], found))
    return found.rooms


OPERATIONS = {
    "update": (update_all, dict.fromkeys(ROOMS, INPUT)),
    "abort": (abort_all, dict.fromkeys(ROOMS, FAIL)),
    "reap": (reap_all, Reaped(len(ROOMS), is_stale=False)),
    "clear": (lambda store: store.clear_many(ROOMS), dict.fromkeys(ROOMS, BOOT)),
    "entry": (count_parts, {HOLDER + rank: len(ROOMS) for rank in range(WORLD_SIZE)}),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_call_for_large_rooms_stops_and_continues(server, client, make_store, name):
    """The counts are missing, so that even a write has to read all ranks."""
    store = make_store(rank=3, world_size=WORLD_SIZE)
    store.update_status(1, BOOT)
    fill(client, counted=False)
    operation, expected = OPERATIONS[name]
    if not server.is_fake:
        operation(store)  # the script is known from now on
        client.delete(*client.keys("kvpoll:{default}:room:*"))
        fill(client, counted=False)
        client.config_resetstat()
    assert operation(store) == expected
    if not server.is_fake:
        assert calls(client) > 2, "a room of 1,024 ranks has more fields than a call reads"


def test_mirror_reads_large_rooms_in_parts(server, client):
    fill(client, MOVE)
    with StatusStore(server.store_client(), rank=3, world_size=WORLD_SIZE) as store, store.mirror() as mirror:
        real.until(lambda: mirror.synced, "synced")
        assert mirror.poll(ROOMS) == [MOVE] * len(ROOMS)
        assert len(mirror.collect(ROOMS[-1])) == WORLD_SIZE


def test_write_of_one_rank_reads_no_other(server, client, make_store):
    if server.is_fake:
        pytest.skip("fakeredis has no INFO, and so does not count")
    stores = [make_store(rank=rank, world_size=3) for rank in range(3)]
    client.config_resetstat()
    for store in stores:
        store.open(7, request="rid")
    for status in (INPUT, MOVE, DONE):
        for store in stores:
            store.update_status(7, status)
    for store in stores:
        store.clear(7)
    whole = {"cmdstat_hgetall", "cmdstat_hkeys", "cmdstat_hvals"}
    assert not whole & client.info("commandstats").keys()
    assert client.keys("*room*") == []


@pytest.mark.parametrize("status", [INPUT, FAIL])
def test_group_off_the_fast_path_stops_and_continues(client, make_store, status):
    """What a call does for many ranks of many rooms is bounded whatever they say. The first room has no fast path."""
    store, ranks, rooms = make_store(), [RankIdentity(rank, 8) for rank in range(8)], range(60)

    def say(status):
        return rank_commands.write_ranks([RankChange(room, one, 0, status) for room in rooms for one in ranks])

    assert len(execute(store, say(BOOT))) == 480
    client.hset("kvpoll:{default}:room:0", "counts", "")
    (call,) = say(status).calls(context_of(store))
    reply = client.eval(call.spec.script.source, *call.words()[2:])
    assert 8 * (len(reply) - 2) <= 256
    assert {update.status for update in execute(store, say(status))} == {status}


def test_counts_lost_by_hand_are_counted_again(client, ranks):
    stores, key = ranks(3), "kvpoll:{default}:room:7"
    for store in stores:
        store.update_status(7, MOVE)
    for wrong in ("", "1 2", "0 0 0 3 0 0", "3 0 0 0 0 0"):
        client.hset(key, "counts", wrong)
        stores[0].clear(7) if wrong == "" else stores[1].update_status(7, DONE)
        assert client.hget(key, "counts") == ("0 0 3 0 0 1" if wrong == "" else "0 0 2 1 0 1")
        client.hset(key, "status:1", "Transferring")


def test_every_spec_that_may_stop_says_so():
    stops = {spec.script.name for spec in SPECS if "fields_read > MAX_FIELDS" in spec.script.source}
    stops.add("update")  # where the epoch has another type: see test_shared_keys.py
    assert stops == {spec.script.name for spec in SPECS if spec.may_stop}
