"""Searches for an order of one room's operations that explains the answers that concurrent processes got.

This is a search for a linearization (Wing and Gong, 1993): an order of all operations in which each one's answer is
the oracle's, and no operation comes before one that had ended before it began. At every point of the search each
process has one next operation; it may come now unless another process's next one had already ended when it began.
A position is how far each process has got, and the room's state. A position seen before is not searched again,
which makes histories of hundreds of operations quick. The answer is exact: no order is left out.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any, NamedTuple

from redis_kvpoll import KVPoll, Outcome
from tests.support.oracle import merge


class Done(NamedTuple):
    """One operation on one room, as the process that did it saw it. Times are of the system-wide monotonic clock."""

    process: int
    room: int
    name: str
    argument: Any
    answer: Any
    began: int
    ended: int


class State(NamedTuple):
    status: KVPoll | None = None
    reason: str | None = None


ABSENT = State()


def step(policy, state, name, argument):
    """(what the operation answers, the state after it)"""
    if name in ("update", "abort"):
        incoming = KVPoll.Failed if name == "abort" else KVPoll(argument)
        update = merge(policy, state.status, incoming)
        reason = state.reason
        if update.outcome is Outcome.ADVANCED and state.status == KVPoll.Failed:
            reason = None
        if name == "abort" and update.outcome is Outcome.FAILED:
            reason = reason or argument
        return [update.outcome.name, update.status], State(update.status, reason)
    if name == "clear":
        return state.status, ABSENT
    if name == "record_failure":
        if state.status is not None:
            state = State(state.status, state.reason or argument)
        return state.reason == argument, state
    if name == "get":
        return state.status, state
    if name == "failure_reason":
        return state.reason, state
    raise AssertionError(name)


def by_room(history):
    rooms = defaultdict(list)
    for done in history:
        rooms[done.room].append(done)
    return rooms


def find_order(policy, history):
    """A serial order of one room's operations that explains every answer, as a list; None when there is none."""
    processes = defaultdict(list)
    for done in sorted(history, key=lambda done: done.began):
        processes[done.process].append(done)
    lines = list(processes.values())
    seen, order = set(), []
    stack = [_choices(policy, lines, (0,) * len(lines), ABSENT)]
    while stack:
        if len(order) == len(history):
            return order
        for done, position, state in stack[-1]:
            if (position, state) not in seen:
                seen.add((position, state))
                order.append(done)
                stack.append(_choices(policy, lines, position, state))
                break
        else:
            stack.pop()
            if order:
                order.pop()
    return None


def _choices(policy, lines, position, state):
    """Each operation that may come next and whose answer fits: (it, the position and the state after it)."""
    waiting = [(at, lines[at][line]) for at, line in enumerate(position) if line < len(lines[at])]
    first_end = min((done.ended for _, done in waiting), default=0)
    for at, done in waiting:
        if done.began <= first_end:
            answer, after = step(policy, state, done.name, done.argument)
            if answer == done.answer:
                yield done, (*position[:at], position[at] + 1, *position[at + 1 :]), after
