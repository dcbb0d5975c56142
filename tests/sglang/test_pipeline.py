"""Prefill with pipeline size 2, in two processes: the consensus of the ranks, whatever the order of their steps."""

from __future__ import annotations

import itertools

import pytest

from redis_kvpoll import KVPoll, StatusStore
from tests.sglang.deployment import Deployment, Worker, WorkerError, until
from tests.support.real import free_port

STEPS = (KVPoll.WaitingForInput, KVPoll.Transferring, KVPoll.Success)
ORDERS = sorted(set(itertools.permutations([0] * len(STEPS) + [1] * len(STEPS))))
"""Every order in which two ranks take their steps, by rank."""


def stages(deployment: Deployment) -> list[Worker]:
    processes = ({"role": "prefill", "pp_size": 2, "pp_rank": rank} for rank in (0, 1))
    return deployment.start(*processes, port=free_port())


def test_consensus_in_every_order_is_the_least_status(deployment: Deployment, tables: dict[str, StatusStore]) -> None:
    workers = stages(deployment)
    for room, order in enumerate(ORDERS):
        for worker in workers:
            worker.open(room)
        statuses = [KVPoll.Bootstrapping, KVPoll.Bootstrapping]
        for rank in order:
            statuses[rank] = STEPS[STEPS.index(statuses[rank]) + 1] if statuses[rank] in STEPS else STEPS[0]
            workers[rank].update(room, statuses[rank])
            until(lambda room=room: workers[0].collect(room), list(statuses))
            assert workers[0].consensus(room) == min(statuses)
            if deployment.environment:
                until(lambda room=room: workers[1].collect(room), list(statuses))
        for worker in workers:
            worker.clear(room)
    if deployment.environment:
        until(lambda: sum(tables["prefill"].counts().values()), 0)
    assert workers[0].errors() + workers[1].errors() == []


def test_consensus_without_a_rank_is_bootstrapping(deployment: Deployment) -> None:
    first, second = stages(deployment)
    first.open(5)
    first.update(5, KVPoll.WaitingForInput)
    assert first.consensus(5) == KVPoll.Bootstrapping
    second.open(5)
    second.update(5, KVPoll.WaitingForInput)
    until(lambda: first.consensus(5), KVPoll.WaitingForInput)


def test_rank_0_knows_others_before_and_after_its_own(deployment: Deployment, tables: dict[str, StatusStore]) -> None:
    first, second = stages(deployment)
    second.open(5)
    second.update(5, KVPoll.WaitingForInput)
    until(lambda: first.collect(5), [None, KVPoll.WaitingForInput])
    first.open(5)
    assert first.collect(5) == [KVPoll.Bootstrapping, KVPoll.WaitingForInput]
    second.clear(5)
    until(lambda: first.collect(5), [KVPoll.Bootstrapping, None])
    first.clear(5)
    if deployment.environment:
        until(lambda: tables["prefill"].get(5), None)


@pytest.mark.parametrize("failing", [0, 1])
def test_failure_of_one_rank_fails_all(deployment: Deployment, failing: int) -> None:
    workers = stages(deployment)
    for worker in workers:
        worker.open(5)
        worker.update(5, KVPoll.Transferring)
    until(lambda: workers[0].collect(5), [KVPoll.Transferring] * 2)
    workers[failing].record(5, "RDMA write failed")
    workers[failing].update(5, KVPoll.Failed)
    until(lambda: workers[0].consensus(5), KVPoll.Failed)
    if deployment.environment:
        until(lambda: [worker.reason(5) for worker in workers], ["RDMA write failed"] * 2)
        assert [worker.fail(5)[0] for worker in workers] == ["RDMA write failed"] * 2


def test_room_opened_again_starts_from_bootstrapping(deployment: Deployment) -> None:
    workers = stages(deployment)
    for worker in workers:
        worker.open(5)
        worker.update(5, KVPoll.Success)
        worker.clear(5)
    until(lambda: workers[0].collect(5), [None, None])
    for worker in workers:
        worker.open(5)
    until(lambda: workers[0].collect(5), [KVPoll.Bootstrapping] * 2)
    assert workers[0].consensus(5) == KVPoll.Bootstrapping


def test_status_of_last_request_is_not_collected(deployment: Deployment, tables: dict[str, StatusStore]) -> None:
    first, second = stages(deployment)
    for room in range(20):
        for worker in (first, second):
            worker.open(room)
            worker.update(room, KVPoll.Success)
        until(lambda room=room: first.collect(room), [KVPoll.Success] * 2)
        first.clear(room)
        second.clear(room)
        if deployment.environment:
            until(lambda room=room: tables["prefill"].get(room), None)
        until(lambda room=room: first.collect(room), [None, None])
        first.open(room)
        first.update(room, KVPoll.WaitingForInput)
        for _ in range(5):
            assert first.collect(room) == [KVPoll.WaitingForInput, None]
            assert first.consensus(room) == KVPoll.Bootstrapping


def test_collect_without_plugin_works_on_rank_0_only(without_plugin: Deployment) -> None:
    first, second = stages(without_plugin)
    first.open(5)
    with pytest.raises(WorkerError, match="rank 0"):
        second.collect(5)
