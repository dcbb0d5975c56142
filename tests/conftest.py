"""Fixtures: every test that asks for ``server`` or ``store`` runs on every kind of server there is."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import pytest
import redis

from chaos.proxy import Proxy
from redis_kvpoll import AsyncStatusStore, StatusStore
from redis_kvpoll.aio import connections as async_connections
from redis_kvpoll.aio import store as async_store
from redis_kvpoll.cli import options
from redis_kvpoll.sync import connections
from redis_kvpoll.sync import store as sync_store
from redis_kvpoll.transport import embedded
from tests.support import cluster as clusters
from tests.support import real
from tests.support import servers as matrix
from tests.support.blocking import Blocking
from tests.support.failover import Failover
from tests.support.loggers import errors_of, unchanged
from tests.support.looped import Side
from tests.support.own_threads import begin_test


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let each worker begin with its share of the longest tests: at the end, one of them would run alone.

    The model checker's are those. At first, each worker gets so many of those that are left, in order.
    """
    longest = [item for item in items if "keeps_all_invariants" in item.name]
    others = iter([item for item in items if "keeps_all_invariants" not in item.name])
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    ordered: list[pytest.Item] = []
    for worker in range(workers):
        share, first = (len(items) - len(ordered)) // (workers - worker), longest[worker::workers]
        ordered += [*first, *islice(others, max(0, share - len(first)))]
    items[:] = [*ordered, *others]


@pytest.fixture(scope="session")
def real_servers() -> Iterator[matrix.Servers]:
    servers = matrix.Servers()
    yield servers
    servers.stop()


@pytest.fixture(autouse=True, scope="session")
def time_limits_outlast_a_pause() -> Iterator[None]:
    """The default time limits are a minute or more here: a machine that stands still for some seconds fails no call."""
    with pytest.MonkeyPatch.context() as patch:
        for module, store in ((sync_store, StatusStore), (async_store, AsyncStatusStore)):
            patch.setattr(module, "DEFAULT_DEADLINE", 60.0)
            patch.setitem(store.__init__.__kwdefaults__, "deadline", 60.0)
        patch.setattr(options, "DEADLINE", 60.0)
        patch.setattr(embedded, "_START_SECONDS", 120.0)
        yield


@pytest.fixture(autouse=True, scope="session")
def no_store_uses_the_harness_user() -> Iterator[None]:
    """Fail if a store's connection logs in as the user of the tests, who has all rights."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (connections, async_connections):

            def checked(options: dict[str, Any], of: Any = module.connection_options) -> Any:
                assert options.get("username") != matrix.HARNESS["username"], "give the store a store_client()"
                return of(options)

            patch.setattr(module, "connection_options", checked)
        yield


@pytest.fixture(autouse=True)
def threads_of_others() -> None:
    """Tell this test's threads from those that run already."""
    begin_test()


@pytest.fixture(autouse=True)
def loggers() -> Iterator[None]:
    """Leave the package's loggers as they were."""
    with unchanged():
        yield


@pytest.fixture(autouse=True)
def no_errors_of_asyncio() -> Iterator[None]:
    """Fail if asyncio logs an error: of a task that nobody has waited for, or that was dropped while it ran."""
    with errors_of("asyncio") as errors:
        yield
    assert not errors


@pytest.fixture(autouse=True)
def watched() -> Iterator[list[redis.Redis]]:
    """Clients of the servers that a test used. Afterwards a key without a TTL is an error, and all keys are deleted."""
    clients: list[redis.Redis] = []
    yield clients
    for client in clients:
        left = matrix.keys_without_ttl(client)
        client.flushall()
        client.close()
        assert not left, f"keys without a TTL: {left}"


@pytest.fixture(params=matrix.KINDS)
def server(
    request: pytest.FixtureRequest, real_servers: matrix.Servers, watched: list[redis.Redis]
) -> Iterator[matrix.Server]:
    """Each kind of server in turn, empty."""
    found = real_servers.get(request.param)
    if found is None:
        pytest.skip(matrix.why_absent(request.param))
    watched.append(found.client())
    yield found
    found.close()


@pytest.fixture
def client(server: matrix.Server) -> redis.Redis:
    """A plain client, to read keys as redis-cli does."""
    return server.client(decode_responses=True)


@pytest.fixture(params=("sync", "async"))
def make_store(request: pytest.FixtureRequest, server: matrix.Server) -> Iterator[Callable[..., Any]]:
    """Makes stores on the server, blocking and asyncio in turn, both used as the blocking one is."""
    with asyncio.Runner() as runner:
        made: list[Any] = []

        def make(client_options: dict[str, Any] | None = None, **options: Any) -> Any:
            if request.param == "sync":
                made.append(StatusStore(server.store_client(**client_options or {}), **options))
            else:
                store = AsyncStatusStore(server.async_client(**client_options or {}), **options)
                made.append(Blocking(store, runner))
            return made[-1]

        yield make
        for store in made:
            store.close()


@pytest.fixture
def url(real_servers: matrix.Servers, watched: list[redis.Redis]) -> str:
    """The URL of an empty Valkey server."""
    server = real_servers.get("valkey")
    if server is None:
        pytest.skip(matrix.why_absent("valkey"))
    watched.append(server.client())
    return server.url


@pytest.fixture(params=("sync", "async"))
def side(request: pytest.FixtureRequest) -> Iterator[Side]:
    """Makes stores, blocking and asyncio in turn, whose threads or event loop run between the calls of a test too."""
    with Side(request.param) as side:
        yield side


@pytest.fixture
def peer(server: Any) -> Iterator[StatusStore]:
    """A second store, in the place of another process."""
    with StatusStore(server.store_client()) as peer:
        yield peer


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(32) as pool:
        yield pool


@pytest.fixture
def cluster() -> clusters.Cluster:
    """The cluster of this process."""
    return clusters.shared()


@pytest.fixture
def failover() -> Iterator[Failover]:
    """A primary and its replica, behind an address that follows a failover."""
    with Failover() as failover:
        yield failover


@pytest.fixture(params=("compat", "strict"))
def policy(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def store(make_store: Callable[..., Any]) -> Any:
    """A store with the defaults."""
    return make_store()


@pytest.fixture
def ranks(make_store: Callable[..., Any]) -> Callable[..., list[Any]]:
    """Makes the stores of all ranks."""

    def make(world_size: int, **options: Any) -> list[Any]:
        return [make_store(rank=rank, world_size=world_size, **options) for rank in range(world_size)]

    return make


@pytest.fixture(params=("sync", "async"))
def world(request: pytest.FixtureRequest) -> Iterator[real.World]:
    """Servers with ports of their own, which a test may stop and restart, and stores on them, blocking and asyncio."""
    with real.World(request.param) as world:
        yield world


@pytest.fixture
def proxy(server: real.PortServer) -> Iterator[Proxy]:
    """A proxy that injects network faults before a module's own ``server``."""
    with Proxy(server.socket) as proxy:
        yield proxy


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Report what the tests of tests/model have explored."""
    ended = [report for outcome in ("passed", "failed") for report in terminalreporter.getreports(outcome)]
    explored = [text for report in ended for name, text in report.user_properties if name == "explored"]
    if explored:
        terminalreporter.section("interleavings")
        for text in sorted(explored):
            terminalreporter.write_line(text.partition("\n")[0])
