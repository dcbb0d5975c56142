"""Scenarios run twice: on SGLang's own dicts, and with the plugin. SGLang itself is only in the workers."""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from chaos.servers import Server
from redis_kvpoll import StatusStore
from tests.sglang.crew import Crew, Host
from tests.support import pace

LEASE = pace.seconds(1)
_numbers = itertools.count()


def pytest_pycollect_makemodule() -> None:
    """One line for the whole folder."""
    if importlib.util.find_spec("sglang") is None:
        pytest.skip("SGLang is not installed here: make test-sglang", allow_module_level=True)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How often SGLang on its own loses the races."""
    told = [
        text
        for report in terminalreporter.getreports("passed")
        for name, text in report.user_properties
        if name == "races"
    ]
    if told:
        terminalreporter.section("races")
        for text in told:
            terminalreporter.write_line(text)


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    with Host(tmp_path_factory.mktemp("sglang")) as host:
        yield host


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A real server for all tests that leave it alone."""
    with Server(tmp_path_factory.mktemp("server") / "data") as server:
        yield server


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Server]:
    """A real server to be killed."""
    with Server(tmp_path / "data") as server:
        yield server


@pytest.fixture
def namespace() -> str:
    return f"sglang{next(_numbers)}"


@pytest.fixture
def alone(host: Host) -> Iterator[Crew]:
    """SGLang as it is."""
    with Crew(host, {}) as crew:
        yield crew


@pytest.fixture
def with_plugin(namespace: str) -> Callable[[Server], dict[str, str]]:
    """The settings of the plugin, on a server."""
    return lambda server: {
        "KVPOLL_URL": server.url,
        "KVPOLL_NAMESPACE": namespace,
        "KVPOLL_LEASE": f"{LEASE:g}",
    }


@pytest.fixture
def plugged(host: Host, shared_server: Server, with_plugin: Callable[[Server], dict[str, str]]) -> Iterator[Crew]:
    """SGLang with the plugin."""
    with Crew(host, with_plugin(shared_server)) as crew:
        yield crew


@pytest.fixture(params=("alone", "plugged"))
def crew(request: pytest.FixtureRequest) -> Crew:
    """Both, in turn."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def tables(shared_server: Server, namespace: str) -> Iterator[dict[str, StatusStore]]:
    """What others see of the shared server, by role; for SGLang on its own dicts, nothing."""
    with Tables(shared_server, namespace) as tables:
        yield tables


class Tables(dict[str, StatusStore]):
    """The tables of prefill and decode in a server. A context manager."""

    def __init__(self, server: Server, namespace: str) -> None:
        super().__init__()
        for role in ("prefill", "decode"):
            self[role] = StatusStore.from_url(server.url, namespace=f"{namespace}-{role}", policy="strict")

    def __enter__(self) -> Tables:
        return self

    def __exit__(self, *_: object) -> None:
        for store in self.values():
            store.close()
