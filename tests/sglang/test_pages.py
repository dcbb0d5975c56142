"""Failures in the table, and decode's pages: each ends a request only as far as prefill can no longer write to them.

By SGLang's own bookkeeping of pages that are held and released, not by time. Waiting timeouts are a day here, so that
SGLang's own end of a request, and a limit that counts from it, stand apart from its hold of 30 s.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator

import pytest

from chaos.servers import Server
from redis_kvpoll import KVPoll, StatusStore
from tests.sglang.conftest import LEASE
from tests.sglang.deployment import Deployment, Host, Worker, until
from tests.support import pace
from tests.support.real import free_port

DAY = 86400
HOLD = 30
"""SGLang's own hold, in seconds."""
LOST = LEASE + pace.seconds(2)
ROOM, LATER = 5, 9
"""LATER is for a failure that is passed on, once another one has not been."""


class Pages:
    """A prefill and a decode process, and their tables."""

    def __init__(self, deployment: Deployment, tables: dict[str, StatusStore], **decode: int) -> None:
        self.tables = tables
        port = free_port()
        (self.prefill,) = deployment.start({"role": "prefill"}, port=port)
        (self.decode,) = deployment.start({"role": "decode"} | decode, port=port)
        assert self.decode.learn()

    def open(self, *rooms: int) -> None:
        """Open rooms on both sides, and in both tables."""
        for worker in (self.prefill, self.decode):
            worker.open(*rooms)
        for table in self.tables.values():
            until(lambda table=table: None in table.poll(list(rooms)), False)

    def transfer(self, *rooms: int) -> None:
        """Open rooms and let decode ask for their pages."""
        self.open(*rooms)
        self.decode.transfer(*rooms)
        until(lambda: self.prefill.get(*rooms), [KVPoll.WaitingForInput] * len(rooms))
        until(lambda: self.tables["prefill"].poll(list(rooms)), [KVPoll.WaitingForInput] * len(rooms))

    def held(self) -> dict[str, int]:
        """Return the held rooms and the seconds of their limits, after an iteration of decode's scheduler."""
        held: dict[str, int] = self.decode.iterate()["held"]
        return held

    def until_held(self, room: int, seconds: float = 5.0) -> int:
        """Return for how long a room's pages are held, once they are."""
        until(lambda: str(room) in self.held(), True, seconds)
        return self.held()[str(room)]

    def until_later(self) -> None:
        """Wait until a failure in prefill's table that is passed on has arrived: earlier ones have been decided on."""
        self.open(LATER)
        self.prefill.record(LATER, "later")
        self.prefill.update(LATER, KVPoll.Failed)
        until(lambda: self.decode.poll(LATER), [KVPoll.Failed])


@pytest.fixture
def environment(plugin_environment: Callable[[Server], dict[str, str]], shared_server: Server) -> dict[str, str]:
    return plugin_environment(shared_server) | {"SGLANG_DISAGGREGATION_WAITING_TIMEOUT": str(DAY)}


@pytest.fixture
def deferring(host: Host, environment: dict[str, str], tables: dict[str, StatusStore]) -> Iterator[Pages]:
    with Deployment(host, environment) as deployment:
        yield Pages(deployment, tables)


@pytest.fixture
def at_once(host: Host, environment: dict[str, str], tables: dict[str, StatusStore]) -> Iterator[Pages]:
    """Decode does not defer: a Failed gives pages away in the same iteration."""
    with Deployment(host, environment | {"SGLANG_DISAGGREGATION_DEFERRED_DECODE_KV_RELEASE": "0"}) as deployment:
        yield Pages(deployment, tables)


