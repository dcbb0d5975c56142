"""One real server, embedded, and a store on it. Each chapter uses the public interface and nothing else."""

from __future__ import annotations

import pytest

from redis_kvpoll import StatusStore


@pytest.fixture
def store(url):
    """One process's store. ``url`` is the server's (see tests/conftest.py)."""
    with StatusStore.from_url(url, namespace="prod") as store:
        yield store


@pytest.fixture
def peer(url):
    """Another process's store, in the same namespace."""
    with StatusStore.from_url(url, namespace="prod") as peer:
        yield peer
