"""Workers read a room only when there is news of it, and miss none: the read of all rooms is off in these tests."""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections import Counter
from multiprocessing import Pipe

import pytest

from redis_kvpoll import KVPoll, Outcome
from redis_kvpoll.replay import side_table
from redis_kvpoll.replay.fault_plan import SIDES
from redis_kvpoll.replay.messages import Announced, Ended, Job, Measured, Opened, PeerWrote, Plan, Stop
from redis_kvpoll.replay.side_table import Meter, SideTable
from redis_kvpoll.replay.worker import Worker
from redis_kvpoll.replay.writers import FencedWriter, PlainWriter
from tests.support import real

ROOM = 9


@pytest.fixture(params=["fenced", "plain"])
def plan(request, url, monkeypatch):
    monkeypatch.setattr(side_table, "READ_ALL_SECONDS", float("inf"))
    lease = 5.0 if request.param == "fenced" else None
    return Plan(url, f"replay-{uuid.uuid4().hex[:8]}", "strict", speed=20.0, ttl=60.0, lease=lease)


def replayed(plan, abort_side=None):
    """The results of one request in two workers, and the outcomes of their writes, by side; this is their router."""
    ours, threads = {}, []
    for side in SIDES:
        ours[side], theirs = Pipe()
        threads.append(threading.Thread(target=Worker(side, plan, theirs).run, daemon=True))
    for thread in threads:
        thread.start()
    for side in SIDES:
        ours[side].recv()  # Ready
    for side in SIDES if abort_side == "decode" else SIDES[::-1]:  # it aborts what the other side has opened
        ours[side].send(Job(1, ROOM, 100, 0, 0.0 if side == abort_side else None, None))
        while not isinstance(ours[side].recv(), Opened):
            pass
    results, outcomes = {}, {side: Counter() for side in SIDES}
    while len(results) < 2:
        for side, other in (SIDES, SIDES[::-1]):
            if ours[side].poll(0.001):
                message = ours[side].recv()
                if isinstance(message, Announced | PeerWrote):
                    ours[other].send(message)
                elif isinstance(message, Ended):
                    results[side] = message.result
                elif isinstance(message, Measured):
                    outcomes[side].update(message.outcomes)
    for side in SIDES:
        ours[side].send(Stop())
    for thread in threads:
        thread.join()
    return results, outcomes


def test_decode_hears_of_prefills_success(plan):
    assert replayed(plan)[0] == {"prefill": "success", "decode": "success"}


@pytest.mark.parametrize("side", SIDES)
def test_abort_of_one_side_reaches_the_other(plan, side):
    results, outcomes = replayed(plan, abort_side=side)
    assert set(results.values()) == {"aborted"}
    told = next(other for other in SIDES if other != side)
    assert outcomes[told].keys() <= {Outcome.CREATED, Outcome.ADVANCED}  # it did not have to time out


def test_room_without_news_is_not_read(plan):
    """Neither the status of its own write nor one that it has read is asked for again."""
    meter = Meter()
    with contextlib.ExitStack() as opened:
        own, peer = (SideTable(plan, side, meter) for side in SIDES)
        opened.enter_context(own.store)
        opened.enter_context(peer.store)
        opened.enter_context(own.following())
        writer = FencedWriter(own, peer, 5.0) if plan.lease else PlainWriter(own, peer)
        job = Job(1, ROOM, 100, 0, None, None)
        own.hold([ROOM])
        writer.open([job])
        writer.write({job: KVPoll.Transferring})

        def poll():
            meter.take()
            return own.poll([ROOM]), len(meter.take().polls)

        # A host that stands still for six seconds makes it read, too.
        real.until(lambda: poll() == ([KVPoll.Transferring], 0), "the reply to the write is known")
        own.store.update_status(ROOM, KVPoll.Success)
        own.tell(ROOM)
        assert poll() == ([KVPoll.Success], 1)
        real.until(lambda: poll() == ([KVPoll.Success], 0), "the read is known")
