"""Scenarios run twice: on SGLang's own dicts, and with the plugin. Only the workers import SGLang."""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from chaos.servers import Server
from redis_kvpoll import StatusStore
from tests.sglang.deployment import Deployment, Host
from tests.support import pace

LEASE = pace.seconds(2)
_numbers = itertools.count()


def pytest_pycollect_makemodule() -> None:
    """Skip the whole folder in one line."""
    if importlib.util.find_spec("sglang") is None:
        pytest.skip("SGLang is not installed here: make test-sglang", allow_module_level=True)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Report how often SGLang without the plugin loses the races."""
    results = [
        text
        for report in terminalreporter.getreports("passed")
        for name, text in report.user_properties
        if name == "races"
    ]
    if results:
        terminalreporter.section("races")
        for text in results:
            terminalreporter.write_line(text)


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    with Host(tmp_path_factory.mktemp("sglang")) as host:
        yield host


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A real server, shared by the tests that do not stop it."""
    with Server(tmp_path_factory.mktemp("server") / "data") as server:
        yield server


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Server]:
    """A real server that the test may kill."""
    with Server(tmp_path / "data") as server:
        yield server


@pytest.fixture
def namespace() -> str:
    return f"sglang{next(_numbers)}"


@pytest.fixture
def without_plugin(host: Host) -> Iterator[Deployment]:
    """A deployment on SGLang's own dicts."""
    with Deployment(host, {}) as deployment:
        yield deployment


@pytest.fixture
def plugin_environment(namespace: str) -> Callable[[Server], dict[str, str]]:
    """The plugin's settings for a server."""
    return lambda server: {
        "KVPOLL_URL": server.url,
        "KVPOLL_NAMESPACE": namespace,
        "KVPOLL_LEASE": f"{LEASE:g}",
        "KVPOLL_DEADLINE": f"{pace.seconds(5):g}",
        "KVPOLL_JOIN": "600",
    }


@pytest.fixture
def with_plugin(
    host: Host, shared_server: Server, plugin_environment: Callable[[Server], dict[str, str]]
) -> Iterator[Deployment]:
    """A deployment with the plugin."""
    with Deployment(host, plugin_environment(shared_server)) as deployment:
        yield deployment


@pytest.fixture(params=("without_plugin", "with_plugin"))
def deployment(request: pytest.FixtureRequest) -> Deployment:
    """Both deployments, in turn."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def tables(shared_server: Server, namespace: str) -> Iterator[dict[str, StatusStore]]:
    """The tables in the shared server, by role; empty without the plugin."""
    with Tables(shared_server, namespace) as tables:
        yield tables


class Tables(dict[str, StatusStore]):
    """The stores of prefill's and decode's tables in a server. A context manager."""

    def __init__(self, server: Server, namespace: str) -> None:
        super().__init__()
        for role in ("prefill", "decode"):
            self[role] = StatusStore.from_url(server.url, namespace=f"{namespace}-{role}", policy="strict")

    def __enter__(self) -> Tables:
        return self

    def __exit__(self, *_: object) -> None:
        for store in self.values():
            store.close()
