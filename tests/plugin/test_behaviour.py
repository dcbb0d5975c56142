"""The checks at the start, on stand-ins. On the source of each release: tests/sglang/releases."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from redis_kvpoll.integrations.sglang import behaviour
from redis_kvpoll.integrations.sglang.compat import IncompatibleSGLangError
from redis_kvpoll.integrations.sglang.maps import StatusMap
from tests.support.standin import EarlyManager, Manager, joined, manager

FAIL, BOOT, WAIT, MOVE, OK = range(5)
ROOM = 4711


class Copies(Manager):
    """Each change makes a new dict."""

    def update_status(self, room, status):
        self.request_status = dict(self.request_status)
        super().update_status(room, status)


class LowersStatus(Manager):
    """A status may go back: the table's rule is another."""

    def update_status(self, room, status):
        self.request_status[room] = status


class Raises(Manager):
    def update_status(self, room, status):
        raise AttributeError("no such attribute")


@pytest.mark.parametrize("kind", [Manager, EarlyManager])
def test_update_status_of_supported_releases_passes(kind):
    sglang = manager(kind=kind)
    behaviour.check_update_status(sglang)
    assert sglang.request_status == {}


@pytest.mark.parametrize(
    ("kind", "why"), [(Copies, "replaces request_status"), (LowersStatus, "with the map"), (Raises, "AttributeError")]
)
def test_other_update_status_is_incompatible(kind, why):
    sglang = manager(kind=kind)
    before = sglang.request_status
    with pytest.raises(IncompatibleSGLangError, match=why):
        behaviour.check_update_status(sglang)
    assert sglang.request_status is before


def test_incompatible_update_status_keeps_dicts_and_logs_it(url, monkeypatch, caplog):
    monkeypatch.setenv("KVPOLL_URL", url)
    sglang = manager(kind=LowersStatus)
    with joined(sglang):
        assert type(sglang.request_status) is dict
    (line,) = caplog.records
    assert "update_status after" in line.getMessage()


class Pops:
    def clear(self):
        self.kv_mgr.request_status.pop(self.bootstrap_room, None)


class Delegates:
    def clear(self):
        with self.lock:
            self._clear()

    def _clear(self):
        del self.kv_mgr.request_status[self.bootstrap_room]


class Marks:
    def clear(self):
        self.kv_mgr.update_status(self.bootstrap_room, 5)


@pytest.mark.parametrize("kind", [Pops, Delegates])
def test_clear_that_removes_the_room_passes(kind):
    behaviour.check_clear(SimpleNamespace(CommonKVSender=kind, CommonKVReceiver=Pops))


@pytest.mark.parametrize(
    ("module", "why"),
    [
        (SimpleNamespace(CommonKVSender=Pops, CommonKVReceiver=Marks), "does not remove"),
        (SimpleNamespace(CommonKVSender=Pops), "CommonKVReceiver has no clear"),
        (SimpleNamespace(CommonKVSender=SimpleNamespace(clear=len), CommonKVReceiver=Pops), "cannot be read"),
    ],
    ids=["marks", "absent", "without source"],
)
def test_clear_that_does_not_is_incompatible(module, why):
    with pytest.raises(IncompatibleSGLangError, match=why):
        behaviour.check_clear(module)


class TestFirstStatus:
    @pytest.fixture
    def sglang(self, url, monkeypatch):
        monkeypatch.setenv("KVPOLL_URL", url)
        with joined(manager()) as (sglang,):
            yield sglang

    def test_right_status_leaves_check_status_alone(self, sglang):
        assert "check_status" in vars(sglang)
        sglang.update_status(ROOM, BOOT)
        assert sglang.check_status(ROOM) == BOOT
        assert "check_status" not in vars(sglang)
        assert type(sglang.request_status) is StatusMap

    @pytest.mark.parametrize("role", ["prefill", "decode"])
    def test_status_from_elsewhere_gives_the_dicts_back(self, url, monkeypatch, caplog, role):
        class Elsewhere(Manager):
            def check_status(self, room):
                return OK

        monkeypatch.setenv("KVPOLL_URL", url)
        with joined(manager(role, kind=Elsewhere)) as (sglang,):
            sglang.update_status(ROOM, BOOT)
            sglang.failure_records[ROOM] = "no route"
            for _ in range(behaviour.MAX_MISMATCHES):
                assert sglang.check_status(ROOM) == OK
            assert sglang.request_status == {ROOM: BOOT}
            assert sglang.failure_records == {ROOM: "no route"}
            assert type(sglang.request_status) is dict
            assert not {"check_status", "update_status", "kvpoll_failures"} & vars(sglang).keys()
            sglang.update_status(ROOM, WAIT)
            assert sglang.request_status == {ROOM: WAIT}
        (line,) = caplog.records
        assert "check_status gives 4" in line.getMessage()
