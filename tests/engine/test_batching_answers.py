"""Calls that share a batch get the answers, and the errors, that each would get alone."""

from __future__ import annotations

import asyncio
import random

import pytest

from chaos.proxy import Proxy
from redis_kvpoll import (
    AsyncStatusStore,
    CorruptEntryError,
    KVPoll,
    Outcome,
    Update,
)
from tests.support import real
from tests.support.calls import gather
from tests.support.internals import executor_of
from tests.support.oracle import Oracle

BOOT, MOVE = KVPoll.Bootstrapping, KVPoll.Transferring


async def make_bad(client, room):
    """Make a room with an unknown status, and one whose keys have another type."""
    client.hset(f"kvpoll:{{default}}:room:{room}", "status", "Banana")
    client.expire(f"kvpoll:{{default}}:room:{room}", 600)
    for kind, key in (("room", room + 1), ("prefix", room + 1)):
        client.set(f"kvpoll:{{default}}:{kind}:{key}", "mine", ex=600)


GOOD = {
    "update_status": (lambda store, room: store.update_status(room, MOVE), Update(Outcome.ADVANCED, MOVE)),
    "abort": (lambda store, room: store.abort(room), Update(Outcome.FAILED, KVPoll.Failed)),
    "record_failure": (lambda store, room: store.record_failure(room, "why"), True),
    "touch": (lambda store, room: store.touch([room]), 1),
    "get": (lambda store, room: store.get(room), BOOT),
    "check_status": (lambda store, room: store.check_status(room), BOOT),
    "failure_reason": (lambda store, room: store.failure_reason(room), None),
    "clear": (lambda store, room: store.clear(room), BOOT),
    "set_decode_prefix_len": (lambda store, room: store.set_decode_prefix_len(room, 7), None),
    "pop_decode_prefix_len": (lambda store, room: store.pop_decode_prefix_len(room), 0),
}


@pytest.mark.parametrize("kind", ["valkey", "redis", "redis62"])
@pytest.mark.parametrize("operation", GOOD)
async def test_one_corrupt_room_fails_alone(operation, kind):
    call, answer = GOOD[operation]
    with real.World("sync") as world:
        server = world.shared(kind)
        async with AsyncStatusStore.from_url(server.url, deadline=60.0) as store:
            await store.update_many(dict.fromkeys(range(4), BOOT))
            with server.client() as client:
                await make_bad(client, 10)
            rooms = [0, 1, 11, 2, 10, 3]
            answers = dict(zip(rooms, await gather(*(call(store, room) for room in rooms)), strict=True))
    assert [answers[room] for room in range(4)] == [answer] * 4
    if operation != "clear":  # clear deletes them
        assert isinstance(answers[11], CorruptEntryError)
        assert answers[11].room == 11
    if operation in ("get", "check_status", "failure_reason", "update_status"):
        assert isinstance(answers[10], CorruptEntryError)
        assert (answers[10].room, answers[10].operation) == (10, operation)


# Operations on few rooms and their arguments, drawn at random.
MIXED = {
    "update_status": lambda chance, room: (room, chance.choice(list(KVPoll))),
    "get": lambda chance, room: (room,),
    "poll": lambda chance, room: ([room],),
    "clear": lambda chance, room: (room,),
    "touch": lambda chance, room: ([room],),
    "abort": lambda chance, room: (room, f"reason {chance.random()}"),
    "record_failure": lambda chance, room: (room, f"cause {chance.random()}"),
    "failure_reason": lambda chance, room: (room,),
    "set_decode_prefix_len": lambda chance, room: (room, chance.randrange(99)),
    "pop_decode_prefix_len": lambda chance, room: (room,),
}


@pytest.mark.parametrize("kind", ["valkey", "redis", "redis62"])
@pytest.mark.parametrize("mode", ["none", "prefill"])
async def test_mixed_calls_answer_in_call_order(kind, mode):
    """While scripts are flushed, replies of repeatable calls are lost, and batches overlap with new calls."""
    chance = random.Random(f"{kind} {mode}")
    with real.World("sync") as world, Proxy(world.shared(kind).socket) as proxy:
        oracle = Oracle("strict", mode, 900.0, 300.0, 0.0)
        options = {"policy": "strict", "mode": mode, "deadline": 60.0}
        async with AsyncStatusStore.from_url(proxy.url, **options) as store:
            with world.shared(kind).client() as client:
                await store.get(0)
                for _ in range(25):
                    if chance.random() < 0.5:
                        client.script_flush()
                    if chance.random() < 0.3:
                        executor_of(store).session.server_changed()
                    if chance.random() < 0.3:
                        proxy.lose_next_reply("touch")
                    names = [chance.choice(list(MIXED)) for _ in range(60)]
                    calls = [(name, MIXED[name](chance, chance.randrange(4))) for name in names]
                    tasks = []
                    for at, (name, args) in enumerate(calls):
                        tasks.append(asyncio.ensure_future(getattr(store, name)(*args)))
                        if chance.random() < 0.1:
                            await asyncio.sleep(chance.choice([0, 0.0005]) if at else 0)
                    expected = [getattr(oracle, name)(*args) for name, args in calls]
                    assert await gather(*tasks) == expected
