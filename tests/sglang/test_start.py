"""All dicts are replaced, or none: whatever prevents it is logged in one line."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from chaos.servers import Server
from redis_kvpoll import StatusStore
from tests.sglang.deployment import Deployment, Host, Worker
from tests.support.real import free_port

PLAIN = {
    "prefill": {"request_status": "dict", "failure_records": "dict", "req_to_decode_prefix_len": "dict"},
    "decode": {"request_status": "dict", "failure_records": "dict"},
}
IN_STAGES = PLAIN["prefill"] | {"request_status": "PPConsensusStore"}


@pytest.fixture
def bare(host: Host, plugin_environment: object) -> Iterator[Deployment]:
    """A deployment without settings: each test sets its own."""
    with Deployment(host, {}) as deployment:
        yield deployment


def is_plain(*workers: Worker) -> bool:
    """Return whether the workers are on SGLang's own dicts; check that they work."""
    for worker in workers:
        worker.open(5)
        assert worker.get(5) != [None]
        worker.clear(5)
        assert worker.get(5) == [None]
    return [worker.kinds for worker in workers] == [PLAIN["prefill"], PLAIN["decode"]]


def stages(deployment: Deployment, *environments: dict[str, str]) -> list[Worker]:
    processes = (
        {"role": "prefill", "pp_size": 2, "pp_rank": rank, "environment": environment}
        for rank, environment in enumerate(environments)
    )
    return deployment.start(*processes, port=free_port())


def test_without_url_dicts_stay(bare: Deployment) -> None:
    workers = bare.pair()
    assert is_plain(*workers)
    for worker in workers:
        ((_, level, text),) = worker.lines()
        assert (level, text.startswith("redis_kvpoll: KVPOLL_URL")) == ("DEBUG", True)


def test_pipeline_without_url_keeps_sglangs_store(bare: Deployment) -> None:
    workers = stages(bare, {}, {})
    assert [worker.kinds for worker in workers] == [IN_STAGES] * 2
    assert [worker.logged() for worker in workers] == [[], []]


def test_with_url_all_dicts_are_replaced(with_plugin: Deployment, tables: dict[str, StatusStore]) -> None:
    workers = with_plugin.pair()
    assert [worker.kinds for worker in workers] == [
        {
            "request_status": "StatusMap",
            "failure_records": "FailureRecords",
            "req_to_decode_prefix_len": "PrefixLengths",
        },
        {"request_status": "StatusMap", "failure_records": "FailureRecords"},
    ]
    assert [worker.logged() + worker.logged(level="WARNING") for worker in workers] == [[], []]
    assert len(tables["prefill"].owners()) == 1
    assert len(tables["decode"].owners()) == 1


def test_pipeline_with_url_uses_consensus_map(with_plugin: Deployment) -> None:
    url = with_plugin.environment
    workers = stages(with_plugin, url, url)
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
def test_invalid_setting_is_logged_once(bare: Deployment, shared_server: Server, settings: dict[str, str]) -> None:
    bare.environment = {"KVPOLL_URL": shared_server.url} | settings
    workers = bare.pair()
    assert is_plain(*workers)
    (value,) = settings.values()
    for worker in workers:
        (line,) = worker.logged()
        assert {"not a url": "URL ***"}.get(value, value) in line  # such a text may be a password


def test_unreachable_server_is_logged_once(bare: Deployment) -> None:
    bare.environment = {"KVPOLL_URL": f"redis://127.0.0.1:{free_port()}", "KVPOLL_JOIN": "1"}
    workers = bare.pair()
    assert is_plain(*workers)
    for worker in workers:
        (line,) = worker.logged()
        assert "KVPOLL_URL" in line


@pytest.mark.parametrize(("incompatibility", "kind"), [("hook", "dict"), ("type", "OrderedDict"), ("rule", "dict")])
def test_incompatible_sglang_is_logged_once(with_plugin: Deployment, incompatibility: str, kind: str) -> None:
    (prefill,) = with_plugin.start({"role": "prefill"}, port=free_port(), incompatibility=incompatibility)
    assert prefill.kinds == PLAIN["prefill"] | {"request_status": kind}
    (line,) = prefill.logged()
    assert "0.5.23" in line
    prefill.open(5)
    assert prefill.poll(5) == [1]


@pytest.mark.parametrize("absent", [0, 1])
def test_pipeline_with_a_failed_stage_joins_nowhere(with_plugin: Deployment, absent: int) -> None:
    environments = [{}, {}]
    environments[absent] = {"KVPOLL_URL": f"redis://127.0.0.1:{free_port()}", "KVPOLL_JOIN": "1"}
    workers = stages(with_plugin, *environments)
    assert [worker.kinds for worker in workers] == [IN_STAGES] * 2
    assert [len(worker.logged()) for worker in workers] == [1, 1]
    for worker in workers:
        worker.open(5)
    assert workers[0].poll(5) == [1]
