"""Eight processes write the same few rooms of a real server; some serial order explains all their answers.

How it is checked: every process notes each operation with its answer and the interval on the monotonic clock, which
all processes of a machine share, in which it was under way. ``support/linear.py`` then searches an order of each room's
operations that explains every answer and contradicts no interval. Rooms are independent (a batch is atomic a room,
not a whole), and linearizability is a local property: when each room has an order, so has the whole. The last
operations of a history are reads of the end state, made after all processes had finished, so an order that loses a
write does not explain them. The search itself is held against trying all permutations, and against histories of a
broken table.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redis_kvpoll import KVPoll, StatusStore
from tests.support import pace
from tests.support.fuzzing import examples
from tests.support.linear import ABSENT, Done, by_room, find_order, step

PROCESSES = 8
ROOMS = [0, 2**53 + 1, 2**64 - 1]
OPERATIONS = 150
"""A process. Few enough for seconds, and enough for some hundred a room."""
REAL = ("valkey", "redis", "redis62")
PARENT = PROCESSES
"""The process number of the test's own reads at the end."""


@pytest.fixture(scope="module")
def processes():
    folder = Path(__file__).parents[2]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "cwd": folder, "text": True, "bufsize": 1}
    running = [
        subprocess.Popen([sys.executable, "-m", "tests.support.hammer", str(n)], **pipes) for n in range(PROCESSES)
    ]
    yield running
    for process in running:
        process.stdin.close()  # which ends it
        process.stdout.close()
    for process in running:
        assert process.wait(pace.seconds(120)) == 0


def hammer(processes, job):
    """Start all processes at the same moment; return all their histories in one list."""
    watch = threading.Timer(pace.seconds(30), lambda: [process.kill() for process in processes])
    watch.start()
    try:
        for process in processes:
            process.stdin.write(json.dumps(job) + "\n")
        assert [process.stdout.readline() for process in processes] == ["ready\n"] * PROCESSES
        for process in processes:
            process.stdin.write("go\n")
        return [Done(*done) for process in processes for done in json.loads(process.stdout.readline())]
    finally:
        watch.cancel()


@pytest.mark.parametrize("server", REAL, indirect=True)
def test_eight_processes_see_one_serial_order(server, processes, policy):
    job = {"url": server.url, "namespace": policy, "policy": policy, "rooms": ROOMS, "count": OPERATIONS, "seed": 1}
    history = hammer(processes, job)
    now = max(done.ended for done in history) + 1
    with StatusStore.from_url(server.url, namespace=policy) as store:
        for room in ROOMS:
            history.append(Done(PARENT, room, "get", None, store.get(room), now, now))
            history.append(Done(PARENT, room, "failure_reason", None, store.failure_reason(room), now + 1, now + 1))
            present = room in store.rooms()
            made = sum(done.room == room and done.answer[0] == "CREATED" for done in history if done.name == "update")
            cleared = sum(done.room == room and done.answer is not None for done in history if done.name == "clear")
            assert made - cleared == present
    assert overlaps(history) > 100, "the processes took turns: this run proves nothing"
    assert len(history) >= PROCESSES * OPERATIONS
    for room, of_room in by_room(history).items():
        assert find_order(policy, of_room), f"room {room}: no serial order explains {sorted(of_room)}"


def overlaps(history):
    """How many operations overlapped with another one on the same room."""
    count = 0
    for of_room in by_room(history).values():
        in_time = sorted(of_room, key=lambda done: done.began)
        count += sum(later.began < earlier.ended for earlier, later in itertools.pairwise(in_time))
    return count


# The checker itself


def history_of(*lines):
    """A history from lines of (process, began, ended, name, argument, answer)."""
    return [
        Done(number, 1, name, argument, answer, began, ended) for number, began, ended, name, argument, answer in lines
    ]


BOOT, MOVE, OK, FAIL = KVPoll.Bootstrapping, KVPoll.Transferring, KVPoll.Success, KVPoll.Failed

