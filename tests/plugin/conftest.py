"""What several tests of the plugin use."""

from __future__ import annotations

import pytest

from redis_kvpoll import StatusStore
from redis_kvpoll.agent.client import client, open_channel
from tests.support.local_channel import open_local
from tests.support.told import ToldRegistry


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    """Sessions run in threads of the test, which looks into them. For real agents see test_agent.py."""
    monkeypatch.setattr(open_channel, "open_channel", open_local)


@pytest.fixture(autouse=True)
def closes_patiently(monkeypatch):
    """A process that leaves waits for its last changes, however long the machine stands still."""
    monkeypatch.setattr(client, "CLOSE_SECONDS", 60.0)


@pytest.fixture
def now():
    """The registry's clock, in seconds: a test sets its only item."""
    return [0.0]


@pytest.fixture
def registry(now):
    """The registry of a prefill worker, whose rooms wait for their senders."""
    registry = ToldRegistry(clock=lambda: now[0])
    registry.awaits_claims = True
    return registry


@pytest.fixture
def environment(monkeypatch):
    def put(url, **others):
        for name, value in {"URL": url, "NAMESPACE": "t", "LEASE": "1", **others}.items():
            monkeypatch.setenv(f"KVPOLL_{name}", str(value))

    return put


@pytest.fixture
def table(url, environment):
    """The prefill table, as an operator sees it."""
    environment(url)
    with StatusStore.from_url(url, namespace="t-prefill") as store:
        yield store
