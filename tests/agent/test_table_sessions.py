"""The sessions of an agent: what becomes of a lease when a process leaves, dies, comes back, or is not heard."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from redis_kvpoll import AsyncStatusStore, KVPoll, StoreUnavailableError
from redis_kvpoll.agent import messages
from redis_kvpoll.agent.messages import ClientHello
from redis_kvpoll.agent.session import session
from redis_kvpoll.aio.failures import AsyncFailures
from redis_kvpoll.protocol import keys
from tests.support import pace
from tests.support.table_clients import Process

OWNER = "h:1"
LEASE = 60.0
"""Longer than any test."""


@pytest.fixture
def hello(url):
    return ClientHello(url, {"namespace": "t", "policy": "strict"}, OWNER, OWNER, "h", LEASE, 60.0)


@pytest.fixture
async def store(url):
    async with AsyncStatusStore.from_url(url, namespace="t", policy="strict") as store:
        yield store


@pytest.fixture
async def process(sessions, hello):
    """A process with a room that the table has, and its lease as it was told."""
    process = Process(sessions, hello)
    process.change(1, is_new=True, status=1)
    process.lease = messages.decode_words(await process.until(messages.LEASE))
    [(_, _, process.generation)] = messages.decode_lives(await process.until(messages.OPENED))
    return process


async def test_process_that_says_goodbye_leaves(process, store):
    process.change(1, status=3)
    process.session.ended("goodbye")
    await process.until(messages.LEFT)
    assert (await store.get(1), await store.failure_reason(1)) == (KVPoll.Failed, f"owner {OWNER} left")
    assert KVPoll.Transferring in [change.status for change in await store.history(1)]


async def test_death_after_a_broken_connection_fails_its_rooms(process, store, sessions):
    process.session.ended("vanished")
    await asyncio.sleep(0.1)
    assert (await store.get(1), sessions.is_told()) == (KVPoll.Bootstrapping, False)
    process.session.ended("killed")
    await process.until(messages.LEFT)
    assert (await store.get(1), await store.failure_reason(1)) == (KVPoll.Failed, f"owner {OWNER} lost")


async def test_process_that_is_not_heard_opens_no_room(process, store):
    """Without its lease a room would have no owner."""
    room = await store.open(2, "another's")
    process.change(2, is_new=True, status=1)
    await asyncio.sleep(0.1)
    process.session.ended("vanished")
    await room.clear()
    await asyncio.sleep(1.5)  # longer than the pause before another try
    assert await store.get(2) is None
    process.session.ended("killed")


async def test_lease_stays_while_a_process_cannot_join_again(process, store, sessions, hello, monkeypatch):
    tries, enter = [], AsyncFailures.__aenter__

    async def entering(failures):
        tries.append(1)
        if len(tries) == 1:
            raise StoreUnavailableError("failures: the server has just gone")
        return await enter(failures)

    process.session.ended("superseded")
    await process.until(messages.LEFT)
    monkeypatch.setattr(AsyncFailures, "__aenter__", entering)
    again = Process(sessions, replace(hello, former=process.lease))
    again.change(1, is_new=True, status=3, generation=process.generation)
    await again.until(messages.OPENED)
    assert (len(tries), (await store.entry(1)).generation) == (2, process.generation)
    assert await store.get(1) is KVPoll.Transferring


async def test_each_reason_for_not_joining_again_is_logged_once(process, sessions, hello, monkeypatch, caplog):
    """It is tried every second, for as long as an outage lasts, for each process: two that take turns fill no log."""
    reasons, enter = ["no route"] * 3 + ["refused"] * 2 + ["no route"], AsyncFailures.__aenter__

    async def entering(failures):
        if reasons:
            raise StoreUnavailableError(reasons.pop(0))
        return await enter(failures)

    process.session.ended("superseded")
    await process.until(messages.LEFT)
    monkeypatch.setattr(AsyncFailures, "__aenter__", entering)
    monkeypatch.setattr(session, "REJOIN_SECONDS", 0.01)
    await Process(sessions, replace(hello, former=process.lease)).until(messages.JOINED)
    assert [caplog.text.count(f"tries on: {reason}") for reason in ("no route", "refused")] == [1, 1]


@pytest.mark.parametrize("how", ["vanished", "superseded"])
async def test_process_that_comes_back_keeps_its_rooms(process, store, sessions, hello, how):
    process.session.ended(how)
    again = Process(sessions, replace(hello, former=process.lease))
    again.change(1, is_new=True, status=3, generation=process.generation)
    await again.until(messages.JOINED)
    await again.until(messages.OPENED)
    entry = await store.entry(1)
    assert (entry.status, entry.generation) == (KVPoll.Transferring, process.generation)
    assert [str(owner.incarnation) for owner in await store.owners()] == [process.lease[0]]


async def test_new_lease_is_told_before_a_room_hangs_on_it(sessions, hello, store, monkeypatch):
    """If the agent dies then, the next one goes on with the lease, and the room does not fail."""
    monkeypatch.setattr(session, "MONITOR_SECONDS", 3600.0)
    process = Process(sessions, replace(hello, lease=pace.seconds(1.0)))
    process.change(1, is_new=True, status=1)
    await until_open(store, 1)
    async with AsyncStatusStore.from_url(hello.url, namespace="t", policy="strict") as thief, thief.lease(OWNER):
        await process.until(messages.FAILED)
    process.change(2, is_new=True, status=1)
    await until_open(store, 2)
    assert messages.LEASE in process.kinds[process.kinds.index(messages.FAILED) :]


async def until_open(store, room):
    async with asyncio.timeout(pace.patience(60)):
        while await store.get(room) is None:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_life_that_has_failed_meanwhile_fails_in_the_process(process, store, sessions, hello):
    process.session.ended("superseded")
    await process.until(messages.LEFT)
    await store.abort(1, "wrong model")
    again = Process(sessions, replace(hello, former=process.lease))
    again.change(1, is_new=True, status=3, generation=process.generation)
    assert messages.decode_words(await again.until(messages.FAILED)) == [1, 1, "wrong model", True]


async def test_room_from_a_former_agent_survives_a_loss_of_data(process, store, sessions, hello, client):
    """Another store has opened it, for the same process: that still has it, so it is brought back."""
    process.session.ended("superseded")
    await process.until(messages.LEFT)
    again = Process(sessions, replace(hello, former=process.lease))
    again.change(1, is_new=True, status=2, generation=process.generation)
    await again.until(messages.OPENED)
    client.flushall()
    again.change(2, is_new=True, status=1)
    await again.until(messages.OPENED)
    entry = await store.entry(1)
    assert entry is not None
    assert (entry.status, entry.generation) == (KVPoll.WaitingForInput, process.generation)


async def test_room_failed_by_hand_is_brought_back_as_failed(process, store, client):
    """The process was told that it has failed: after a loss of data nobody else knows."""
    await store.abort(1, "wrong model")
    await process.until(messages.FAILED)
    client.flushall()
    process.change(2, is_new=True, status=1)
    await process.until(messages.OPENED)
    entry = await store.entry(1)
    assert (entry.status, entry.reason, entry.generation) == (KVPoll.Failed, "wrong model", process.generation)


@pytest.mark.parametrize(("call", "is_by_operator"), [("update_status", False), ("abort", True)])
async def test_who_failed_a_room_is_told(process, store, call, is_by_operator):
    """An operator's abort may end what a failure must not: a failure without a reason, by another program, is none."""
    words = {"update_status": (1, KVPoll.Failed), "abort": (1, "wrong model")}[call]
    await getattr(store, call)(*words)
    assert messages.decode_words(await process.until(messages.FAILED))[3] is is_by_operator