IMPOSSIBLE = {
    "two calls created the same room": [
        (0, 0, 9, "update", BOOT, ["CREATED", BOOT]),
        (1, 0, 9, "update", MOVE, ["CREATED", MOVE]),
    ],
    "a write was lost": [
        (0, 0, 1, "update", BOOT, ["CREATED", BOOT]),
        (0, 2, 9, "update", MOVE, ["ADVANCED", MOVE]),
        (1, 2, 9, "abort", "why", ["FAILED", FAIL]),
        (2, 10, 11, "get", None, MOVE),
    ],
    "an abort failed a room whose clear had ended before": [
        (0, 0, 1, "update", BOOT, ["CREATED", BOOT]),
        (0, 2, 3, "clear", None, BOOT),
        (1, 4, 5, "abort", "why", ["FAILED", FAIL]),
    ],
    "two clears took the same room": [
        (0, 0, 1, "update", BOOT, ["CREATED", BOOT]),
        (0, 2, 9, "clear", None, BOOT),
        (1, 2, 9, "clear", None, BOOT),
    ],
    "the second cause replaced the first": [
        (0, 0, 1, "update", BOOT, ["CREATED", BOOT]),
        (0, 2, 3, "abort", "first", ["FAILED", FAIL]),
        (1, 4, 5, "record_failure", "second", True),
    ],
}


@pytest.mark.parametrize("story", IMPOSSIBLE)
def test_checker_rejects_impossible_history(story):
    assert find_order("strict", history_of(*IMPOSSIBLE[story])) is None


def test_checker_accepts_history_that_needs_overlap():
    history = history_of(
        (0, 0, 1, "update", BOOT, ["CREATED", BOOT]),
        (0, 2, 9, "clear", None, FAIL),
        (1, 3, 8, "abort", "why", ["FAILED", FAIL]),
        (2, 4, 5, "get", None, BOOT),
        (2, 6, 7, "failure_reason", None, "why"),
    )
    assert [done.name for done in find_order("strict", history)] == [
        "update",
        "get",
        "abort",
        "failure_reason",
        "clear",
    ]


def read_then_write(client, number, status, clock):
    """A naive update: the status that was read may be old by the time of the write."""
    began = next(clock)
    current = client.get("status")
    yield
    current = None if current is None else KVPoll(int(current))
    outcome = "CREATED" if current is None else "ADVANCED" if status > current else "UNCHANGED"
    if outcome != "UNCHANGED":
        client.set("status", int(status), ex=600)
    yield Done(number, 1, "update", status, [outcome, max(status, current or status)], began, next(clock))


@pytest.mark.parametrize(("turns", "accepted"), [("0011", True), ("1100", True), ("0110", False), ("0101", False)])
def test_checker_finds_read_then_write(server, client, turns, accepted):
    clock = itertools.count()
    running = [read_then_write(client, 0, BOOT, clock), read_then_write(client, 1, MOVE, clock)]
    history = [done for turn in turns if (done := next(running[int(turn)])) is not None]
    last = client.get("status")
    history.append(Done(PARENT, 1, "get", None, KVPoll(int(last)), next(clock), next(clock)))
    assert (find_order("compat", history) is not None) is accepted


@st.composite
def small_histories(draw):
    """Up to six operations by three processes, with answers that are right in the order drawn, one perhaps changed."""
    count = draw(st.integers(1, 6))
    operation = st.sampled_from([("update", s) for s in KVPoll] + [("abort", "why"), ("clear", None), ("get", None)])
    clock = dict.fromkeys(range(3), 0)
    state, history = ABSENT, []
    for at in range(count):
        number, (name, argument) = draw(st.integers(0, 2)), draw(operation)
        answer, state = step("strict", state, name, argument)
        began = draw(st.integers(clock[number], max(clock[number], at * 4)))
        clock[number] = ended = draw(st.integers(max(began, at * 4), at * 4 + 8))
        history.append(Done(number, 1, name, argument, answer, began, ended))
        clock[number] += 1
    if draw(st.booleans()):
        at, other = draw(st.integers(0, count - 1)), draw(st.integers(0, count - 1))
        history[at] = history[at]._replace(answer=history[other].answer)
    return history


@given(small_histories())
@examples(300)
def test_checker_agrees_with_all_permutations(history):
    assert (find_order("strict", history) is not None) is any(map(explains, itertools.permutations(history)))


def explains(order):
    state = ABSENT
    for at, done in enumerate(order):
        answer, state = step("strict", state, done.name, done.argument)
        if answer != done.answer or any(later.ended < done.began for later in order[at + 1 :]):
            return False
        if any(later.process == done.process and later.began < done.began for later in order[at + 1 :]):
            return False
    return True


def test_small_histories_are_of_both_kinds():
    """Otherwise the test above would only compare True with True."""
    kinds = Counter()

    @given(small_histories())
    @examples(200)
    def count(history):
        kinds[find_order("strict", history) is not None] += 1

    count()
    assert min(kinds[True], kinds[False]) > 20
