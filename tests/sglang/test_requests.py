"""What SGLang promises of a request, with the plugin and without; and what the plugin adds."""

from __future__ import annotations

import pytest

from redis_kvpoll import KVPoll, StatusStore
from tests.sglang.deployment import Deployment, Worker, until
from tests.support.real import free_port

UNKNOWN = "Failed due to an unknown reason from another rank"
DOWN = "Lost connection with prefill instance"


def everywhere(deployment: Deployment, tables: dict[str, StatusStore], room: int, **wanted: KVPoll | None) -> None:
    """With the plugin, the tables have what the processes have."""
    if deployment.environment:
        for role, status in wanted.items():
            until(lambda role=role: tables[role].get(room), status)


def test_request_goes_through_all_statuses(deployment: Deployment, tables: dict[str, StatusStore]) -> None:
    prefill, decode = deployment.pair()
    prefill.open(5)
    decode.open(5)
    assert (prefill.poll(5), decode.poll(5)) == ([KVPoll.Bootstrapping], [KVPoll.WaitingForInput])
    everywhere(deployment, tables, 5, prefill=KVPoll.Bootstrapping, decode=KVPoll.WaitingForInput)
    decode.ask(5)
    until(lambda: prefill.poll(5), [KVPoll.WaitingForInput])
    everywhere(deployment, tables, 5, prefill=KVPoll.WaitingForInput)
    assert prefill.prefix(5) == 5
    assert prefill.prefix(5) == 0
    prefill.update(5, KVPoll.Transferring)
    assert prefill.poll(5) == [KVPoll.Transferring]
    everywhere(deployment, tables, 5, prefill=KVPoll.Transferring)
    prefill.send(5)
    until(lambda: prefill.poll(5), [KVPoll.Success])
    until(lambda: decode.poll(5), [KVPoll.Success])
    everywhere(deployment, tables, 5, prefill=KVPoll.Success, decode=KVPoll.Success)
    prefill.clear(5)
    decode.clear(5)
    assert prefill.get(5) + decode.get(5) == [None, None]
    everywhere(deployment, tables, 5, prefill=None, decode=None)
    assert prefill.errors() + decode.errors() == []


def test_lower_status_is_ignored(deployment: Deployment) -> None:
    prefill, _ = deployment.pair()
    prefill.open(5)
    for status in (KVPoll.Transferring, KVPoll.WaitingForInput, KVPoll.Bootstrapping):
        prefill.update(5, status)
        assert prefill.get(5) == [KVPoll.Transferring]
    for status in (KVPoll.Failed, KVPoll.Success, KVPoll.Transferring):
        prefill.update(5, status)
        assert prefill.get(5) == [KVPoll.Failed]


def test_cleared_room_stays_absent_until_reopened(deployment: Deployment, tables: dict[str, StatusStore]) -> None:
    prefill, _ = deployment.pair()
    prefill.open(5)
    prefill.clear(5)
    for status in (KVPoll.Failed, KVPoll.Transferring, KVPoll.Success):
        prefill.update(5, status)
        prefill.conclude(5, KVPoll.Failed, "late")
        assert prefill.get(5) == [None]
    everywhere(deployment, tables, 5, prefill=None)
    prefill.open(5)
    assert prefill.poll(5) == [KVPoll.Bootstrapping]
    everywhere(deployment, tables, 5, prefill=KVPoll.Bootstrapping)
    assert prefill.leftovers() == []


@pytest.mark.parametrize("side", ["prefill", "decode"])
def test_abort_fails_the_room(deployment: Deployment, tables: dict[str, StatusStore], side: str) -> None:
    workers = dict(zip(("prefill", "decode"), deployment.pair(), strict=True))
    for worker in workers.values():
        worker.open(5)
    workers[side].abort(5)
    assert workers[side].poll(5) + workers[side].get(5) == [KVPoll.Failed, KVPoll.Failed]
    everywhere(deployment, tables, 5, **{side: KVPoll.Failed})
    assert workers[side].fail(5) == ["Aborted by AbortReq.", False]
    assert workers[side].get(5) == [None]
    everywhere(deployment, tables, 5, **{side: None})


def test_abort_on_decode_reaches_prefill(deployment: Deployment) -> None:
    prefill, decode = deployment.pair()
    prefill.open(5)
    decode.open(5)
    decode.ask(5)
    until(lambda: prefill.get(5), [KVPoll.WaitingForInput])
    decode.abort(5)
    until(lambda: prefill.get(5), [KVPoll.Failed])


