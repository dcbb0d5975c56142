"""The maps under one release's own update_status, check_status, record_failure and clear, of each backend."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from chaos.servers import Server
from redis_kvpoll import KVPoll, StatusStore
from redis_kvpoll.integrations.sglang.maps import StatusMap
from tests.sglang.conftest import Tables
from tests.sglang.deployment import until
from tests.sglang.releases.managers import CLASSES, clear, manager
from tests.support.standin import joined

FAIL, BOOT, WAIT, MOVE, OK = range(5)
ROOM = 4711


@pytest.fixture
def tables(shared_server: Server, namespace: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, StatusStore]]:
    for name, value in {"URL": shared_server.url, "NAMESPACE": namespace}.items():
        monkeypatch.setenv(f"KVPOLL_{name}", value)
    with Tables(shared_server, namespace) as tables:
        yield tables


@pytest.fixture(params=["prefill", "decode"])
def role(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=CLASSES)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def sglang(tables: dict[str, StatusStore], backend: str, role: str) -> Iterator[Any]:
    with joined(manager(backend, role)) as (sglang,):
        assert type(sglang.request_status) is StatusMap
        yield sglang


def test_room_goes_through_its_statuses(sglang: Any, tables: dict[str, StatusStore], role: str) -> None:
    for status in (BOOT, WAIT, BOOT, MOVE, OK):
        sglang.update_status(ROOM, status)
    assert sglang.check_status(ROOM) == OK
    until(lambda: tables[role].get(ROOM), KVPoll.Success)


def test_reused_room_starts_from_its_opening(sglang: Any, tables: dict[str, StatusStore], role: str) -> None:
    """Polls of the last use stand between the uses, in the same thread."""
    for opening in (BOOT, WAIT, BOOT):
        sglang.update_status(ROOM, opening)
        assert sglang.check_status(ROOM) == opening
        sglang.update_status(ROOM, OK)
        assert sglang.check_status(ROOM) == OK
        clear(sglang, ROOM)
        assert sglang.request_status.get(ROOM) is None
    until(lambda: tables[role].get(ROOM), None)
    sglang.update_status(ROOM, BOOT)
    until(lambda: tables[role].get(ROOM), KVPoll.Bootstrapping)


def test_failure_keeps_its_reason_and_is_final(sglang: Any, tables: dict[str, StatusStore], role: str) -> None:
    sglang.update_status(ROOM, BOOT)
    sglang.record_failure(ROOM, "no route")
    for status in (FAIL, OK, FAIL):
        sglang.update_status(ROOM, status)
        assert sglang.check_status(ROOM) == FAIL
    until(lambda: tables[role].failure_reason(ROOM), "no route")


@pytest.mark.parametrize("status", [FAIL, MOVE, OK])
def test_late_status_leaves_a_cleared_room_absent(sglang: Any, status: int) -> None:
    sglang.update_status(ROOM, BOOT)
    clear(sglang, ROOM)
    sglang.update_status(ROOM, status)
    assert ROOM not in sglang.request_status


@pytest.mark.parametrize("status", [FAIL, OK])
def test_status_begun_before_reuse_leaves_the_next_use(sglang: Any, status: int) -> None:
    """The thread stops between the beginning of update_status and its first read."""
    sglang.update_status(ROOM, BOOT)
    began, go = threading.Event(), threading.Event()
    update_status = type(sglang).update_status.__get__(sglang)

    def slow(room: int, status: int) -> None:
        began.set()
        go.wait()
        update_status(room, status)

    late = threading.Thread(target=sglang.request_status.registry.scoped(slow), args=(ROOM, status), daemon=True)
    late.start()
    began.wait()
    clear(sglang, ROOM)
    sglang.update_status(ROOM, BOOT)
    go.set()
    late.join()
    assert sglang.check_status(ROOM) == BOOT
