"""Failures in the other table: what a client is told of them, and at what cost."""

from __future__ import annotations

import itertools
import time

import pytest

from redis_kvpoll import AsyncStatusStore
from redis_kvpoll.agent import messages
from redis_kvpoll.agent.messages import ClientHello
from redis_kvpoll.protocol import keys
from tests.support.table_clients import Process

FAIL, BOOT = 0, 1
ROOM, LATER = 7, 8
"""LATER is for a failure that is told, once another one has not been."""
LEASE = 60.0
"""Longer than any test."""
OWNER = "o:1"


def hello_of(url, namespace, owner, *, rank=None, **words):
    options = {"namespace": namespace, "policy": "strict"} | ({} if rank is None else {"rank": rank, "world_size": 2})
    return ClientHello(url, options, owner, owner, "i", **{"lease": LEASE, "join": 60.0} | words)


async def joined(sessions, hello):
    process = Process(sessions, hello)
    await process.until(messages.JOINED)
    return process


async def opened(process, *rooms):
    """Open rooms for a process, and wait until the table has them."""
    for room in rooms:
        process.change(room, is_new=True, status=BOOT, request="rid", opened_at=time.monotonic())
    await process.session.inner.table.publisher.flush()


@pytest.fixture
async def other(sessions, url):
    """A process of the other role."""
    return await joined(sessions, hello_of(url, "o", OWNER))


@pytest.fixture
async def others(url):
    """The other table, as an operator sees it."""
    async with AsyncStatusStore.from_url(url, namespace="o", policy="strict") as others:
        yield others


@pytest.fixture
async def ranks(sessions, url):
    """The ranks of an instance, which hear of failures in the other table."""
    return [await joined(sessions, hello_of(url, "t", f"h:{rank}", rank=rank, other="o")) for rank in range(2)]


async def read(process, count):
    """Ask for so many failures as they are told; return by room what is answered."""
    for _ in range(count):
        process.session.received(messages.READ_FAILURE, await process.until(messages.FAILURE_WAITS))
    answers = [messages.decode_words(await process.until(messages.FAILURE_READ)) for _ in range(count)]
    return {room: words for room, _, *words in answers}


class TestManyAtOnce:
    ROOMS = range(1, 101)

    @pytest.fixture
    async def monitor(self, other, ranks, client):
        """All rooms are open. What the server is asked from then on."""
        for process in (other, *ranks):
            await opened(process, *self.ROOMS)
        with client.monitor() as monitor:
            yield monitor

    def reads(self, monitor, client):
        """How often the owners of the other table were read."""
        client.echo("the end")
        said = itertools.takewhile(lambda said: said["command"] != "ECHO the end", monitor.listen())
        wanted = f"HGETALL {keys.leases('o')}"
        return sum(one["command"] == wanted and one["client_type"] != "lua" for one in said)

    async def test_death_of_an_owner_needs_no_list_of_owners(self, other, ranks, monitor, client):
        """Each of its rooms says who has failed it. All owners in each answer would be many bytes to read."""
        other.session.ended("killed")
        for rank in ranks:
            answers = await read(rank, len(self.ROOMS))
            assert {str(words) for words in answers.values()} == {str([OWNER, OWNER, f"owner {OWNER} lost", []])}
        assert self.reads(monitor, client) == 0

    async def test_aborts_by_hand_share_one_list_of_owners(self, others, ranks, monitor, client, monkeypatch):
        monkeypatch.setattr("redis_kvpoll.agent.session.known_owners.FRESH_SECONDS", 1e9)
        for room in self.ROOMS:
            await others.abort(room, "wrong model")
        for rank in ranks:
            answers = await read(rank, len(self.ROOMS))
            assert {str(words) for words in answers.values()} == {str([None, OWNER, "wrong model", [OWNER]])}
        assert self.reads(monitor, client) == 1


class TestGone:
    """The other engine has seen its room Failed, and has cleared it before the client asks."""

    @pytest.fixture
    async def process(self, sessions, url):
        return await joined(sessions, hello_of(url, "t", "h:1", other="o"))

    async def fail(self, other, process, room):
        """Fail and clear a room of the other table; return what the client was told of it."""
        other.change(room, status=FAIL, reason="no route", is_over=True)
        await other.session.inner.table.publisher.flush()
        return await process.until(messages.FAILURE_WAITS)

    async def first_answer(self, process, *told):
        """Ask for failures in this order; return the first answer."""
        for life in told:
            process.session.received(messages.READ_FAILURE, life)
        return messages.decode_words(await process.until(messages.FAILURE_READ))

    async def test_failure_counts_though_its_room_is_gone(self, other, others, process):
        await opened(other, ROOM)
        await opened(process, ROOM)
        told = await self.fail(other, process, ROOM)
        assert await others.entry(ROOM) is None
        assert await self.first_answer(process, told) == [ROOM, 1, OWNER, OWNER, "no route", []]

    async def test_failure_is_no_ones_that_had_the_room_before(self, other, process):
        """It may be of that use."""
        await opened(other, ROOM, LATER)
        await opened(process, ROOM, LATER)
        process.change(ROOM, is_over=True)
        process.change(ROOM, number=2, is_new=True, status=BOOT, request="next", opened_at=time.monotonic())
        told = [await self.fail(other, process, room) for room in (ROOM, LATER)]
        assert (await self.first_answer(process, *told))[0] == LATER

    async def test_failure_of_a_room_that_is_open_again_is_over(self, other, process):
        await opened(other, ROOM, LATER)
        await opened(process, ROOM, LATER)
        told = [await self.fail(other, process, ROOM)]
        other.change(ROOM, number=2, is_new=True, status=BOOT, request="next")
        told.append(await self.fail(other, process, LATER))
        assert (await self.first_answer(process, *told))[0] == LATER