@pytest.mark.parametrize("side", ["prefill", "decode"])
def test_failed_rank_reports_its_own_reason(deployment: Deployment, tables: dict[str, StatusStore], side: str) -> None:
    workers = dict(zip(("prefill", "decode"), deployment.pair(), strict=True))
    worker = workers[side]
    worker.open(5)
    worker.record(5, "RDMA write failed")
    worker.update(5, KVPoll.Failed)
    assert worker.poll(5) == [KVPoll.Failed]
    if deployment.environment:
        until(lambda: tables[side].failure_reason(5), "RDMA write failed")
    assert worker.fail(5) == ["RDMA write failed", False]
    assert worker.leftovers() == []
    worker.open(5)
    worker.update(5, KVPoll.Failed)
    assert worker.fail(5) == [UNKNOWN, True], "the reason of an earlier request"


def test_failure_on_prefill_reaches_decode_with_reason(deployment: Deployment) -> None:
    prefill, decode = deployment.pair()
    prefill.open(5)
    decode.open(5)
    decode.ask(5)
    until(lambda: prefill.poll(5), [KVPoll.WaitingForInput])
    prefill.conclude(5, KVPoll.Failed, "RDMA write failed")
    prefill.conclude(5, KVPoll.Success)
    until(lambda: decode.poll(5), [KVPoll.Failed])
    assert [prefill.fail(5)[0], decode.fail(5)[0]] == ["RDMA write failed"] * 2


def ranks(deployment: Deployment) -> list[Worker]:
    """Prefill with tensor parallelism 2."""
    processes = ({"role": "prefill", "tp_size": 2, "tp_rank": rank} for rank in (0, 1))
    return deployment.start(*processes, port=free_port())


def fail_on_the_other(deployment: Deployment) -> list[Worker]:
    """Fail room 5 on rank 1 with a reason; rank 0 gets the status by SGLang's all-reduce, without one."""
    first, second = ranks(deployment)
    for worker in (first, second):
        worker.open(5)
    second.record(5, "RDMA write failed")
    second.update(5, KVPoll.Failed)
    return [first, second]


def test_reason_of_other_rank_without_plugin_is_unknown(without_plugin: Deployment) -> None:
    first, second = fail_on_the_other(without_plugin)
    first.update(5, KVPoll.Failed)
    assert first.fail(5) == [UNKNOWN, True]
    assert second.fail(5) == ["RDMA write failed", False]


def test_reason_of_failed_rank_is_reported_by_all(with_plugin: Deployment, tables: dict[str, StatusStore]) -> None:
    first, second = fail_on_the_other(with_plugin)
    until(lambda: first.reason(5), "RDMA write failed", 2.0)
    first.update(5, KVPoll.Failed)
    assert first.fail(5)[0] == "RDMA write failed"
    assert second.fail(5)[0] == "RDMA write failed"
    until(lambda: tables["prefill"].get(5), None)
    assert first.leftovers() + second.leftovers() == []


def test_first_reason_of_several_ranks_stays(with_plugin: Deployment, tables: dict[str, StatusStore]) -> None:
    first, second = fail_on_the_other(with_plugin)
    until(lambda: first.reason(5), "RDMA write failed", 2.0)
    first.record(5, "as reported by the others")
    first.update(5, KVPoll.Failed)
    assert tables["prefill"].failure_reason(5) == "RDMA write failed"
    assert [first.fail(5)[0], second.fail(5)[0]] == ["RDMA write failed"] * 2


def test_node_failure_fails_rooms_on_decode(deployment: Deployment, tables: dict[str, StatusStore]) -> None:
    _, decode = deployment.pair()
    decode.open(5, 6, 7)
    decode.update(6, KVPoll.Success)
    decode.clear(7)
    decode.lose_prefill()
    assert decode.get(5, 6, 7) == [KVPoll.Failed, KVPoll.Success, None]
    everywhere(deployment, tables, 5, decode=KVPoll.Failed)
    reason, other = decode.fail(5)
    assert DOWN in reason
    assert not other


def test_poll_of_absent_room_is_failed(deployment: Deployment) -> None:
    prefill, decode = deployment.pair()
    prefill.open(5)
    prefill.clear(5)
    assert prefill.poll(5) == [KVPoll.Failed]
    decode.open(6)
    decode.clear(6)
    assert decode.poll(6) == [KVPoll.Failed]
