"""The ranks of an instance as clients of one agent's sessions."""

from __future__ import annotations

import asyncio

from redis_kvpoll.agent import messages
from redis_kvpoll.agent.messages import ClientHello
from tests.support import pace
from tests.support.table_clients import Process

FAIL, BOOT, INPUT, MOVE, DONE = range(5)
RANKS = 8
A, B = 2**53 + 1, 7
LEASE = 60.0
"""Longer than any test."""


def hello_of(url, rank, **words):
    options = {"namespace": "t", "policy": "strict", "rank": rank, "world_size": RANKS}
    return ClientHello(url, options, f"h:{rank}", f"h:{rank}", "h", **{"lease": LEASE, "join": 60.0} | words)


def joining(sessions, url, **words):
    return [Process(sessions, hello_of(url, rank, **words)) for rank in range(RANKS)]


async def joined(sessions, url, **words):
    found = joining(sessions, url, **words)
    for rank in found:
        rank.lease = messages.decode_words(await rank.until(messages.LEASE))
        await rank.until(messages.JOINED)
    return found


async def opened(ranks, room):
    """Open a room for all of these ranks at once; return its generation."""
    for rank in ranks:
        rank.change(room, is_new=True, status=BOOT, request="rid")
    (generation,) = {(await rank.until_opened())[2] for rank in ranks}
    return generation


async def until(condition):
    """Wait until a condition, which is awaited, holds; return its result."""
    async with asyncio.timeout(pace.patience(60)):
        while not (found := await condition()):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        return found


async def flushed(ranks):
    await asyncio.gather(*(rank.session.inner.table.publisher.flush() for rank in ranks))


async def is_told(process, kind):
    return kind in process.kinds
