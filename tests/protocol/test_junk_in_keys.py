"""What hands wrote into the keys of a table fails no script, and harms no other room.

Each example makes a table, spoils one field or key, runs one script on the spoiled room and on a sound one in the same
call, and compares with the same call on a table that was not spoiled.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.exceptions import ResponseError

from redis_kvpoll import CorruptEntryError, KVPoll, KVPollError, Outcome, ServerRefusedError
from redis_kvpoll.engine.recovery import tracking
from redis_kvpoll.engine.recovery.marks import Mark, mark_of
from redis_kvpoll.engine.recovery.tracked_rooms import TrackedRooms
from redis_kvpoll.protocol import fenced_commands, keys, lease_commands, rank_commands, room_commands
from redis_kvpoll.protocol.feed import parse_entry
from redis_kvpoll.protocol.rank_commands import RankChange
from redis_kvpoll.protocol.script_specs import SNAPSHOT
from tests.support.calls_of_scripts import (
    _OWNER,
    GENERATION,
    RANKS,
    REQUEST,
    A,
    B,
    bare,
    mark_lost,
    replay,
    send,
    table,
    take_lease,
)
from tests.support.feeds import entries
from tests.support.fuzzing import examples

C = 7
"""A room that no call names."""
LAST_ID = "18446744073709551615-18446744073709551615"
INCARNATION = _OWNER["incarnation"]

CALLS = {
    **{f"update {s}": lambda room, s=s: room_commands.update_status(room, s) for s in range(5)},
    **{f"fenced {s}": lambda room, s=s: fenced_commands.update(room, GENERATION, s) for s in (0, 2, 3, 4)},
    "open again": lambda room: fenced_commands.open(room, REQUEST, 1, 0),
    "open another": lambda room: fenced_commands.open(room, "another", 2, GENERATION),
    "replay": lambda room: replay(room, status="Transferring", length="7"),
    "replay cleared": lambda room: replay(room, status="Transferring", role="cleared"),
    "replay failed": lambda room: replay(room, status="Failed", reason="why"),
    "replay newer": lambda room: replay(room, generation=GENERATION + 5),
    "replay lost": lambda room: replay(
        room, loss="server", opened=f"100-1/{room}/{GENERATION}", written=f"{LAST_ID}//"
    ),
    "attach": fenced_commands.attach,
    "abort": lambda room: room_commands.abort(room, "why"),
    "reap": lambda room: lease_commands.reap([room], INCARNATION, "why"),
    "record_failure": lambda room: room_commands.record_failure(room, "why"),
    "fenced record_failure": lambda room: fenced_commands.record_failure(room, GENERATION, "why"),
    "clear": room_commands.clear,
    "fenced clear": lambda room: fenced_commands.clear(room, GENERATION),
    "failure_exception": room_commands.failure_exception,
    "poll": lambda room: room_commands.poll([room]),
    "get": lambda room: room_commands.get(room, None),
    "consensus": lambda room: room_commands.consensus([room]),
    "touch": lambda room: room_commands.touch([room]),
    "entry": room_commands.entry,
    "collect": room_commands.collect,
    "set_prefix": lambda room: room_commands.set_decode_prefix_len(room, 7),
    "fenced set_prefix": lambda room: fenced_commands.set_decode_prefix_len(room, GENERATION, 7),
    "pop_prefix": room_commands.pop_decode_prefix_len,
    "snapshot": lambda room: bare("snapshot", SNAPSHOT, [room]),
    **{
        f"ranks {change}": lambda room, change=change: rank_commands.write_ranks([RankChange(room, *change)])
        for change in [
            *((RANKS[0], GENERATION, KVPoll(status)) for status in (0, 2, 4)),
            (RANKS[0], 0, KVPoll.Bootstrapping, "", 7),
            (RANKS[0], GENERATION, None, "", None, True),
        ]
    },
}
ROOM_FIELDS = ["status", "generation", "opened", "opened_ms", "updated_ms", "request", "owner", "incarnation", "reason"]
ROOM_FIELDS += [
    "failed_by",
    "replayed",
    "world_size",
    "version",
    "status:0",
    "status:1",
    "cleared:0",
    "status:x",
    "by:0",
    "by:1",
]
SHARED = {"feed": keys.feed, "epoch": keys.epoch, "leases": keys.leases, "owned": keys.owned, "cleared": keys.cleared}
SHARED |= {"failed": keys.failed, "due": keys.due, "refused": keys.refused, "settings": keys.settings}
LONG = {f"9 x {count}": b"9" * count for count in (16, 17, 30, 400, 5000)}
"""By name, since hypothesis prints what it chooses from."""
SHARED_FIELDS = [("epoch", "epoch"), ("epoch", "generation"), ("leases", "prefill-0"), ("cleared", str(A))]
SHARED_FIELDS += [("leases", f"lost {INCARNATION}"), ("leases", f"failed {INCARNATION}")]
SHARED_FIELDS += [("refused", "skipped"), ("refused", "stale"), ("refused", "last")]
VALUES = ["", "abc", "007", "-1", "1.5", "nan", "inf", "1e400", "0x10", " 1", "1 ", *LONG]
VALUES += [str(2**53), str(2**63 - 1), str(2**64), LAST_ID, "1-x", "Success", "Failed", "Banana", "absent"]
values = st.sampled_from(VALUES).map(str.encode) | st.binary(max_size=20)

FEED_NAMES = ["ttl_ms", str(A), "007", "9 x 30", "9 x 5000", "rank:0", "first:007", "first", "reason", "x", ""]
entry_words = st.lists(
    st.tuples(st.sampled_from(FEED_NAMES), st.sampled_from([*VALUES, "900000"])), min_size=1, max_size=3
)


@st.composite
def spoilings(draw):
    """(what, where, value): a field of a room or its prefix length, or a whole key."""
    what = draw(st.sampled_from(["room", "room", "room", "prefix", "shared", "type", "entry", "last entry"]))
    if what == "room":
        return what, draw(st.sampled_from(ROOM_FIELDS)), draw(values)
    if what == "prefix":
        return what, draw(st.sampled_from(["length", "length:0", "generation"])), draw(values)
    if what == "shared":
        return what, draw(st.sampled_from(SHARED_FIELDS)), draw(values)
    if what == "type":
        return what, draw(st.sampled_from(["room", "prefix", *SHARED])), b""
    return what, None, draw(entry_words)


def expanded(value):
    return LONG.get(value.decode("latin-1") if isinstance(value, bytes) else value, value)


def spoil(client, spoiling):
    what, where, value = spoiling
    value = [expanded(word) for pair in value for word in pair] if isinstance(value, list) else expanded(value)
    (room,), (prefix,) = keys.rooms("ns", [A]), keys.prefixes("ns", [A])
    if what in ("room", "prefix"):
        client.hset(room if what == "room" else prefix, where, value)
        client.pexpire(room if what == "room" else prefix, 600_000)
    elif what == "shared":
        client.hset(SHARED[where[0]]("ns"), where[1], value)
        client.pexpire(SHARED[where[0]]("ns"), 600_000)
    elif what == "type":
        key = {"room": room, "prefix": prefix}.get(where) or SHARED[where]("ns")
        client.delete(key)
        client.set(key, "by hand", px=600_000)
    else:
        client.execute_command("XADD", keys.feed("ns"), LAST_ID if what == "last entry" else "*", *value)
        client.pexpire(keys.feed("ns"), 600_000)


contexts = st.fixed_dictionaries(
    {
        "actor": st.sampled_from(["plain", "rank", "owner", "both"]),
        "policy": st.sampled_from(["compat", "strict"]),
        "mode": st.sampled_from(["none", "prefill"]),
    }
)
STATES = ("absent", "Bootstrapping", "Transferring", "Success", "Failed", "plain", "other rank")


def fill(client, context, state, name):
    """Three rooms in one state, for a call."""
    client.flushall()
    take_lease(client, context)
    for room in (A, B, C):
        if state == "plain":
            send(client, room_commands.update_status(room, 3), context)
        elif state == "other rank":
            send(client, replay(room, status="Transferring"), table("rank", rank="1"))
        elif state != "absent":
            send(client, replay(room, status=state, reason="cause" if state == "Failed" else "", length="5"), context)
    if name == "reap":
        mark_lost(client)


def rooms_of(client):
    """{room: its fields, or another type's value}, and those of the prefix lengths."""
    found = {}
    for kind, key_of in (("room", keys.rooms), ("prefix", keys.prefixes)):
        for room in (A, B, C):
            (key,) = key_of("ns", [room])
            found[kind, room] = client.hgetall(key) if client.type(key) in (b"hash", b"none") else client.get(key)
    return found


def call_both(client, name, context):
    """Run one call on both rooms; the merged call, and its reply or the error of the script."""
    commands = [CALLS[name](room) for room in (A, B)]
    first, second = [command.calls(context)[0] for command in commands]
    call = first.merged_with([second])
    try:
        return commands, call, client.eval(call.spec.script.source, *call.words()[2:])
    except ResponseError as error:
        return commands, call, error


def own_parts(call, reply):
    once = call.spec.feed + call.spec.epoch
    width = (len(reply) - once) // 2
    return reply[once : once + width], reply[once + width :]


def codes_and_statuses(part):
    """Of a reply about one room: the rest differs from run to run."""
    return [w for w in part if (isinstance(w, int) and w < 100) or (isinstance(w, bytes) and w.isalpha())]


def feed_of(client):
    return entries(client, "ns") if client.type(keys.feed("ns")) == b"stream" else []


def without_parts(fields):
    """Without the parts of leases, of which the feed does not tell."""
    is_part = (b"by:", b"incarnation")
    return {n: v for n, v in fields.items() if not n.startswith(is_part)} if isinstance(fields, dict) else fields


def check_changes_are_told(before, after, appended):
    """An entry names each room that has changed, with the status that it has now, as every reader parses it."""
    told = {room: status for _, fields in appended for room, status, *_ in parse_entry(fields)}
    for room in (A, B):
        old, new = without_parts(before["room", room]), without_parts(after["room", room])
        statuses = [fields.get(b"status") if isinstance(fields, dict) else None for fields in (old, new)]
        if old != new and statuses != [None, None]:
            assert told.get(room) == (statuses[1] or b"absent"), f"{old} became {new}"


def check_value(command, part):
    """The caller gets a value, or an error of this library that names the room. Returns the error for a corrupt one."""
    if command.spec.script is SNAPSHOT.script:  # for mirrors, without a decoder
        return None
    try:
        command.finish(command.rooms, command.decode(command.operation, command.rooms, part))
    except CorruptEntryError as error:
        return error
    except KVPollError:
        pass
    return None


def check_observed(call, reply, context):
    """A store looks at each reply before it is decoded: nothing in it may be an error for it."""
    rooms = TrackedRooms(60.0, 60.0, bool(context.rank))
    own, mark = reply[call.spec.feed + call.spec.epoch :], None
    if call.spec.feed and reply[0]:
        mark = Mark.parse(reply[0]) if b"/" in reply[0] else mark_of(call, reply[0], own)
    tracking.observe(rooms, call, own, mark, 0.0)
    for tracked in rooms.in_shard("ns").values():
        assert all(opening.id for opening in tracked.openings)
        assert str(tracked.written)


@pytest.fixture
def raw(server):
    """One client for all examples, which reads bytes."""
    return server.client()


class TestJunk:
    @given(st.sampled_from(sorted(CALLS)), st.sampled_from(STATES), contexts, spoilings())
    @examples(250)
    def test_spoiled_room_fails_alone(self, raw, name, state, context, spoiling):
        context, (what, where, _) = table(**context), spoiling
        fill(raw, context, state, name)
        _, call, reply = call_both(raw, name, context)
        expected = codes_and_statuses(own_parts(call, reply)[1])

        fill(raw, context, state, name)
        spoil(raw, spoiling)
        before, feed_before = rooms_of(raw), feed_of(raw)
        commands, call, reply = call_both(raw, name, context)
        after, feed_after = rooms_of(raw), feed_of(raw)
        if isinstance(reply, ResponseError):
            # A key that all rooms share: the call is refused as a whole, and has changed nothing.
            assert "WRONGTYPE" in str(reply)
            assert (what, where in SHARED) == ("type", True)
            assert (before, feed_before) == (after, feed_after)
            return
        is_kept = feed_after[: len(feed_before)] == feed_before
        check_changes_are_told(before, after, feed_after[len(feed_before) :] if is_kept else feed_after)
        assert [after[kind, C] for kind in ("room", "prefix")] == [before[kind, C] for kind in ("room", "prefix")]
        parts = own_parts(call, reply)
        errors = [check_value(command, part) for command, part in zip(commands, parts, strict=True)]
        for room, error in zip((A, B), errors, strict=True):
            if error is not None:
                assert error.room == room
                assert len(str(error)) < 400
                assert before["room", room] == after["room", room]
        if {what, where} & {"room", "prefix"}:
            assert codes_and_statuses(parts[1]) == expected
            assert errors[1] is None
        check_observed(call, reply, context)


@pytest.mark.parametrize(
    "joins",
    [
        fenced_commands.update(A, GENERATION, 2),
        rank_commands.write_ranks([RankChange(A, RANKS[0], GENERATION, KVPoll.WaitingForInput)]),
        rank_commands.write_ranks([RankChange(A, RANKS[0], GENERATION, KVPoll.WaitingForInput, "", 7)]),
    ],
    ids=["write", "write_ranks", "write_ranks with a length"],
)
def test_rank_joins_whatever_the_list_of_the_leases_is(client, joins):
    """It is written whole: its status, its entry in the feed, and its place in a new list."""
    context, owned = table("both"), keys.owned("ns")
    take_lease(client, context)
    send(client, replay(A), table("rank", rank="1"))
    client.set(owned, "by hand", px=600_000)
    before = len(entries(client, "ns"))
    send(client, joins, context)
    assert client.hget(*keys.rooms("ns", [A]), "status:0") == "WaitingForInput"
    assert len(entries(client, "ns")) == before + 1
    assert client.zrange(owned, 0, -1) == [str(A)]
    assert client.pttl(owned) > 0


@pytest.mark.parametrize("value", [b"abc", b"", b"inf", b"1.5"])
@pytest.mark.parametrize("spoiled", ["holder", "count"])
def test_reap_fails_a_room_whatever_else_the_keys_hold(client, spoiled, value):
    """A room that names a holder by hand, or a count of failed rooms that is none, hides no failure from the feed."""
    context = table("both")
    take_lease(client, context)
    for room in (B, A):
        send(client, replay(room), context)
    client.hset(keys.leases("ns"), f"lost {INCARNATION}", "owner prefill-0 lost")
    if spoiled == "holder":
        send(client, room_commands.update_status(A, 4), context)
        client.hset(*keys.rooms("ns", [A]), "by:1", value)
    else:
        client.hset(keys.leases("ns"), f"failed {INCARNATION}", value)
    send(client, lease_commands.reap([B, A], INCARNATION, "owner prefill-0 lost"), context)
    assert client.hget(*keys.rooms("ns", [B]), "status") == "Failed"
    told = [status for _, words in entries(client, "ns") for room, status, *_ in parse_entry(words) if room == B]
    assert told[-1:] == [b"Failed"]
    assert client.zrange(keys.owned("ns"), 0, -1) == []


class TestLengths:
    """Before September 2001, generations have 15 digits: as text they are above the later ones."""

    OLD = 999_999_999_999_999

    def test_open_ignores_a_seen_generation_below_the_last(self, client):
        first, second = (
            send(client, fenced_commands.open(room, REQUEST, 1, seen), table())[4]
            for room, seen in ((A, 0), (B, self.OLD))
        )
        assert int(second) > int(first)

    def test_replay_of_lower_generation_is_stale(self, client):
        assert send(client, replay(A), table())[2] == Outcome.CREATED.value
        assert send(client, replay(A, generation=self.OLD), table())[2] == Outcome.STALE.value
        assert client.hget(keys.rooms("ns", [A])[0], "generation") == str(GENERATION)

    def test_replay_leaves_the_last_generation_above(self, client):
        client.hset(keys.epoch("ns"), mapping={"epoch": "1-a", "generation": str(GENERATION)})
        client.pexpire(keys.epoch("ns"), 600_000)
        send(client, replay(A, generation=self.OLD), table())
        assert int(client.hget(keys.epoch("ns"), "generation")) > GENERATION


def test_call_refused_for_an_epoch_of_another_type_wrote_nothing(make_store, client, server):
    if server.is_fake:
        pytest.skip("fakeredis has another error message")
    handle = make_store().open(1)
    client.delete(keys.epoch("default"))
    client.set(keys.epoch("default"), "by hand", ex=600)
    (room,), feed = keys.rooms("default", [1]), keys.feed("default")
    before = client.hgetall(room), client.xlen(feed)
    with pytest.raises(ServerRefusedError, match="WRONGTYPE"):
        handle.update(KVPoll.Transferring)
    assert (client.hgetall(room), client.xlen(feed)) == before
