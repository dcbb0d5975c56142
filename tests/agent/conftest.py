"""One engine for each test that asks for it."""

from __future__ import annotations

import contextlib

import pytest

from redis_kvpoll import AsyncStatusStore
from redis_kvpoll.agent import ring
from redis_kvpoll.agent.server.table_sessions import TableSessions
from tests.support import agents, instance


@pytest.fixture
def engine(monkeypatch):
    with agents.engine(monkeypatch) as made:
        yield made


@pytest.fixture
def agent(engine):
    """What listens in an agent's place."""
    with contextlib.closing(agents.StandIn(engine.folder / "socket")) as agent:
        yield agent


@pytest.fixture(params=["ring", "socket"])
def way(request, monkeypatch):
    """How this process's messages get to its agent: by a ring, or as an older one's do."""
    if request.param == "socket":
        monkeypatch.setattr(ring, "is_supported", lambda: False)
    return request.param


@pytest.fixture
def client(url, real_servers):
    with real_servers.get("valkey").client() as client:
        yield client


@pytest.fixture
async def sessions():
    sessions = TableSessions()
    yield sessions
    await sessions.close()
    assert sessions.is_told()


@pytest.fixture
async def store(url):
    async with AsyncStatusStore.from_url(
        url, namespace="t", policy="strict", rank=0, world_size=instance.RANKS
    ) as store:
        yield store


@pytest.fixture
async def ranks(sessions, url):
    return await instance.joined(sessions, url)
