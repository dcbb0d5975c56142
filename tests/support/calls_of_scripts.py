"""Calls of every script: all operations there are, by every kind of store, on rooms in every state."""

from __future__ import annotations

from redis_kvpoll import KVPoll
from redis_kvpoll.protocol import fenced_commands, keys, lease_commands, rank_commands, room_commands
from redis_kvpoll.protocol.rank_commands import RankChange, RankIdentity
from redis_kvpoll.protocol.script_call import Command
from redis_kvpoll.protocol.script_specs import FAILURES, REPLAY, SNAPSHOT, SNAPSHOT_FIELDS
from tests.support.contexts import context

TTL_MS = "600000"
A, B = 2**53 + 1, 2**64 - 1
GENERATION = 1_700_000_000_000_123
"""In microseconds, as scripts give them, and below all that any server gives today."""
REQUEST = "rid"

_RANK = {"rank": "0", "world_size": "2"}
_OWNER = {"owner": "prefill-0", "incarnation": "1700000000000007"}
# Kinds of stores. One with a rank first: its entries in the feed have their words in the order of the heads.
ACTORS = {"rank": _RANK, "plain": {}, "owner": _OWNER, "both": {**_RANK, **_OWNER}}


def table(actor="plain", policy="compat", feed_length="100", **changes):
    times = {"ttl_ms": TTL_MS, "terminal_ttl_ms": TTL_MS}
    return context(policy=policy, feed_length=feed_length, nonce="ab12", **{**times, **ACTORS[actor], **changes})


def bare(operation, spec, rooms, items=()):
    """A command that no method of a store sends."""
    return Command(operation, spec, rooms, [*items], lambda *_: [], lambda *_: None)


def replay(
    *rooms,
    status="Bootstrapping",
    role="creator",
    reason="",
    length="",
    generation=GENERATION,
    loss="data",
    opened="",
    written="",
    updated_ms="",
):
    item = [str(generation), REQUEST, status, reason, length, role, loss, opened, written, updated_ms]
    return bare("replay", REPLAY, [*rooms], item * len(rooms))


STATUSES = (1, 2, 3, 4, 0)
LOST = "1600000000000001"
"""The incarnation of a lost lease."""
RANKS = [RankIdentity(0, 2, *_OWNER.values()), RankIdentity(1, 2), RankIdentity(0, 3)]

# Every operation, by the script that it is made for; a store with a rank or a lease may use another one.
OPERATIONS = {
    "update": [
        *(room_commands.update_status(A, status) for status in STATUSES),
        room_commands.update_many({A: 3, B: 1}),
    ],
    "write": [
        *(fenced_commands.update(A, GENERATION, status) for status in STATUSES),
        fenced_commands.fail(A, GENERATION, "why"),
    ],
    "write_ranks": [
        rank_commands.write_ranks([RankChange(A, rank, GENERATION, status) for rank in RANKS for status in KVPoll]),
        rank_commands.write_ranks([RankChange(A, rank, 0, KVPoll.WaitingForInput) for rank in RANKS]),
        rank_commands.write_ranks([RankChange(A, RANKS[0], GENERATION, KVPoll.Failed, "why", 7)]),
        rank_commands.write_ranks([RankChange(A, rank, GENERATION, clears=True) for rank in RANKS]),
    ],
    "open": [
        fenced_commands.open(A, REQUEST, 1, 0),
        fenced_commands.open(A, "another", 2, GENERATION + 10**15),
        fenced_commands.open(B, None, 1, 0),
    ],
    "replay": [
        replay(A),
        replay(A, B, status="Transferring", length="7"),
        replay(A, status="Failed", reason="why"),
        replay(A, status="WaitingForInput", role="attached"),
        replay(A, status="Success", role="cleared"),
        replay(A, generation=GENERATION - 1),
    ],
    "attach": [
        fenced_commands.attach(A),
        fenced_commands.status(A, GENERATION),
        fenced_commands.decode_prefix_len(A, GENERATION),
    ],
    "abort": [room_commands.abort(A, "why"), room_commands.abort(B, "why")],
    "reap": [
        lease_commands.reap([A], _OWNER["incarnation"], "why"),
        lease_commands.reap([A, B], LOST, "why"),
        lease_commands.reap([A, B], "1600000000000002", "why"),
    ],
    "record_failure": [room_commands.record_failure(A, "why"), fenced_commands.record_failure(A, GENERATION, "why")],
    "clear": [
        room_commands.clear(A),
        room_commands.clear_many([A, B]),
        room_commands.failure_exception(A),
        fenced_commands.clear(A, GENERATION),
        fenced_commands.clear_many({A: GENERATION, B: None}),
    ],
    "poll": [
        room_commands.get(A, None),
        room_commands.check_status(A),
        room_commands.poll([A, B, A]),
        room_commands.statuses([A, B], "counts"),
    ],
    "consensus": [room_commands.consensus([A, B])],
    "touch": [room_commands.touch([A, B])],
    "entry": [
        room_commands.entry(A),
        room_commands.entries([A, B]),
        room_commands.failure_reason(A),
        room_commands.collect(A),
    ],
    "set_prefix": [room_commands.set_decode_prefix_len(A, 7), fenced_commands.set_decode_prefix_len(A, GENERATION, 7)],
    "pop_prefix": [room_commands.pop_decode_prefix_len(A)],
    "failures": [bare("failures", FAILURES, [A, B])],
    "snapshot": [room_commands.wait(A), bare("snapshot", SNAPSHOT, [A, B])],
    "snapshot_fields": [bare("statistics", SNAPSHOT_FIELDS, [A, B]), room_commands.rows([A, B])],
}