class TestDeferring:
    def test_told_failure_is_held_as_by_sglang(self, deferring: Pages) -> None:
        deferring.transfer(ROOM)
        deferring.prefill.set_outstanding(ROOM, 1)
        deferring.prefill.poison(ROOM)
        deferring.prefill.conclude_slowly(ROOM, "no route", True)
        until(lambda: deferring.decode.get(ROOM), [KVPoll.Failed])
        deferring.prefill.go_on()
        until(lambda: deferring.tables["prefill"].get(ROOM), KVPoll.Failed)
        deferring.until_later()
        assert deferring.until_held(ROOM) == HOLD

    def test_failure_is_published_after_decode_was_told(self, deferring: Pages) -> None:
        deferring.transfer(ROOM)
        deferring.prefill.conclude_slowly(ROOM, "no route", False)
        until(lambda: deferring.prefill.get(ROOM), [KVPoll.Failed])
        deferring.until_later()
        assert deferring.tables["prefill"].get(ROOM) is KVPoll.WaitingForInput
        assert deferring.decode.get(ROOM) == [KVPoll.WaitingForInput]
        deferring.prefill.go_on()
        until(lambda: deferring.tables["prefill"].get(ROOM), KVPoll.Failed)
        until(lambda: deferring.decode.get(ROOM), [KVPoll.Failed])

    def test_failure_held_back_is_held_until_sglangs_timeout(self, deferring: Pages) -> None:
        deferring.transfer(ROOM)
        deferring.prefill.hold_back(ROOM)
        assert deferring.until_held(ROOM) > DAY / 2
        until(deferring.prefill.aborts, [ROOM])
        assert deferring.decode.iterate()["released"] == []

    def test_senders_abort_releases_when_writes_have_ended(self, deferring: Pages) -> None:
        deferring.transfer(ROOM)
        deferring.prefill.set_outstanding(ROOM, 1)
        deferring.prefill.abort(ROOM)
        deferring.until_held(ROOM)
        deferring.prefill.clear(ROOM)
        assert deferring.decode.iterate()["released"] == []
        deferring.prefill.settle(ROOM)
        until(lambda: deferring.decode.iterate()["released"], [ROOM])

    def test_lost_worker_thread_ends_nothing(self, deferring: Pages) -> None:
        deferring.transfer(ROOM)
        deferring.prefill.set_outstanding(ROOM, 1)
        deferring.prefill.poison(ROOM)
        deferring.until_later()
        assert deferring.decode.iterate() == {"on": [ROOM], "held": {}, "released": []}

    def test_killed_prefill_is_held_until_sglang_finds_it_lost(self, deferring: Pages) -> None:
        deferring.transfer(ROOM)
        deferring.prefill.kill()
        assert deferring.until_held(ROOM, LOST) > DAY / 2
        deferring.decode.lose_prefill()
        assert HOLD <= deferring.until_held(ROOM) < DAY / 2

    def test_stopped_prefill_is_held_until_sglangs_timeout(self, deferring: Pages) -> None:
        deferring.transfer(ROOM)
        os.kill(deferring.prefill.pid, signal.SIGSTOP)
        assert deferring.until_held(ROOM, LOST) > DAY / 2

    def test_abort_by_operator_is_decodes_own(self, deferring: Pages) -> None:
        deferring.transfer(ROOM)
        deferring.prefill.set_outstanding(ROOM, 1)
        deferring.tables["decode"].abort(ROOM, "wrong model")
        assert deferring.until_held(ROOM) == HOLD
        until(lambda: deferring.prefill.get(ROOM), [KVPoll.Failed])
        until(deferring.prefill.aborts, [ROOM])
        deferring.prefill.settle(ROOM)
        until(lambda: deferring.decode.iterate()["released"], [ROOM])

    def test_abort_on_prefill_is_held_until_acknowledged(self, deferring: Pages) -> None:
        deferring.transfer(ROOM)
        deferring.prefill.set_outstanding(ROOM, 1)
        deferring.tables["prefill"].abort(ROOM, "wrong model")
        assert deferring.until_held(ROOM) > DAY / 2
        deferring.prefill.settle(ROOM)
        until(lambda: deferring.decode.iterate()["released"], [ROOM])

    def test_room_that_prefill_has_cleared_at_once_fails(self, deferring: Pages) -> None:
        """SGLang aborts a request, polls Failed and clears the room within a millisecond."""
        deferring.transfer(ROOM)
        deferring.open(ROOM + 1)
        deferring.prefill.set_outstanding(ROOM, 1)
        for room in (ROOM + 1, ROOM):
            deferring.prefill.abort_at_once(room)
        until(lambda: deferring.decode.poll(ROOM + 1), [KVPoll.Failed])
        assert deferring.until_held(ROOM) > DAY / 2

    def test_failure_of_another_rank_is_held_until_sglangs_timeout(
        self, host: Host, environment: dict[str, str], tables: dict[str, StatusStore]
    ) -> None:
        """The table has failed it there, and SGLang's minimum fails it here before this rank has heard of it."""
        with Deployment(host, environment) as deployment:
            pages = Pages(deployment, tables, tp_size=2, tp_rank=0)
            pages.transfer(ROOM)
            held = pages.decode.iterate(ROOM)["held"]
            assert held[str(ROOM)] > DAY / 2

    def test_complete_room_stays(self, deferring: Pages) -> None:
        deferring.transfer(ROOM)
        for worker in (deferring.prefill, deferring.decode):
            worker.update(ROOM, KVPoll.Success)
        for table in deferring.tables.values():
            until(lambda table=table: table.get(ROOM), KVPoll.Success)
            table.abort(ROOM)
        deferring.until_later()
        assert deferring.prefill.get(ROOM) + deferring.decode.get(ROOM) == [KVPoll.Success] * 2

    def test_switch_leaves_sglangs_own_hold(
        self, host: Host, environment: dict[str, str], tables: dict[str, StatusStore]
    ) -> None:
        with Deployment(host, environment | {"KVPOLL_LONG_HOLD": "0"}) as deployment:
            pages = Pages(deployment, tables)
            pages.transfer(ROOM)
            pages.prefill.hold_back(ROOM)
            assert pages.until_held(ROOM) == HOLD


