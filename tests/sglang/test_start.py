"""Wholly with the plugin, or wholly without: what stands in the way of it is said in one line."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from chaos.servers import Server
from redis_kvpoll import StatusStore
from tests.sglang.crew import Crew, Host, Worker
from tests.support.real import free_port

PLAIN = {
    "prefill": {"request_status": "dict", "failure_records": "dict", "req_to_decode_prefix_len": "dict"},
    "decode": {"request_status": "dict", "failure_records": "dict"},
}
IN_STAGES = PLAIN["prefill"] | {"request_status": "PPConsensusStore"}


@pytest.fixture
def bare(host: Host, with_plugin: object) -> Iterator[Crew]:
    """The plugin is installed, and each test sets what it wants."""
    with Crew(host, {}) as crew:
        yield crew


def is_plain(*workers: Worker) -> bool:
    """On SGLang's own, and at work."""
    for worker in workers:
        worker.open(5)
        assert worker.get(5) != [None]
        worker.clear(5)
        assert worker.get(5) == [None]
    return [worker.kinds for worker in workers] == [PLAIN["prefill"], PLAIN["decode"]]


def stages(crew: Crew, *environments: dict[str, str]) -> list[Worker]:
    places = (
        {"role": "prefill", "pp_size": 2, "pp_rank": rank, "environment": environment}
        for rank, environment in enumerate(environments)
    )
    return crew.start(*places, port=free_port())


def test_without_a_url_nothing_is_changed(bare: Crew) -> None:
    workers = bare.pair()
    assert is_plain(*workers)
    for worker in workers:
        ((_, level, text),) = worker.lines()
        assert (level, text.partition(" ")[0]) == ("DEBUG", "KVPOLL_URL")


def test_without_a_url_a_pipeline_is_on_sglangs_store(bare: Crew) -> None:
    workers = stages(bare, {}, {})
    assert [worker.kinds for worker in workers] == [IN_STAGES] * 2
    assert [worker.said() for worker in workers] == [[], []]


def test_with_a_url_all_tables_are_ours(plugged: Crew, tables: dict[str, StatusStore]) -> None:
    workers = plugged.pair()
    assert [worker.kinds for worker in workers] == [
        {
            "request_status": "StatusMap",
            "failure_records": "FailureRecords",
            "req_to_decode_prefix_len": "PrefixLengths",
        },
        {"request_status": "StatusMap", "failure_records": "FailureRecords"},
    ]
    assert [worker.said() + worker.said(level="WARNING") for worker in workers] == [[], []]
    assert len(tables["prefill"].owners()) == 1
    assert len(tables["decode"].owners()) == 1


def test_with_a_url_a_pipeline_is_ours(plugged: Crew) -> None:
    url = plugged.environment
    workers = stages(plugged, url, url)
    assert [worker.kinds["request_status"] for worker in workers] == ["ConsensusMap"] * 2


@pytest.mark.parametrize(
    "settings",
    [
        {"KVPOLL_URL": "not a url"},
        {"KVPOLL_URL": "http://127.0.0.1:80/"},
        {"KVPOLL_LEASE": "soon"},
        {"KVPOLL_TTL": "-1"},
        {"KVPOLL_NAMESPACE": "no spaces, please"},
    ],
    ids=lambda settings: next(iter(settings.values())),
)
def test_a_bad_setting_is_said_once(bare: Crew, shared_server: Server, settings: dict[str, str]) -> None:
    bare.environment = {"KVPOLL_URL": shared_server.url} | settings
    workers = bare.pair()
    assert is_plain(*workers)
    (value,) = settings.values()
    for worker in workers:
        (line,) = worker.said()
        assert value in line


def test_a_server_that_cannot_be_reached_is_said_once(bare: Crew) -> None:
    bare.environment = {"KVPOLL_URL": f"redis://127.0.0.1:{free_port()}", "KVPOLL_JOIN": "1"}
    workers = bare.pair()
    assert is_plain(*workers)
    for worker in workers:
        (line,) = worker.said()
        assert "KVPOLL_URL" in line


@pytest.mark.parametrize(("broken", "kind"), [("hook", "dict"), ("shape", "OrderedDict")])
def test_an_unknown_sglang_is_said_once(plugged: Crew, broken: str, kind: str) -> None:
    (prefill,) = plugged.start({"role": "prefill"}, port=free_port(), broken=broken)
    assert prefill.kinds == PLAIN["prefill"] | {"request_status": kind}
    (line,) = prefill.said()
    assert "0.5.23" in line
    prefill.open(5)
    assert prefill.poll(5) == [1]


@pytest.mark.parametrize("absent", [0, 1])
def test_a_pipeline_joins_together_or_not_at_all(plugged: Crew, absent: int) -> None:
    environments = [{}, {}]
    environments[absent] = {"KVPOLL_URL": f"redis://127.0.0.1:{free_port()}", "KVPOLL_JOIN": "1"}
    workers = stages(plugged, *environments)
    assert [worker.kinds for worker in workers] == [IN_STAGES] * 2
    assert [len(worker.said()) for worker in workers] == [1, 1]
    for worker in workers:
        worker.open(5)
    assert workers[0].poll(5) == [1]
