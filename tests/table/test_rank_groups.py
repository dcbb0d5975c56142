"""A caller that speaks for several ranks, beside a caller for each: the server must end as they leave it."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from redis_kvpoll import CorruptEntryError, KVPoll, LeaseLostError, Outcome, StatusStore, Update, WorldSizeMismatchError
from redis_kvpoll.protocol import fenced_commands, keys, room_commands
from redis_kvpoll.protocol.feed import parse_entry
from redis_kvpoll.protocol.rank_commands import RankChange, RankIdentity, write_ranks
from tests.support import real
from tests.support.calls_of_scripts import GENERATION, replay, send
from tests.support.contexts import context
from tests.support.feeds import entries
from tests.support.fuzzing import examples
from tests.support.internals import executor_of, run

BOOT, INPUT, MOVE, DONE, FAIL = (KVPoll(number) for number in (1, 2, 3, 4, 0))
A, B = 2**53 + 1, 2**64 - 1
WORLD_SIZE = 3
CLEAR, LENGTH = "clear", "length"
TAG = "ns"


def identity_of(rank):
    """Two ranks under leases of their own, and one without."""
    owned = {"owner": f"prefill-{rank}", "incarnation": f"170000000000000{rank + 1}"} if rank < 2 else {}
    return RankIdentity(rank, WORLD_SIZE, **owned)


def change_of(room, rank, act, is_fenced):
    generation = GENERATION if is_fenced or act in (CLEAR, LENGTH) else 0
    if act == CLEAR:
        return RankChange(room, identity_of(rank), generation, clears=True)
    if act == LENGTH:
        return RankChange(room, identity_of(rank), generation, length=rank + 7)
    return RankChange(room, identity_of(rank), generation, act, reason=f"rank {rank} says" if act == FAIL else "")


class Table:
    """One server, written by single calls or by groups."""

    def __init__(self, client, policy, mode):
        self.client, self.settings = client, {"policy": policy, "mode": mode, "nonce": "ab12", "feed_length": "1000"}
        client.flushall()
        client.hset(keys.epoch(TAG), "epoch", "1-ab12")
        for rank in range(2):
            _, _, owner, incarnation = identity_of(rank)
            client.hset(keys.leases(TAG), owner, f"{incarnation} 5000 500 1700000000000 0")

    def context(self, identity=None):
        if identity is None:
            return context(**self.settings)
        rank, world_size, owner, incarnation = identity
        words = {"rank": str(rank), "world_size": str(world_size), "owner": owner, "incarnation": incarnation}
        return context(**self.settings, **words)

    def open(self, room, rank):
        send(self.client, replay(room), self.context(identity_of(rank)))
        name = keys.rooms(TAG, [room])[0]
        self.client.hset(name, "version", "7")  # a replay's is the clock's
        self.client.hdel(name, "replayed")  # else no clear takes the fast path

    def one_by_one(self, changes):
        """Returns the replies of single calls."""
        found = []
        for change in changes:
            mine, room = self.context(change.identity), change.room
            if change.length is not None:
                command = fenced_commands.set_decode_prefix_len(room, change.generation, change.length)
                stored = send(self.client, command, mine)[-1]
                if change.status is None:
                    found.append(stored == 1)
            if change.clears:
                found.append(send(self.client, fenced_commands.clear(room, change.generation), mine)[2:4])
            elif change.status is not None and change.reason:
                build = fenced_commands.fail(room, 0 if not change.generation else change.generation, change.reason)
                items = [build.room_args[0], str(change.generation or ""), change.reason]
                found.append(send(self.client, build._replace(room_args=items), mine)[-2:])
            elif change.status is not None and change.generation:
                found.append(
                    send(self.client, fenced_commands.update(room, change.generation, change.status), mine)[-2:]
                )
            elif change.status is not None:
                found.append(send(self.client, room_commands.update_status(room, change.status), mine)[-2:])
        return found

    def together(self, changes):
        found = []
        for outcomes in send(self.client, write_ranks(changes), self.context())[2:]:
            told = [text.split(b" ", 1) for text in outcomes.split(b";")[:-1]]
            found += [[int(code), status or None] for code, status in told]
        return [
            words[0] == 3 if change.status is None and not change.clears else words
            for change, words in zip(changes, found, strict=True)
        ]

    def state(self):
        """Everything on the server, without times. A generation that was given by the clock has no number."""
        found = {}
        for key in sorted(self.client.keys("*")):
            kind, ttl = self.client.type(key), self.client.pttl(key)
            if kind == b"hash":
                fields = self.client.hgetall(key)
                for last in (b"since", b"last"):  # of refused writes: a group's last one is another
                    fields.pop(last, None)
                given = int(fields.get(b"generation", b"0")) > GENERATION
                times = {b"updated_ms", b"opened_ms", b"opened", *([b"generation"] if given else [])}
                found[key] = {name: value for name, value in fields.items() if name not in times}, round(ttl, -5)
            elif kind == b"zset":
                found[key] = self.client.zrange(key, 0, -1, withscores=True)
        return found

    def shown(self):
        """What a follower of the feed knows of each room."""
        rooms = {}
        for _, fields in entries(self.client, TAG):
            for room, status, ttl, reason, rank, rank_status in parse_entry(fields):
                if status == b"absent":
                    rooms.pop(room, None)
                    continue
                if rank is not None and rank.is_first:
                    rooms[room] = {}
                known = rooms.setdefault(room, {})
                known["status"] = status
                if ttl is not None:
                    known["ttl"] = ttl
                if reason is not None:
                    known["reason"] = reason
                if rank is not None:
                    known[rank.rank] = rank_status
        return rooms


acts = st.sampled_from([BOOT, INPUT, MOVE, DONE, FAIL, INPUT, DONE, CLEAR, CLEAR, LENGTH])
changes = st.lists(
    st.tuples(
        st.sampled_from([A, A, A, B]), st.sampled_from(range(WORLD_SIZE)), acts, st.sampled_from([True, True, False])
    ),
    min_size=1,
    max_size=12,
)
LIFE = [[(A, rank, act, True) for rank in range(WORLD_SIZE)] for act in (BOOT, INPUT, DONE, CLEAR)]


@pytest.fixture
def make_table(server):
    """Makes tables on one server, which is emptied each time."""
    client = server.client()

    def make(policy, mode):
        return Table(client, policy, mode)

    return make


@pytest.mark.parametrize("mode", ["none", "prefill"])
@example(batches=LIFE, damage=set())
@example(batches=LIFE[:3], damage=set())
@example(batches=[[one for step in LIFE for one in step]], damage=set())
@example(batches=[LIFE[0], [(A, 0, FAIL, True), (A, 1, INPUT, False), (A, 2, FAIL, True)], LIFE[3]], damage=set())
@example(batches=[[(A, 0, LENGTH, True), (A, 1, CLEAR, True), (A, 1, LENGTH, True)]], damage=set())
@example(batches=[[(A, 0, BOOT, False), (A, 1, INPUT, False), (A, 0, DONE, False)]], damage=set())
@given(
    batches=st.lists(changes, min_size=1, max_size=4),
    damage=st.sets(st.sampled_from(["lease", "counts", "version", "world_size", "replayed"])),
)
@examples(60)
def test_group_and_single_calls_agree(make_table, policy, mode, batches, damage):
    found = []
    for how in (Table.one_by_one, Table.together):
        table = make_table(policy, mode)
        client = table.client
        table.open(A, 0)
        room = keys.rooms(TAG, [A])[0]
        if "lease" in damage:
            client.hdel(keys.leases(TAG), "prefill-1")
        for name in sorted(damage - {"lease"}):
            client.hset(room, name, "9")
        replies = [how(table, [change_of(*words) for words in batch]) for batch in batches]
        found.append((replies, table.state(), table.shown()))
        for key in client.keys("*"):
            client.pexpire(key, 600_000)
    assert found[1] == found[0]


def test_mirror_follows_all_ranks_of_a_group(server):
    """One entry of the feed names them all."""
    with StatusStore(server.store_client(), rank=2, world_size=WORLD_SIZE) as store, store.mirror() as mirror:
        generation = store.open(A, request="rid").generation
        real.until(lambda: mirror.synced, "synced")
        for status in (BOOT, INPUT):
            run(store, executor_of(store).run(write_ranks(everybody(generation, status)), []))
            real.until(lambda now=status: mirror.collect(A) == dict.fromkeys(range(WORLD_SIZE), now), "seen")
        found = run(store, executor_of(store).run(write_ranks(everybody(generation, None)), []))
        assert [(update.outcome, update.status) for update in found] == [(Outcome.CLEARED, INPUT)] * WORLD_SIZE
        real.until(lambda: mirror.get(A) is None, "gone")
        assert len(list(store.history(A))) == 2 + 2 * WORLD_SIZE - 1


def everybody(generation, status):
    ranks = [RankIdentity(rank, WORLD_SIZE) for rank in range(WORLD_SIZE)]
    return [RankChange(A, rank, generation, status, clears=status is None) for rank in ranks]


def test_group_names_each_refusal(server):
    """A rank of a lost lease, one of another number of ranks, and one whose generation is over."""
    with StatusStore(server.store_client(), rank=0, world_size=WORLD_SIZE) as store:
        generation = store.open(A, request="rid").generation
        lost, other = RankIdentity(1, WORLD_SIZE, "prefill-1", "17"), RankIdentity(1, 2)
        changes = [
            RankChange(A, RankIdentity(0, WORLD_SIZE), generation, BOOT),
            RankChange(A, lost, generation, BOOT),
            RankChange(A, other, generation, BOOT),
            RankChange(A, RankIdentity(2, WORLD_SIZE), generation - 1, BOOT),
        ]
        found = run(store, executor_of(store).run(write_ranks(changes), []))
        assert [type(one) for one in found] == [Update, LeaseLostError, WorldSizeMismatchError, Update]
        assert [found[0].outcome, found[3].outcome] == [Outcome.UNCHANGED, Outcome.STALE]
        assert store.collect(A) == {0: BOOT}


def test_key_of_another_type_is_the_answer_to_each_rank(server, client):
    """The other rooms of the call have their own."""
    with StatusStore(server.store_client(), rank=0, world_size=WORLD_SIZE) as store:
        generation = store.open(A, request="rid").generation
        client.set(*keys.rooms("default", [B]), "by hand", px=600_000)
        corrupt = [change._replace(room=B) for change in everybody(generation, BOOT)]
        found = run(store, executor_of(store).run(write_ranks([*corrupt, *everybody(generation, BOOT)]), []))
        assert [type(one) for one in found] == [CorruptEntryError] * WORLD_SIZE + [Update] * WORLD_SIZE


def test_groups_of_many_rooms_are_bounded(server):
    """A call stops after 500 ranks, and the rest is sent."""
    ranks = [RankIdentity(rank, 64) for rank in range(64)]
    with StatusStore(server.store_client(), rank=0, world_size=64) as store:
        rooms = {room: store.open(room, request="rid").generation for room in range(20)}
        changes = [RankChange(room, rank, rooms[room], BOOT) for room in rooms for rank in ranks]
        found = run(store, executor_of(store).run(write_ranks(changes), []))
        assert [update.outcome for update in found] == [Outcome.UNCHANGED, *[Outcome.CREATED] * 63] * 20
        assert [len(store.collect(room)) for room in rooms] == [64] * 20
