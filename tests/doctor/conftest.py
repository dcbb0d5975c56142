"""The tests of kvpoll doctor."""

from __future__ import annotations

import pytest

from redis_kvpoll import StatusStore
from tests.support import examining, real
from tests.support.examining import HEALTHY
from tests.support.leasing import ManualLease


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    examining.be_patient(monkeypatch)


@pytest.fixture
def world():
    with real.World("sync") as world:
        yield world


@pytest.fixture
def server(world):
    """A healthy server."""
    return world.serve(*HEALTHY)


@pytest.fixture
def client(server):
    with server.client(decode_responses=True) as client:
        yield client


@pytest.fixture
def store(server):
    with StatusStore.from_url(server.tcp) as store:
        yield store


@pytest.fixture
def lease(store):
    """A lease with room 2, which no thread renews."""
    lease = ManualLease(store, ttl=600.0).take()
    store.open(2, request="rid-2")
    return lease