def send(client, command, context):
    (call,) = command.calls(context)
    return client.eval(call.spec.script.source, *call.words()[2:])


def mark_lost(client, *incarnations):
    """Write what a sweep that found leases lost would."""
    for incarnation in incarnations or (_OWNER["incarnation"], LOST):
        client.hset(keys.leases("ns"), f"lost {incarnation}", "why")
    client.pexpire(keys.leases("ns"), 600_000)


def take_lease(client, context):
    """Write the record of a lease as a store would."""
    if context.owner:
        client.hset(keys.leases("ns"), context.owner, f"{context.incarnation} 5000 500 1700000000000 0")
        client.pexpire(keys.leases("ns"), 600_000)


# States before a call: each is made by calls of its own.


def absent(client, context):
    pass


def at(status):
    """A room of our generation and request, moved to a status by a store like ours."""

    def fill(client, context):
        send(client, replay(A), context)
        if status != 1:
            send(client, fenced_commands.update(A, GENERATION, status), context)

    return fill


def of_another_request(client, context):
    send(client, room_commands.update_status(A, 2), context)


def failed_of_another_request(client, context):
    send(client, room_commands.update_status(A, 1), context)
    send(client, room_commands.abort(A, "why"), context)


def by_another_rank(*statuses):
    """With a status of the other rank too; or of that rank alone, when ours is None."""

    def fill(client, context):
        other = table("rank", rank="1")
        ours, theirs = statuses
        send(client, replay(A, status=theirs), other)
        if ours:
            send(client, replay(A, status=ours, role="attached"), context)

    return fill


def cleared_by_us(client, context):
    by_another_rank("Transferring", "Transferring")(client, context)
    send(client, room_commands.clear(A), context)


def cleared_by_another(client, context):
    by_another_rank("Transferring", "Success")(client, context)
    send(client, room_commands.clear(A), table("rank", rank="1"))


def with_field(name, value):
    """A room with a field that was set by hand."""

    def fill(client, context):
        at(2)(client, context)
        client.hset(keys.rooms("ns", [A])[0], name, value)

    return fill


def with_other_ranks(client, context):
    send(client, replay(A), table("plain" if context.rank else "rank"))


def lease_lost(client, context):
    at(2)(client, context)
    client.delete(keys.leases("ns"))


def with_a_lost_lease(client, context):
    client.delete(keys.leases("ns"))


def fills(context):
    """The states that make a difference to a store of this kind."""
    found = [absent, *map(at, STATUSES), of_another_request, failed_of_another_request, with_other_ranks]
    found += [with_field("version", "v1"), with_field("status", "Done")]
    if context.rank:
        found += [by_another_rank(None, "Transferring"), by_another_rank("Success", "Bootstrapping")]
        found += [by_another_rank(None, "Failed"), by_another_rank("Success", "Failed")]
        found += [cleared_by_us, cleared_by_another]
    if context.owner:
        found += [lease_lost, with_a_lost_lease]
    return found


def named(specs):
    """The scripts' names, for two specs of one script with a number."""
    names = [spec.script.name for spec in specs]
    return [f"{name}{names[:at].count(name) or ''}" for at, name in enumerate(names)]