async def test_owner_is_the_process_and_not_its_agent(sessions, hello, store):
    process = Process(sessions, replace(hello, process="engine:7"))
    await process.until(messages.JOINED)
    assert [owner.process for owner in await store.owners()] == ["engine:7"]


async def test_process_whose_name_another_one_takes_is_told(process, sessions, hello):
    """In another agent it would find its lease lost. Here nothing that it says would reach the table any more."""
    again = Process(sessions, hello)
    assert messages.decode_words(await process.until(messages.FAILED)) == [1, 1, f"{OWNER} lost its lease", False]
    reason, _ = messages.decode_words(await process.until(messages.REFUSED))
    assert reason.startswith(f"another process has joined as {OWNER}: ")
    await again.until(messages.JOINED)
    again.change(1, is_new=True, status=1, request="next")
    assert (await again.until_opened())[0] == 1


@pytest.mark.parametrize("how", ["vanished", "killed", "goodbye", None])
async def test_next_process_of_a_name_refuses_no_former_one(process, sessions, hello, how):
    """Its connection has ended: it is dead, or comes back by itself. Or it leaves."""
    process.session.ended(how) if how else process.session.received(messages.LEAVE, b"")
    await Process(sessions, replace(hello, former=process.lease)).until(messages.JOINED)
    assert messages.REFUSED not in process.kinds