FAILURES: dict[str, Callable[[Pages], object]] = {
    "held back": lambda pages: pages.prefill.hold_back(ROOM),
    "sender's abort": lambda pages: pages.prefill.abort(ROOM),
    "operator on prefill": lambda pages: pages.tables["prefill"].abort(ROOM, "wrong model"),
}


LOSSES: dict[str, Callable[[Worker], object]] = {
    "killed": lambda worker: worker.kill(),
    "stopped": lambda worker: os.kill(worker.pid, signal.SIGSTOP),
}


class TestAtOnce:
    @pytest.mark.parametrize("failure", FAILURES)
    def test_failure_on_prefill_leaves_a_request_with_pages(self, at_once: Pages, failure: str) -> None:
        at_once.transfer(ROOM)
        FAILURES[failure](at_once)
        until(lambda: at_once.prefill.get(ROOM), [KVPoll.Failed])
        until(lambda: at_once.tables["prefill"].get(ROOM), KVPoll.Failed)
        at_once.until_later()
        assert at_once.decode.iterate() == {"on": [ROOM], "held": {}, "released": []}

    def test_room_cleared_on_prefill_leaves_a_request_with_pages(self, at_once: Pages) -> None:
        at_once.transfer(ROOM)
        at_once.prefill.abort_at_once(ROOM)
        at_once.until_later()
        assert at_once.decode.iterate() == {"on": [ROOM], "held": {}, "released": []}

    @pytest.mark.parametrize("loss", LOSSES)
    def test_lost_prefill_leaves_a_request_with_pages(self, at_once: Pages, loss: str) -> None:
        """Its lease is over, and its writes may not be. A request without pages fails."""
        at_once.transfer(ROOM)
        at_once.open(LATER)
        LOSSES[loss](at_once.prefill)
        until(lambda: at_once.decode.poll(LATER), [KVPoll.Failed], LOST)
        assert at_once.decode.iterate() == {"on": [ROOM], "held": {}, "released": []}
        at_once.decode.lose_prefill()
        assert at_once.decode.iterate()["released"] == [ROOM]

    def test_failure_of_another_rank_stops_prefill(self, at_once: Pages) -> None:
        """SGLang's minimum over ranks gives its pages away, and SGLang alone does not tell its prefill."""
        at_once.transfer(ROOM)
        assert at_once.decode.iterate(ROOM)["released"] == [ROOM]
        until(lambda: at_once.prefill.aborts(), [ROOM])

    def test_told_failure_is_sglangs_own(self, at_once: Pages) -> None:
        at_once.transfer(ROOM)
        at_once.prefill.conclude(ROOM, KVPoll.Failed, "no route")
        until(lambda: at_once.decode.iterate()["released"], [ROOM])

    def test_abort_by_operator_is_a_receivers_abort(self, at_once: Pages) -> None:
        """As a client's: the pages go at once, and prefill is told to stop."""
        at_once.transfer(ROOM)
        at_once.tables["decode"].abort(ROOM, "wrong model")
        until(lambda: at_once.decode.iterate()["released"], [ROOM])
        until(lambda: at_once.prefill.aborts(), [ROOM])
        until(lambda: at_once.prefill.get(ROOM), [KVPoll.Failed])

    def test_abort_before_the_request_has_asked_ends_it(self, at_once: Pages) -> None:
        at_once.open(ROOM, ROOM + 1)
        at_once.tables["decode"].abort(ROOM, "wrong model")
        at_once.tables["prefill"].abort(ROOM + 1, "wrong model")
        until(lambda: at_once.decode.poll(ROOM, ROOM + 1), [KVPoll.Failed] * 2)
        assert at_once.decode.fail(ROOM)[0] == at_once.decode.fail(ROOM + 1)[0] == "wrong model"

    def test_failure_is_decided_when_the_scheduler_polls(self, at_once: Pages) -> None:
        """Between the failure and the poll decode asks for the pages: then the failure no longer ends the request."""
        at_once.open(ROOM, LATER)
        for room in (ROOM, LATER):
            at_once.prefill.update(room, KVPoll.Failed)
        until(lambda: at_once.decode.poll(LATER), [KVPoll.Failed])
        at_once.decode.transfer(ROOM)
        assert at_once.decode.iterate() == {"on": [ROOM], "held": {}, "released": []}

    def test_lost_lease_of_decode_leaves_a_request_with_pages(self, at_once: Pages) -> None:
        at_once.transfer(ROOM)
        at_once.open(LATER)
        os.kill(at_once.decode.pid, signal.SIGSTOP)
        until(lambda: at_once.tables["decode"].get(ROOM), KVPoll.Failed, LOST)
        os.kill(at_once.decode.pid, signal.SIGCONT)
        until(lambda: at_once.decode.poll(LATER), [KVPoll.Failed], LOST)
        assert at_once.decode.iterate() == {"on": [ROOM], "held": {}, "released": []}


