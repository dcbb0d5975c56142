"""What SGLang promises of one request, on its own and with the plugin alike; and what the plugin adds."""

from __future__ import annotations

import pytest

from redis_kvpoll import KVPoll, StatusStore
from tests.sglang.crew import Crew, Worker, soon
from tests.support.real import free_port

UNKNOWN = "Failed due to an unknown reason from another rank"
DOWN = "Lost connection with prefill instance"


def everywhere(crew: Crew, tables: dict[str, StatusStore], room: int, **wanted: KVPoll | None) -> None:
    """With the plugin, all others see what the process itself sees."""
    if crew.environment:
        for role, status in wanted.items():
            soon(lambda role=role: tables[role].get(room), status)


def test_a_request_from_its_beginning_to_its_end(crew: Crew, tables: dict[str, StatusStore]) -> None:
    prefill, decode = crew.pair()
    prefill.open(5)
    decode.open(5)
    assert (prefill.poll(5), decode.poll(5)) == ([KVPoll.Bootstrapping], [KVPoll.WaitingForInput])
    everywhere(crew, tables, 5, prefill=KVPoll.Bootstrapping, decode=KVPoll.WaitingForInput)
    decode.ask(5)
    soon(lambda: prefill.poll(5), [KVPoll.WaitingForInput])
    everywhere(crew, tables, 5, prefill=KVPoll.WaitingForInput)
    assert prefill.prefix(5) == 5
    assert prefill.prefix(5) == 0
    prefill.update(5, KVPoll.Transferring)
    assert prefill.poll(5) == [KVPoll.Transferring]
    everywhere(crew, tables, 5, prefill=KVPoll.Transferring)
    prefill.send(5)
    soon(lambda: prefill.poll(5), [KVPoll.Success])
    soon(lambda: decode.poll(5), [KVPoll.Success])
    everywhere(crew, tables, 5, prefill=KVPoll.Success, decode=KVPoll.Success)
    prefill.clear(5)
    decode.clear(5)
    assert prefill.get(5) + decode.get(5) == [None, None]
    everywhere(crew, tables, 5, prefill=None, decode=None)
    assert prefill.errors() + decode.errors() == []


def test_a_status_never_goes_back(crew: Crew) -> None:
    prefill, _ = crew.pair()
    prefill.open(5)
    for status in (KVPoll.Transferring, KVPoll.WaitingForInput, KVPoll.Bootstrapping):
        prefill.update(5, status)
        assert prefill.get(5) == [KVPoll.Transferring]
    for status in (KVPoll.Failed, KVPoll.Success, KVPoll.Transferring):
        prefill.update(5, status)
        assert prefill.get(5) == [KVPoll.Failed]


def test_a_room_that_was_cleared_stays_away_until_it_is_opened_again(
    crew: Crew, tables: dict[str, StatusStore]
) -> None:
    prefill, _ = crew.pair()
    prefill.open(5)
    prefill.clear(5)
    for status in (KVPoll.Failed, KVPoll.Transferring, KVPoll.Success):
        prefill.update(5, status)
        prefill.conclude(5, KVPoll.Failed, "late")
        assert prefill.get(5) == [None]
    everywhere(crew, tables, 5, prefill=None)
    prefill.open(5)
    assert prefill.poll(5) == [KVPoll.Bootstrapping]
    everywhere(crew, tables, 5, prefill=KVPoll.Bootstrapping)
    assert prefill.leftovers() == []


@pytest.mark.parametrize("side", ["prefill", "decode"])
def test_an_abort_fails_the_room(crew: Crew, tables: dict[str, StatusStore], side: str) -> None:
    workers = dict(zip(("prefill", "decode"), crew.pair(), strict=True))
    for worker in workers.values():
        worker.open(5)
    workers[side].abort(5)
    assert workers[side].poll(5) + workers[side].get(5) == [KVPoll.Failed, KVPoll.Failed]
    everywhere(crew, tables, 5, **{side: KVPoll.Failed})
    assert workers[side].fail(5) == ["Aborted by AbortReq.", False]
    assert workers[side].get(5) == [None]
    everywhere(crew, tables, 5, **{side: None})


def test_decode_tells_prefill_of_its_abort(crew: Crew) -> None:
    prefill, decode = crew.pair()
    prefill.open(5)
    decode.open(5)
    decode.ask(5)
    soon(lambda: prefill.get(5), [KVPoll.WaitingForInput])
    decode.abort(5)
    soon(lambda: prefill.get(5), [KVPoll.Failed])