async def test_ended_life_that_the_table_has_cleared_opens_nothing(process, store, sessions, hello):
    process.change(1, is_over=True)
    await process.until(messages.ENDED)
    process.session.ended("superseded")
    await process.until(messages.LEFT)
    before = await store.history(1)
    again = Process(sessions, replace(hello, former=process.lease))
    again.change(1, is_new=True, status=4, is_over=True, generation=process.generation)
    await again.until(messages.ENDED)
    assert await store.history(1) == before


async def test_failed_life_that_the_table_no_longer_has_opens_nothing(process, store, sessions, hello):
    """Its request failed long ago, and the process has not cleared it: it would be a new failure."""
    process.change(1, status=0, reason="no route")
    await process.session.inner.table.publisher.flush()
    process.session.ended("superseded")
    await process.until(messages.LEFT)
    await store.clear(1)  # as when the time of a Failed room is over
    before = await store.history(1)
    again = Process(sessions, replace(hello, former=process.lease))
    again.change(1, is_new=True, status=0, reason="no route", generation=process.generation)
    await again.until(messages.JOINED)
    await again.session.inner.table.publisher.flush()
    assert await store.history(1) == before


@pytest.mark.parametrize("words", [{}, {"rank": 0, "world_size": 1}], ids=["alone", "rank"])
async def test_failed_life_that_was_lost_is_failed_again(sessions, hello, store, client, words):
    """Redis came back empty when the agent was replaced: nobody else knows of the failure."""
    hello = replace(hello, options=hello.options | words)
    process = Process(sessions, hello)
    lease = messages.decode_words(await process.until(messages.LEASE))
    process.change(1, is_new=True, status=1)
    _, _, generation = await process.until_opened()
    process.change(1, status=0, reason="no route")
    await process.session.inner.table.publisher.flush()
    process.session.ended("superseded")
    await process.until(messages.LEFT)
    client.flushall()
    again = Process(sessions, replace(hello, former=lease))
    again.change(1, is_new=True, status=0, reason="no route", generation=generation)
    await again.until_opened()
    await again.session.inner.table.publisher.flush()
    entry = await store.entry(1)
    assert (entry.status, entry.reason) == (KVPoll.Failed, "no route")
    assert entry.failed_by.startswith(OWNER)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
async def test_other_rank_brings_no_failed_room_back_live(sessions, hello, store, client, order):
    """Both are told anew after a loss of data, and only one of them knows of the failure."""
    ranks = [replace(hello, owner=f"h:{n}", options=hello.options | {"rank": n, "world_size": 2}) for n in (0, 1)]
    before, leases = [], []
    for rank in ranks:
        before.append(process := Process(sessions, rank))
        leases.append(messages.decode_words(await process.until(messages.LEASE)))
        process.change(1, is_new=True, status=3, request="rid")
        _, _, generation = await process.until_opened()
    for process in before:
        process.session.ended("superseded")
        await process.until(messages.LEFT)
    client.flushall()
    words = [{"status": 0, "reason": "no route"}, {"status": 3}]
    for number in order:
        again = Process(sessions, replace(ranks[number], former=leases[number]))
        again.change(1, is_new=True, request="rid", generation=generation, **words[number])
        await again.until_opened()
        await again.session.inner.table.publisher.flush()
    entry = await store.entry(1)
    assert (entry.status, entry.reason, entry.failed_by) == (KVPoll.Failed, "no route", "h:0 rank 0")
    assert again.session.inner.rooms.current_life(1) == 1
    if order[-1] == 1:
        assert messages.FAILED in again.kinds


async def test_failed_life_that_a_replica_never_had_is_failed_again(process, store, sessions, hello, client):
    """The epoch is the same, but the last generation is an earlier one."""
    process.change(1, status=0, reason="no route")
    await process.session.inner.table.publisher.flush()
    process.session.ended("superseded")
    await process.until(messages.LEFT)
    client.delete(*keys.rooms("t", [1]))
    client.hset(keys.epoch("t"), "generation", process.generation - 1)
    again = Process(sessions, replace(hello, former=process.lease))
    again.change(1, is_new=True, status=0, reason="no route", generation=process.generation)
    await again.until_opened()
    await again.session.inner.table.publisher.flush()
    assert await store.get(1) is KVPoll.Failed


