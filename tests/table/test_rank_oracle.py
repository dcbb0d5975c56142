"""Random operations of several ranks, and of a store without one, on the stores and on the oracle of ranks.

As in test_oracle.py: after every operation the whole server must be as the oracle has it.
"""

from __future__ import annotations

import contextlib
import dataclasses

import pytest
import time_machine
from hypothesis import example, given
from hypothesis import strategies as st

from redis_kvpoll import Consensus, KVPoll, KVTransferError, RoomNotFoundError, WorldSizeMismatchError
from redis_kvpoll.protocol import keys
from tests.support.fuzzing import examples
from tests.support.oracle_bench import START, STEP, TERMINAL, TTL, Bench
from tests.support.ranked import StoreOracle, Table

BOOT, INPUT, MOVE, DONE, FAIL = (KVPoll(number) for number in (1, 2, 3, 4, 0))
A, B = 2**63 - 2, 2**63 - 1


def operations_of(world_size):
    """Lists of (store, operation, arguments). The last store is the operator: it has no rank, and acts seldom."""
    room, status = st.sampled_from((A, A, B)), st.sampled_from(KVPoll)
    rooms = st.lists(room, max_size=3)
    reason = st.sampled_from(("cause", "symptom"))
    operation = st.one_of(
        *[st.tuples(st.just("update_status"), room, status)] * 6,
        *[st.tuples(st.just("update_many"), st.dictionaries(room, status))] * 2,
        *[st.tuples(st.just("abort"), room, reason)] * 2,
        *[st.tuples(st.just("clear"), room)] * 4,
        st.tuples(st.just("record_failure"), room, reason),
        *[st.tuples(st.just("set_decode_prefix_len"), room, st.integers(0, 9))] * 2,
        st.tuples(st.just("touch"), rooms),
        st.tuples(st.sampled_from(("poll", "clear_many", "consensus")), rooms),
        st.tuples(st.sampled_from(("failure_exception", "pop_decode_prefix_len", "collect")), room),
        st.tuples(st.sampled_from(("get", "check_status", "failure_reason", "entry")), room),
        st.tuples(st.just("rooms"), st.none() | status),
        st.tuples(st.just("counts")),
        st.tuples(st.just("pass_time"), st.integers(1, 10).map(STEP.__mul__)),
    )
    at = st.sampled_from([*range(world_size)] * 4 + [world_size])
    return st.lists(st.tuples(at, operation).map(lambda found: (found[0], *found[1])), min_size=10, max_size=40)


class RankedBench(Bench):
    """Stores of all ranks and one without, over one server that is empty; ``stores`` in this order."""

    def __init__(self, server, client, stores, namespace, policy, mode, shards):
        super().__init__(server, client, None, policy, mode, shards)
        self.namespace, self.stores = namespace, stores
        self.replay = type(self.replay)(client, keys.tags(namespace, shards))
        self.oracle = Table(policy, mode, TTL, TERMINAL, START)
        world_size = len(stores) - 1
        self.oracles = [StoreOracle(self.oracle, rank, world_size) for rank in range(world_size)]
        self.oracles.append(StoreOracle(self.oracle))
        self.last_consensus = {}

    def run(self, operations):
        with time_machine.travel(START, tick=False) if self.server.is_fake else contextlib.nullcontext() as self.clock:
            for at, name, *args in operations:
                if name == "pass_time":
                    self.pass_time(*args)
                else:
                    expected, found = answer(self.oracles[at], name, args), answer(self.stores[at], name, args)
                    assert self.comparable(found) == self.comparable(expected), (at, name, args)
                assert self.on_server() == self.in_oracle(), (at, name, args)
                assert self.in_feed() == self.feed_of_oracle(), (at, name, args)
                self.compare_views()

    def compare_views(self):
        """Every rank's view of every room; and of two consensus reads, the later has the higher version."""
        for store, oracle in zip(self.stores, self.oracles, strict=True):
            assert store.poll([A, B]) == oracle.poll([A, B])
        for room, found in zip((A, B), self.stores[0].consensus([A, B]), strict=True):
            before = self.last_consensus.get(room)
            if found.status is not None:
                if before and found.status != before.status and self.oracle.rooms[room].world_size:
                    assert found[1:] > before[1:]
                assert not before or found[1:] >= before[1:]
                self.last_consensus[room] = found

    def in_oracle(self):
        table, now = {}, self.oracle.now
        for number, there in self.oracle.rooms.items():
            fields = {"status": there.status.name, "reason": there.reason, "failed_by": there.failed_by}
            fields |= {"opened_ms": str(int(there.opened * 1000)), "updated_ms": str(int(there.updated * 1000))}
            if there.world_size:
                fields |= {"world_size": str(there.world_size), "version": str(there.version)}
                fields["counts"] = " ".join(map(str, there.counts()))
            fields |= {f"status:{rank}": status.name for rank, status in there.live.items()}
            fields |= {f"cleared:{rank}": status.name for rank, status in there.cleared.items()}
            fields = {name: value for name, value in fields.items() if value is not None}
            table[keys.rooms(self.tag(number), [number])[0]] = (self.shown(fields), self.seconds(there.expires - now))
        for number, lengths in self.oracle.lengths.items():
            fields = {"length" if r is None else f"length:{r}": str(length) for r, length in lengths.of.items()}
            table[keys.prefixes(self.tag(number), [number])[0]] = (fields, self.seconds(lengths.expires - now))
        return table

    def feed_of_oracle(self):
        now = self.oracle.now
        return {
            room: (there.status, there.reason, self.seconds(there.expires - now))
            for room, there in self.oracle.rooms.items()
        }

    def comparable(self, value):
        if isinstance(value, list):
            return [v._replace(generation=0) if isinstance(v, Consensus) else v for v in value]
        value = super().comparable(value)
        return dataclasses.replace(value, ranks=dict(value.ranks)) if dataclasses.is_dataclass(value) else value