@pytest.mark.parametrize("side", ["prefill", "decode"])
def test_the_rank_that_failed_says_why(crew: Crew, tables: dict[str, StatusStore], side: str) -> None:
    workers = dict(zip(("prefill", "decode"), crew.pair(), strict=True))
    worker = workers[side]
    worker.open(5)
    worker.record(5, "RDMA write failed")
    worker.update(5, KVPoll.Failed)
    assert worker.poll(5) == [KVPoll.Failed]
    if crew.environment:
        soon(lambda: tables[side].failure_reason(5), "RDMA write failed")
    assert worker.fail(5) == ["RDMA write failed", False]
    assert worker.leftovers() == []
    worker.open(5)
    worker.update(5, KVPoll.Failed)
    assert worker.fail(5) == [UNKNOWN, True], "the reason of an earlier request"


def test_prefill_tells_decode_why_it_failed(crew: Crew) -> None:
    prefill, decode = crew.pair()
    prefill.open(5)
    decode.open(5)
    decode.ask(5)
    soon(lambda: prefill.poll(5), [KVPoll.WaitingForInput])
    prefill.conclude(5, KVPoll.Failed, "RDMA write failed")
    prefill.conclude(5, KVPoll.Success)
    soon(lambda: decode.poll(5), [KVPoll.Failed])
    assert [prefill.fail(5)[0], decode.fail(5)[0]] == ["RDMA write failed"] * 2


def ranks(crew: Crew) -> list[Worker]:
    """Prefill with tensor parallelism 2."""
    places = ({"role": "prefill", "tp_size": 2, "tp_rank": rank} for rank in (0, 1))
    return crew.start(*places, port=free_port())


def fail_on_the_other(crew: Crew) -> list[Worker]:
    """Room 5 failed on rank 1, with a reason, and on rank 0 only as SGLang's all-reduce says it."""
    first, second = ranks(crew)
    for worker in (first, second):
        worker.open(5)
    second.record(5, "RDMA write failed")
    second.update(5, KVPoll.Failed)
    return [first, second]


def test_on_its_own_sglang_does_not_know_the_reason_of_another_rank(alone: Crew) -> None:
    first, second = fail_on_the_other(alone)
    first.update(5, KVPoll.Failed)
    assert first.fail(5) == [UNKNOWN, True]
    assert second.fail(5) == ["RDMA write failed", False]


def test_every_rank_reports_the_reason_of_the_one_that_failed(plugged: Crew, tables: dict[str, StatusStore]) -> None:
    first, second = fail_on_the_other(plugged)
    soon(lambda: first.reason(5), "RDMA write failed", 2.0)
    first.update(5, KVPoll.Failed)
    assert first.fail(5)[0] == "RDMA write failed"
    assert second.fail(5)[0] == "RDMA write failed"
    soon(lambda: tables["prefill"].get(5), None)
    assert first.leftovers() + second.leftovers() == []


def test_the_first_cause_wins_over_the_ranks(plugged: Crew, tables: dict[str, StatusStore]) -> None:
    first, second = fail_on_the_other(plugged)
    soon(lambda: first.reason(5), "RDMA write failed", 2.0)
    first.record(5, "told so by the others")
    first.update(5, KVPoll.Failed)
    assert tables["prefill"].failure_reason(5) == "RDMA write failed"
    assert [first.fail(5)[0], second.fail(5)[0]] == ["RDMA write failed"] * 2


def test_decode_fails_what_a_dead_prefill_was_serving(crew: Crew, tables: dict[str, StatusStore]) -> None:
    _, decode = crew.pair()
    decode.open(5, 6, 7)
    decode.update(6, KVPoll.Success)
    decode.clear(7)
    decode.lose_prefill()
    assert decode.get(5, 6, 7) == [KVPoll.Failed, KVPoll.Success, None]
    everywhere(crew, tables, 5, decode=KVPoll.Failed)
    reason, other = decode.fail(5)
    assert DOWN in reason
    assert not other


def test_a_poll_of_what_is_not_there(crew: Crew) -> None:
    prefill, decode = crew.pair()
    prefill.open(5)
    prefill.clear(5)
    assert prefill.poll(5) == [KVPoll.Failed]
    decode.open(6)
    decode.clear(6)
    assert decode.poll(6) == [KVPoll.Failed]
