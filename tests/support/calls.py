"""Calls of the operations, with the answers to expect."""

from __future__ import annotations

import asyncio
import contextlib
import gc

import pytest

from redis_kvpoll import KVPoll, KVTransferError, Outcome, Update
from tests.support import pace
from tests.support.internals import executor_of

# Seconds: far below what a wrong retry or time limit would cost.
MARGIN = 15.0

# On room 1 at Bootstrapping: (script, call, answer). All of these may be repeated.
REPEATED = {
    "update_status": (
        "update",
        lambda store: store.update_status(1, 3),
        Update(Outcome.UNCHANGED, KVPoll.Transferring),
    ),
    "update_many": (
        "update",
        lambda store: store.update_many({1: 3}),
        {1: Update(Outcome.UNCHANGED, KVPoll.Transferring)},
    ),
    "abort": ("abort", lambda store: store.abort(1), Update(Outcome.UNCHANGED, KVPoll.Failed)),
    "record_failure": ("record_failure", lambda store: store.record_failure(1, "why"), True),
    "touch": ("touch", lambda store: store.touch([1]), 1),
    "set_decode_prefix_len": ("set_prefix", lambda store: store.set_decode_prefix_len(1, 7), None),
    "check_status": ("poll", lambda store: store.check_status(1), KVPoll.Bootstrapping),
    "poll": ("poll", lambda store: store.poll([1]), [KVPoll.Bootstrapping]),
    "entry": ("entry", lambda store: store.entry(1).status, KVPoll.Bootstrapping),
    "failure_reason": ("entry", lambda store: store.failure_reason(1), None),
}


def failed(store):
    with pytest.raises(KVTransferError) as caught:
        store.failure_exception(1)
    return caught.value.reason


DESTROYING = {
    "clear": ("clear", lambda store: store.clear(1), KVPoll.Bootstrapping),
    "clear_many": ("clear", lambda store: store.clear_many([1]), {1: KVPoll.Bootstrapping}),
    "pop_decode_prefix_len": ("pop_prefix", lambda store: store.pop_decode_prefix_len(1), 7),
    "failure_exception": ("clear", failed, "no reason was recorded"),
}


def works(store, server=None):
    """Assert that a store works; ``server`` is where its keys must be."""
    assert store.update_status(1, 1).outcome is Outcome.CREATED
    assert store.update_many({1: 3, 2: 2})[1].outcome is Outcome.ADVANCED
    assert store.poll([1, 2, 3]) == [KVPoll.Transferring, KVPoll.WaitingForInput, None]
    assert sorted(store.rooms()) == [1, 2]
    if server:
        with server.client() as client:
            assert client.exists("kvpoll:{default}:room:1")
    assert store.clear(1) is KVPoll.Transferring


@contextlib.contextmanager
def calls_may_take(store, seconds):
    """Give the calls that begin meanwhile another deadline: a long one to those that prepare for a call with a short
    one. A single try takes no longer than the store's own."""
    executor = executor_of(store)
    former, executor.deadline = executor.deadline, seconds
    try:
        yield
    finally:
        executor.deadline = former


async def gather(*calls):
    """The answers of calls that are made at once, errors among them."""
    async with asyncio.timeout(60):
        return await asyncio.gather(*calls, return_exceptions=True)


async def until(found, what, seconds=60):
    """Wait until something is true that happens in this event loop, for at most so many seconds of an idle machine."""
    try:
        async with asyncio.timeout(pace.patience(seconds)):
            while not found():  # noqa: ASYNC110 - what it waits for sets no event
                await asyncio.sleep(0.001)
    except TimeoutError:
        raise AssertionError(f"never came: {what}") from None


def objects_of(*types):
    """All objects of these types, by their identities; as long as they are kept here, no other gets the same."""
    return {id(one): one for one in gc.get_objects() if type(one) in types}


def put(store, room, status):
    """Bring a room to a status, under either policy."""
    store.update_status(room, KVPoll.Bootstrapping)
    store.update_status(room, status)