def answer(table, name, args):
    try:
        found = getattr(table, name)(*args)
    except (RoomNotFoundError, KVTransferError, WorldSizeMismatchError) as error:
        return type(error), error.args
    return sorted(found) if name == "rooms" else found


CONFIGURATIONS = [(p, m, n) for p in ("compat", "strict") for m in ("prefill", "none") for n in (1, 2, 3)]


# Rare at random: the whole life of a room, a failure seen by a rank without status, a room that is used again.
@example(
    (
        ("compat", "prefill", 2),
        [
            (1, "set_decode_prefix_len", A, 7),
            (0, "update_status", A, BOOT),
            (0, "set_decode_prefix_len", A, 8),
            (1, "update_status", A, DONE),
            (0, "update_status", A, DONE),
            (0, "clear", A),
            (0, "set_decode_prefix_len", A, 9),
            (0, "update_status", A, DONE),
            (0, "abort", A, "late"),
            (1, "clear", A),
            (0, "pop_decode_prefix_len", A),
        ],
    )
)
@example(
    (
        ("compat", "prefill", 3),
        [
            (0, "update_status", A, MOVE),
            (0, "set_decode_prefix_len", A, 8),
            (3, "update_status", A, FAIL),
            (3, "abort", A, "by hand"),
            (1, "update_status", A, DONE),
            (0, "update_status", A, DONE),
            (1, "update_status", A, DONE),
            (2, "failure_exception", A),
            (2, "update_status", A, BOOT),
            (0, "clear", A),
            (1, "clear", A),
        ],
    )
)
@example(
    (
        ("strict", "prefill", 2),
        [
            (2, "update_status", A, BOOT),
            (2, "set_decode_prefix_len", A, 3),
            (0, "update_many", {A: FAIL, B: BOOT}),
            (0, "abort", A, "cause"),
            (0, "clear", A),
            (2, "update_many", {A: MOVE, B: MOVE}),
            (0, "set_decode_prefix_len", B, 3),
            (1, "clear", B),
            (1, "touch", [A, B]),
        ],
    )
)
@given(st.sampled_from(CONFIGURATIONS).flatmap(lambda found: st.tuples(st.just(found), operations_of(found[2]))))
@examples(40)
def test_ranks_and_their_oracle_agree(server, client, make_store, known, run):
    (policy, mode, world_size), operations = run
    namespace, shards = f"{policy}-{mode}-{world_size}", 3 if world_size == 3 else 1
    if namespace not in known:
        options = {"policy": policy, "mode": mode, "shards": shards, "ttl": TTL, "terminal_ttl": TERMINAL}
        ranks = [{"rank": rank, "world_size": world_size} for rank in range(world_size)] + [{}]
        known[namespace] = [make_store(namespace=namespace, **options, **rank) for rank in ranks]
    RankedBench(server, client, known[namespace], namespace, policy, mode, shards).run(operations)


@pytest.fixture
def known():
    """The stores of one test by their settings, so that examples need no new connections."""
    return {}
