"""Random sequences of operations, side by side on the oracle and on the store: every answer, and the whole table.

After every single operation the keys on the server are read as redis-cli would read them, and must be the oracle's:
which keys there are, their fields, their TTLs. And the table that follows from the feed must be the same.

On fakeredis the clock is moved, TTLs and the scripts' TIME with it. A real server's clock stands above us, so there
time passes by bringing every key's expiry nearer, and times are compared in steps too large for a slow test
to miss.
"""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from redis_kvpoll import KVPoll, Outcome, Update
from tests.support.fuzzing import examples
from tests.support.oracle import merge
from tests.support.oracle_bench import STEP, TERMINAL, TTL, Bench

# Two pairs; the two of each would be one number as a double. An example uses one pair, so that much happens to it.
PAIRS = ((2**53, 2**53 + 1), (2**63 - 2, 2**63 - 1))
A, B = PAIRS[0]


def operations_on(pair):
    """Lists of operations on two rooms. Updates are frequent, since all else acts on their rooms."""
    room, status = st.sampled_from(pair), st.sampled_from(KVPoll)
    rooms = st.lists(room, max_size=4)
    reason = st.sampled_from(("cause", "symptom", "naïve ☃\n"))
    length = st.sampled_from((0, 1, 2**53 - 1))
    operation = st.one_of(
        *[st.tuples(st.just("update_status"), room, status)] * 4,
        *[st.tuples(st.just("update_many"), st.dictionaries(room, status))] * 2,
        *[st.tuples(st.just("abort"), room, reason)] * 2,
        st.tuples(st.just("abort"), room),
        *[st.tuples(st.just("record_failure"), room, reason)] * 2,
        *[st.tuples(st.just("set_decode_prefix_len"), room, length)] * 2,
        *[st.tuples(st.just("touch"), rooms)] * 2,
        st.tuples(st.sampled_from(("poll", "clear_many")), rooms),
        st.tuples(st.sampled_from(("clear", "failure_exception", "pop_decode_prefix_len")), room),
        st.tuples(st.sampled_from(("get", "check_status", "failure_reason", "entry")), room),
        st.tuples(st.just("get"), room, st.just("gone")),
        st.tuples(st.just("rooms"), st.none() | status),
        st.tuples(st.just("counts")),
        *[st.tuples(st.just("pass_time"), st.integers(1, 10).map(STEP.__mul__))] * 2,
    )
    return st.lists(operation, min_size=10, max_size=40)


CONFIGURATIONS = [(p, m, s) for p in ("compat", "strict") for m in ("prefill", "none") for s in (1, 3)]


# Rare at random: what each operation does to reasons, lengths and TTLs.
@example(
    ("compat", "prefill", 3),
    [
        ("set_decode_prefix_len", A, 1),
        ("update_many", {A: KVPoll.Transferring, B: KVPoll.Success}),
        ("pass_time", 300),
        ("touch", [A, B]),
        ("record_failure", A, "cause"),
        ("record_failure", A, "symptom"),
        ("abort", A, "symptom"),
        ("pass_time", 100),
        ("update_status", A, KVPoll.Failed),
        ("touch", [A, B]),
        ("update_status", A, KVPoll.Success),
        ("entry", A),
        ("pass_time", 400),
        ("entry", A),
    ],
)
@example(
    ("strict", "prefill", 1),
    [
        ("update_status", A, KVPoll.Success),
        ("set_decode_prefix_len", A, 1),
        ("pop_decode_prefix_len", A),
        ("pop_decode_prefix_len", A),
        ("set_decode_prefix_len", A, 1),
        ("update_status", A, KVPoll.Failed),
        ("update_status", A, KVPoll.WaitingForInput),
        ("set_decode_prefix_len", A, 1),
        ("abort", A, "cause"),
        ("update_status", A, KVPoll.Success),
        ("failure_exception", A),
    ],
)
@given(st.sampled_from(CONFIGURATIONS), st.sampled_from(PAIRS).flatmap(operations_on))
@examples(60)
def test_store_and_oracle_agree(server, client, make_store, stores, configuration, operations):
    policy, mode, shards = configuration
    if configuration not in stores:
        options = {"policy": policy, "mode": mode, "shards": shards, "ttl": TTL, "terminal_ttl": TERMINAL}
        stores[configuration] = make_store(namespace="-".join(map(str, configuration)), **options)
    Bench(server, client, stores[configuration], policy, mode, shards).run(operations)


