"""Prefill with pipeline size 2, in two processes: what the ranks agree on, in whichever order they get there."""

from __future__ import annotations

import itertools

import pytest

from redis_kvpoll import KVPoll, StatusStore
from tests.sglang.crew import Crew, Worker, WorkerError, soon
from tests.support.real import free_port

STEPS = (KVPoll.WaitingForInput, KVPoll.Transferring, KVPoll.Success)
ORDERS = sorted(set(itertools.permutations([0] * len(STEPS) + [1] * len(STEPS))))
"""Every order in which two ranks take their steps, by rank."""


def stages(crew: Crew) -> list[Worker]:
    places = ({"role": "prefill", "pp_size": 2, "pp_rank": rank} for rank in (0, 1))
    return crew.start(*places, port=free_port())


def test_the_consensus_is_the_least_of_all_ranks_in_every_order(crew: Crew, tables: dict[str, StatusStore]) -> None:
    workers = stages(crew)
    for room, order in enumerate(ORDERS):
        for worker in workers:
            worker.open(room)
        statuses = [KVPoll.Bootstrapping, KVPoll.Bootstrapping]
        for rank in order:
            statuses[rank] = STEPS[STEPS.index(statuses[rank]) + 1] if statuses[rank] in STEPS else STEPS[0]
            workers[rank].update(room, statuses[rank])
            soon(lambda room=room: workers[0].collect(room), list(statuses))
            assert workers[0].consensus(room) == min(statuses)
            if crew.environment:
                soon(lambda room=room: workers[1].collect(room), list(statuses))
        for worker in workers:
            worker.clear(room)
    if crew.environment:
        soon(lambda: sum(tables["prefill"].counts().values()), 0)
    assert workers[0].errors() + workers[1].errors() == []


def test_a_rank_that_has_not_begun_holds_the_others_back(crew: Crew) -> None:
    first, second = stages(crew)
    first.open(5)
    first.update(5, KVPoll.WaitingForInput)
    assert first.consensus(5) == KVPoll.Bootstrapping
    second.open(5)
    second.update(5, KVPoll.WaitingForInput)
    soon(lambda: first.consensus(5), KVPoll.WaitingForInput)


@pytest.mark.parametrize("failing", [0, 1])
def test_a_rank_that_failed_fails_all(crew: Crew, failing: int) -> None:
    workers = stages(crew)
    for worker in workers:
        worker.open(5)
        worker.update(5, KVPoll.Transferring)
    soon(lambda: workers[0].collect(5), [KVPoll.Transferring] * 2)
    workers[failing].record(5, "RDMA write failed")
    workers[failing].update(5, KVPoll.Failed)
    soon(lambda: workers[0].consensus(5), KVPoll.Failed)
    if crew.environment:
        soon(lambda: [worker.reason(5) for worker in workers], ["RDMA write failed"] * 2)
        assert [worker.fail(5)[0] for worker in workers] == ["RDMA write failed"] * 2


def test_a_room_that_is_opened_again_knows_nothing_of_the_last_request(crew: Crew) -> None:
    workers = stages(crew)
    for worker in workers:
        worker.open(5)
        worker.update(5, KVPoll.Success)
        worker.clear(5)
    soon(lambda: workers[0].collect(5), [None, None])
    for worker in workers:
        worker.open(5)
    soon(lambda: workers[0].collect(5), [KVPoll.Bootstrapping] * 2)
    assert workers[0].consensus(5) == KVPoll.Bootstrapping


def test_what_a_rank_did_in_the_last_request_counts_no_more(crew: Crew, tables: dict[str, StatusStore]) -> None:
    first, second = stages(crew)
    for room in range(20):
        for worker in (first, second):
            worker.open(room)
            worker.update(room, KVPoll.Success)
        soon(lambda room=room: first.collect(room), [KVPoll.Success] * 2)
        first.clear(room)
        second.clear(room)
        if crew.environment:
            soon(lambda room=room: tables["prefill"].get(room), None)
        else:
            soon(lambda room=room: first.collect(room), [None, None])
        first.open(room)
        first.update(room, KVPoll.WaitingForInput)
        for _ in range(5):
            assert first.collect(room) == [KVPoll.WaitingForInput, None]
            assert first.consensus(room) == KVPoll.Bootstrapping


def test_on_its_own_only_rank_0_knows(alone: Crew) -> None:
    first, second = stages(alone)
    first.open(5)
    with pytest.raises(WorkerError, match="rank 0"):
        second.collect(5)