@pytest.mark.parametrize("kind", ["deferring", "at_once"])
def test_timeout_of_decode_reaches_prefill(kind: str, request: pytest.FixtureRequest) -> None:
    """Its abort is lost. A room that is complete on prefill stays."""
    pages: Pages = request.getfixturevalue(kind)
    pages.transfer(ROOM, ROOM + 1)
    pages.prefill.update(ROOM + 1, KVPoll.Success)
    for room in (ROOM + 1, ROOM):
        pages.decode.time_out(room)
        assert pages.decode.poll(room) == [KVPoll.Failed]
        until(lambda room=room: pages.tables["decode"].get(room), KVPoll.Failed)
    until(lambda: pages.prefill.get(ROOM, ROOM + 1), [KVPoll.Failed, KVPoll.Success])
    assert pages.prefill.aborts() == []


@pytest.mark.parametrize("kind", ["deferring", "at_once"])
def test_timeout_that_decode_has_ended_reaches_prefill(kind: str, request: pytest.FixtureRequest) -> None:
    """SGLang polls Failed and clears the room in one call, and its abort is lost."""
    pages: Pages = request.getfixturevalue(kind)
    pages.transfer(ROOM)
    pages.decode.time_out_at_once(ROOM)
    until(lambda: pages.prefill.get(ROOM), [KVPoll.Failed])
    assert pages.prefill.aborts() == []


def test_worker_of_prefill_never_reopens_a_room(deferring: Pages) -> None:
    """What decode's table says of a room that prefill does not have changes nothing there."""
    deferring.decode.open(ROOM)
    until(lambda: deferring.tables["decode"].get(ROOM), KVPoll.WaitingForInput)
    deferring.tables["decode"].abort(ROOM)
    deferring.until_later()
    assert deferring.prefill.get(ROOM) == [None]


@pytest.mark.parametrize("how", ["held back", "stopped"])
def test_rank_that_ends_tells_no_failure_of_the_table(
    host: Host, environment: dict[str, str], tables: dict[str, StatusStore], how: str
) -> None:
    """Of prefill's two ranks, the stuck one may still write. What the other says later of another room has arrived."""
    settings = environment | {"SGLANG_DISAGGREGATION_DEFERRED_DECODE_KV_RELEASE": "0"}
    with Deployment(host, settings) as deployment:
        port, ranks = free_port(), [{"role": "prefill", "tp_size": 2, "tp_rank": rank} for rank in range(2)]
        stuck, other = prefill = deployment.start(*ranks, port=port)
        (decode,) = deployment.start({"role": "decode"}, port=port)
        assert decode.learn()
        for worker in (*prefill, decode):
            worker.open(ROOM, LATER)
        decode.transfer(ROOM, LATER)
        for worker in prefill:
            until(lambda worker=worker: worker.get(ROOM, LATER), [KVPoll.WaitingForInput] * 2)
            worker.update(ROOM, KVPoll.Transferring)
            worker.set_outstanding(ROOM, 1)
        until(lambda: tables["prefill"].get(ROOM), KVPoll.Transferring)
        if how == "held back":
            stuck.hold_back(ROOM)
        else:
            os.kill(stuck.pid, signal.SIGSTOP)
        until(lambda: other.get(ROOM), [KVPoll.Failed], LOST)
        other.conclude(ROOM, KVPoll.Success)
        other.settle(ROOM)
        other.conclude(LATER, KVPoll.Failed, "no route")
        until(lambda: decode.poll(LATER), [KVPoll.Failed])
        assert decode.get(ROOM) != [KVPoll.Failed]
        assert ROOM not in decode.iterate()["released"]