@pytest.fixture
def stores():
    """The stores of one test by their settings, so that examples need no new connections."""
    return {}


TABLE = """
absent           Failed           skipped    skipped
absent           Bootstrapping    created    created
absent           WaitingForInput  created    created
absent           Transferring     created    skipped
absent           Success          created    skipped
Failed           Failed           unchanged  unchanged
Failed           Bootstrapping    advanced   unchanged
Failed           WaitingForInput  advanced   unchanged
Failed           Transferring     advanced   unchanged
Failed           Success          advanced   unchanged
Bootstrapping    Failed           failed     failed
Bootstrapping    Bootstrapping    unchanged  unchanged
Bootstrapping    WaitingForInput  advanced   advanced
Bootstrapping    Transferring     advanced   advanced
Bootstrapping    Success          advanced   advanced
WaitingForInput  Failed           failed     failed
WaitingForInput  Bootstrapping    unchanged  unchanged
WaitingForInput  WaitingForInput  unchanged  unchanged
WaitingForInput  Transferring     advanced   advanced
WaitingForInput  Success          advanced   advanced
Transferring     Failed           failed     failed
Transferring     Bootstrapping    unchanged  unchanged
Transferring     WaitingForInput  unchanged  unchanged
Transferring     Transferring     unchanged  unchanged
Transferring     Success          advanced   advanced
Success          Failed           failed     failed
Success          Bootstrapping    unchanged  unchanged
Success          WaitingForInput  unchanged  unchanged
Success          Transferring     unchanged  unchanged
Success          Success          unchanged  unchanged
"""


def test_whole_rule_matches_handwritten_table(make_store, client):
    """The authority for ``merge``: oracle and store must both equal the table that is written out by hand."""
    stores = {policy: make_store(policy=policy, namespace=policy) for policy in ("compat", "strict")}
    for line in TABLE.split("\n")[1:-1]:
        there, incoming, *outcomes = line.split()
        for policy, outcome in zip(("compat", "strict"), outcomes, strict=True):
            current, status = None if there == "absent" else KVPoll[there], KVPoll[incoming]
            after = current if outcome in ("skipped", "unchanged") else status
            expected = Update(Outcome[outcome.upper()], after)
            store = stores[policy]
            store.clear(1)
            if current is not None:
                store.update_status(1, KVPoll.Bootstrapping)
                store.update_status(1, current)
            assert merge(policy, current, status) == expected, line
            assert store.update_status(1, status) == expected, line
            assert store.get(1) == after, line
    assert len(TABLE.split("\n")) - 2 == 6 * 5


def test_batches_of_many_calls_keep_rooms_in_order(make_store):
    store = make_store(shards=2)
    statuses = {room * 8: KVPoll(room % 4 + 1) for room in range(2_500)}
    assert {r: u.status for r, u in store.update_many(statuses).items()} == statuses
    asked = [*reversed(statuses), 1, *statuses]
    assert store.poll(asked) == [statuses.get(room) for room in asked]
    assert sorted(store.rooms(KVPoll.Success)) == [r for r, status in statuses.items() if status is KVPoll.Success]
    assert store.touch(asked) == sum(not status.is_terminal for status in statuses.values())
    assert store.clear_many(asked) == {room: statuses.get(room) for room in asked}
    assert store.counts() == dict.fromkeys(KVPoll, 0)