async def test_lost_failed_life_fails_no_other_request(process, store, sessions, hello, client):
    """Another instance has the room by now: the failure is not kept for the time after it."""
    process.change(1, status=0, reason="no route")
    await process.session.inner.table.publisher.flush()
    process.session.ended("superseded")
    await process.until(messages.LEFT)
    client.flushall()
    room = await store.open(1, "another's")
    again = Process(sessions, replace(hello, former=process.lease))
    again.change(1, is_new=True, status=0, reason="no route", generation=process.generation)
    await again.until(messages.JOINED)
    flushed = asyncio.create_task(again.session.inner.table.publisher.flush())
    await asyncio.wait([flushed], timeout=pace.seconds(5))
    assert (flushed.done(), await store.get(1)) == (True, KVPoll.Bootstrapping)
    await room.clear()


async def test_lives_that_are_over_keep_no_open_one_waiting(sessions, hello, store):
    """Another rank is ahead, as the former agent had published more of it: it has the room for the last life."""
    ranks = [replace(hello, owner=f"h:{n}", options=hello.options | {"rank": n, "world_size": 2}) for n in (0, 1)]
    ahead, behind = [Process(sessions, rank) for rank in ranks]
    ahead.change(1, number=500, is_new=True, status=1, request="last")
    await ahead.until_opened()
    for number in range(1, 500):
        behind.change(1, number=number, is_new=True, status=4, request=f"former {number}", is_over=True)
    behind.change(1, number=500, is_new=True, status=1, request="last")
    assert (await behind.until_opened())[:2] == (1, 500)
    assert set((await store.entry(1)).ranks) == {0, 1}


@pytest.mark.parametrize("words", [{}, {"rank": 0, "world_size": 1}], ids=["alone", "rank"])
async def test_late_reason_leaves_who_has_the_room_now(sessions, hello, store, words):
    """A Failed room is taken over at once: the reason and its author are of the former one."""
    former, present = [
        Process(sessions, replace(hello, owner=owner, instance=owner, options=hello.options | words))
        for owner in ("h:1", "h:2")
    ]
    former.change(1, is_new=True, status=1, request="former")
    await former.until_opened()
    former.change(1, status=0)
    await former.session.inner.table.publisher.flush()
    present.change(1, is_new=True, status=1, request="present")
    await present.until_opened()
    former.change(1, reason="no route")
    await former.session.inner.table.publisher.flush()
    entry = await store.entry(1)
    assert (entry.owner, entry.status, entry.reason, entry.failed_by) == ("h:2", KVPoll.Bootstrapping, None, None)


async def test_namespace_with_other_settings_refuses_a_process(sessions, hello, url):
    async with AsyncStatusStore.from_url(url, namespace="t", policy="compat") as other:
        await other.update_status(1, 1)
    refused = Process(sessions, hello)
    reason, setting = messages.decode_words(await refused.until(messages.REFUSED))
    assert (setting, "policy=compat" in reason) == ("policy", True)


class TestTakenOver:
    """Another session speaks for the process: what this one opened now, nobody might clear."""

    @pytest.fixture(params=[{}, {"rank": 0, "world_size": 2}], ids=["alone", "rank"])
    def hello(self, hello, request):
        return replace(hello, options=hello.options | request.param)

    @pytest.mark.parametrize("turns", range(8))
    async def test_nothing_is_opened_after_the_end(self, process, client, turns):
        """Wherever the change is on its way. What was sent before is on the server by the second answer."""
        process.change(2, is_new=True, status=1)
        for _ in range(turns):
            await asyncio.sleep(0)
        process.session.ended("superseded")
        process.session.inner.table.publisher.resume()  # as when the server is seen again in the same turn
        client.ping(), client.ping()
        before = client.xlen(keys.feed("t"))
        await process.until(messages.LEFT)
        assert client.xlen(keys.feed("t")) == before

    @pytest.mark.parametrize("turns", range(0, 40, 4))
    async def test_no_lease_is_taken_after_the_end(self, sessions, hello, client, turns):
        """A process that is joining has none yet. To take one would end that of the session which has taken over."""
        async with AsyncStatusStore.from_url(hello.url, namespace="other") as other, other.lease("other"):
            pass  # the server knows the script: else what was sent before is sent once more
        process = Process(sessions, hello)
        for _ in range(turns):
            await asyncio.sleep(0)
        process.session.ended("superseded")
        client.ping(), client.ping()
        before = client.exists(keys.leases("t"))
        await process.until(messages.LEFT)
        assert client.exists(keys.leases("t")) == before
