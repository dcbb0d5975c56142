"""The tests of kvpoll doctor."""

from __future__ import annotations

import pytest

from tests.support import examining, real
from tests.support.examining import HEALTHY


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
