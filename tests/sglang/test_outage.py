"""Redis killed, or away for long, while requests are served: nobody who is served notices."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator

import pytest

from chaos.servers import Server
from redis_kvpoll import KVPoll, StatusStore
from tests.sglang.conftest import Tables
from tests.sglang.crew import Crew, Host, Worker, soon
from tests.sglang.fates import BROKEN, breaks, is_aborted
from tests.support.real import free_port

REQUESTS = 1000
WINDOW = 25
SERVING_SECONDS = 60.0
KEPT = list(range(10_001, 10_101))
"""Rooms that live through it all."""
KEPT_STATUSES = list(itertools.islice(itertools.cycle((1, 2, 3, 4)), len(KEPT)))


@pytest.fixture
def on_its_own_server(
    host: Host, own_server: Server, with_plugin: Callable[[Server], dict[str, str]]
) -> Iterator[Crew]:
    with Crew(host, with_plugin(own_server)) as crew:
        yield crew


@pytest.fixture
def its_tables(own_server: Server, namespace: str) -> Iterator[dict[str, StatusStore]]:
    with Tables(own_server, namespace) as tables:
        yield tables


def serve(workers: tuple[Worker, Worker], first: int, count: int) -> list[int]:
    rooms = list(range(first, first + count))
    for worker in workers:
        worker.serve(rooms, WINDOW)
    return rooms


def ended(workers: tuple[Worker, Worker], count: int) -> None:
    """Wait until so many have ended on both sides."""
    for worker in workers:
        soon(lambda worker=worker: worker.served() >= count, True, SERVING_SECONDS)


def check(workers: tuple[Worker, Worker], rooms: list[int]) -> None:
    """All have ended as they must, and nothing was raised."""
    ended(workers, len(rooms))
    for worker in workers:
        results = worker.results()
        assert results["errors"] + worker.errors() == []
        statuses = {int(room): (status, reason) for room, (status, reason) in results["ended"].items()}
        assert {room: status for room, (status, _) in statuses.items()} == {
            room: KVPoll.Failed if breaks(room) or is_aborted(room) else KVPoll.Success for room in rooms
        }
        reasons = {reason for room, (_, reason) in statuses.items() if breaks(room)}
        assert reasons == {BROKEN}
        assert worker.get(*rooms) == [None] * len(rooms)


def keep(workers: tuple[Worker, Worker]) -> None:
    """Rooms at all statuses, on both sides."""
    prefill, decode = workers
    for worker in workers:
        worker.open(*KEPT)
    for room, status in zip(KEPT, KEPT_STATUSES, strict=True):
        prefill.update(room, status)
        decode.update(room, status)


def whole(workers: tuple[Worker, Worker], tables: dict[str, StatusStore], seconds: float) -> None:
    """Wait until every room that lives in a process is in its table as it is there, and no other is."""
    for role, worker in zip(("prefill", "decode"), workers, strict=True):
        here = worker.get(*KEPT)
        assert None not in here
        soon(lambda role=role: tables[role].poll(KEPT), here, seconds)
        soon(lambda role=role: sum(tables[role].counts().values()), len(KEPT), seconds)


def let_go(workers: tuple[Worker, Worker], tables: dict[str, StatusStore]) -> None:
    for role, worker in zip(("prefill", "decode"), workers, strict=True):
        worker.clear(*KEPT)
        soon(lambda role=role: list(tables[role].rooms()), [])
        assert worker.leftovers() == []
        assert worker.errors() == []


def test_on_its_own(alone: Crew) -> None:
    workers = alone.pair()
    check(workers, serve(workers, 0, REQUESTS))


def test_redis_is_killed_and_comes_back_empty(
    on_its_own_server: Crew, own_server: Server, its_tables: dict[str, StatusStore]
) -> None:
    workers = on_its_own_server.pair()
    keep(workers)
    whole(workers, its_tables, 5.0)
    rooms = serve(workers, 0, REQUESTS)
    ended(workers, REQUESTS // 3)
    own_server.kill()
    own_server.forget()
    ended(workers, REQUESTS // 2)
    own_server.start()
    check(workers, rooms)
    whole(workers, its_tables, 10.0)
    let_go(workers, its_tables)


def test_redis_is_away_for_long(
    on_its_own_server: Crew, own_server: Server, its_tables: dict[str, StatusStore]
) -> None:
    workers = on_its_own_server.pair()
    keep(workers)
    whole(workers, its_tables, 5.0)
    own_server.kill()
    away_since = time.monotonic()
    check(workers, serve(workers, 0, REQUESTS))
    time.sleep(max(0.0, 20.0 - (time.monotonic() - away_since)))  # an outage longer than lease, deadline and patience
    check(workers, serve(workers, REQUESTS, 100))
    for worker in workers:
        assert len(worker.said(level="WARNING")) == 1
        assert worker.said(level="ERROR") == []
    own_server.forget()
    own_server.start()
    check(workers, serve(workers, 2 * REQUESTS, 100))
    whole(workers, its_tables, 10.0)
    let_go(workers, its_tables)


def test_a_pipeline_goes_on_while_redis_is_away(
    on_its_own_server: Crew, own_server: Server, its_tables: dict[str, StatusStore]
) -> None:
    places = ({"role": "prefill", "pp_size": 2, "pp_rank": rank} for rank in (0, 1))
    first, second = workers = on_its_own_server.start(*places, port=free_port())
    before, meanwhile = 1, 2
    for worker in workers:
        worker.open(before)
    soon(lambda: first.collect(before), [KVPoll.Bootstrapping] * 2)
    own_server.kill()
    soon(lambda: len(first.said(level="WARNING")), 1)
    for worker in workers:
        worker.open(meanwhile)
        for room in (before, meanwhile):
            worker.update(room, KVPoll.Transferring)
    for room in (before, meanwhile):
        soon(lambda room=room: first.consensus(room), KVPoll.Transferring)
    own_server.forget()
    own_server.start()

    def found() -> list[KVPoll | None]:
        for room in (before, meanwhile):
            assert first.consensus(room) == KVPoll.Transferring
        return its_tables["prefill"].poll([before, meanwhile])

    soon(found, [KVPoll.Transferring] * 2, SERVING_SECONDS)
    for room in (before, meanwhile):
        for worker in workers:
            worker.update(room, KVPoll.Success)
        soon(lambda room=room: first.consensus(room), KVPoll.Success)
        for worker in workers:
            worker.clear(room)
    soon(lambda: list(its_tables["prefill"].rooms()), [])
    assert first.errors() + second.errors() == []
