"""Short chaos runs on real servers, and the files that their workers write."""

from __future__ import annotations

import contextlib
import math
import time
from dataclasses import replace

import pytest
import redis

from chaos import checker, fenced, followed, following, history, holding, report
from chaos.__main__ import main
from chaos.history import HistoryWriter
from chaos.run import DEADLINE, run
from chaos.scenarios import SCENARIOS
from chaos.standstill import Standstills
from redis_kvpoll import KVPoll
from tests.support import pace, real
from tests.support.histories import BOOT, OK

SEED = 1
EXPECTED_ERRORS = {"memory": "ServerRefusedError"}
"""The errors that callers must get in a run; without them its faults had no effect."""


@pytest.fixture(autouse=True)
def ports(monkeypatch):
    """The servers take ports as those of all tests do."""
    for module in ("servers", "clusters"):
        monkeypatch.setattr(f"chaos.{module}.free_port", real.free_port)


@pytest.fixture
def patient(monkeypatch):
    """Make the leases and the time limits of every run as long as this machine needs."""
    monkeypatch.setattr("chaos.run.DEADLINE", pace.seconds(DEADLINE))
    monkeypatch.setattr("chaos.engine.DEADLINE", pace.seconds(DEADLINE))
    monkeypatch.setattr(checker, "SLACK", pace.seconds(checker.SLACK))
    monkeypatch.setattr(fenced, "RECOVERY_SECONDS", pace.seconds(fenced.RECOVERY_SECONDS))
    for name, scenario in SCENARIOS.items():
        monkeypatch.setitem(SCENARIOS, name, replace(scenario, make=with_long_lease(scenario.make)))


def with_long_lease(make):
    @contextlib.contextmanager
    def made(folder):
        with make(folder) as setup:
            yield replace(setup, lease=pace.seconds(setup.lease))

    return made


@pytest.mark.parametrize("name", SCENARIOS)
def test_short_run_has_no_violations(name, patient):
    scenario = SCENARIOS[name]
    if not scenario.needs():
        pytest.skip(scenario.missing)
    result = run(name, scenario, scenario.seconds, SEED)
    assert not result.violations, report.report([result])
    assert result.operations > 500 / pace.factor()
    assert result.faults.total() >= (1 if name == "wakes" else 2)  # a round of wakes is as long as the whole run
    if name in EXPECTED_ERRORS:
        assert result.errors[EXPECTED_ERRORS[name]]
    if name == "network":
        assert sum(not record.error for record in result.history.plain) > 100 / pace.factor()


def lose_held_rooms(client):
    """Delete rooms that live processes hold, once the table is recovered."""
    time.sleep(pace.seconds(fenced.RECOVERY_SECONDS))
    client.delete(*client.scan_iter(f"*:room:{str(holding.FIRST)[:1]}?????????", count=1000))


def revive_cleared_rooms(client):
    """Bring back the rooms of handles that are cleared within a second."""
    rooms = {key: client.dump(key) for key in client.scan_iter("*:room:??????????", count=1000)}
    time.sleep(pace.seconds(1))
    for key, data in rooms.items():
        with contextlib.suppress(redis.ResponseError):  # a room of that id is open again
            if data:
                client.restore(key, 1_000_000, data)


def lose_rooms_of_an_engine(client):
    """Delete the rooms that all ranks have, and none clears, once the next agent has told them."""
    time.sleep(pace.seconds(fenced.RECOVERY_SECONDS))
    client.delete(*client.scan_iter("*:room:6?????????"))


def forge_failures(client):
    """Tell followers that rooms have failed which live on."""
    for key in client.scan_iter(f"*:room:{str(following.FIRST)[:1]}?????????", count=1000):
        status, generation = client.hmget(key, "status", "generation")
        if status not in (None, b"Failed") and generation:
            tag, room = key.decode().split(":room:")
            client.xadd(f"{tag}:failed", {room: generation, "reason": "forged"})


@pytest.mark.parametrize(
    ("name", "harm", "rule"),
    [
        ("failures", forge_failures, "a failure was reported that its generation did not have"),
        ("aof", revive_cleared_rooms, "a generation came back"),
        ("lag", lose_held_rooms, "a generation went back"),
        ("wakes", lose_held_rooms, "a generation went back"),
        ("agent", lose_rooms_of_an_engine, "the table does not have what a process has told"),
    ],
)
def test_harm_done_behind_the_table_is_found(name, harm, rule):
    """The faults of a scenario explain neither lost nor revived rooms."""

    @contextlib.contextmanager
    def harmed(folder):
        with SCENARIOS[name].make(folder) as setup:
            fault = setup.faults[0]

            def inject(chance, pool):
                injected = fault.inject(chance, pool)
                with redis.Redis(port=setup.primaries()[0].get_connection_kwargs()["port"]) as client:
                    harm(client)
                return injected

            yield replace(setup, faults=[replace(fault, inject=inject)])

    result = run(name, replace(SCENARIOS[name], make=harmed), 0.1, SEED)
    assert rule in {violation.rule for violation in result.violations}


def test_command_prints_faults_and_violations(patient, capsys):
    status = main(["--only", "amnesia", "--seconds", "0.5", "--seed", "1", "--repeat", "2"])
    printed = capsys.readouterr()
    assert status == 0, printed.out
    assert printed.err.splitlines() == ["... seed 1", "... amnesia, 0.5 s", "... amnesia, 0.5 s, seed 2"]
    assert "SIGKILL of the server, restart without its data" in printed.out
    assert ", 0 violations; longest wait of a caller: " in printed.out.splitlines()[-1]


def test_machine_that_stood_still_is_an_outage():
    times = iter([0.0, 0.05, 8.0])
    with Standstills(lambda: next(times, 8.0)) as standstills:
        real.until(lambda: standstills.events, "noticed")
    assert [(event.began, event.ended, event.outage) for event in standstills.events] == [(0.05, 8.0, True)]


class TestHistory:
    def test_file_is_read_as_it_was_written(self, tmp_path):
        writer = HistoryWriter(tmp_path / "calls")
        first = writer.begin("update_many", {1: BOOT, 2: KVPoll.Success})
        second = writer.begin("clear", {2: None})
        writer.end(first, {1: ["CREATED", BOOT], 2: ["SKIPPED", None]})
        writer.mirrored(1, BOOT, 5.0)
        calls = history.read(tmp_path / "calls", 3)
        assert [record[:6] for record in calls] == [
            (3, "update_many", 1, BOOT, ["CREATED", BOOT], ""),
            (3, "update_many", 2, OK, ["SKIPPED", None], ""),
            (3, "mirror", 1, None, BOOT, ""),
            (3, "clear", 2, None, None, ""),
        ]
        assert second != first
        assert 0 < calls[0].began <= calls[0].ended < calls[3].ended == math.inf
        assert calls[2].began == 5.0

    def test_report_of_a_failure_is_read_as_written(self, tmp_path):
        HistoryWriter(tmp_path / "calls").reported(1, 7, "why")
        (record,) = history.read(tmp_path / "calls", 3)
        assert (record.name, record.room, record.generation, record.answer) == (followed.REPORT, 1, "7", "why")

    def test_half_a_line_of_a_killed_worker_is_ignored(self, tmp_path):
        writer = HistoryWriter(tmp_path / "calls")
        number = writer.begin("clear", {1: None})
        writer.end(number, {1: BOOT})
        text = (tmp_path / "calls").read_bytes()
        (tmp_path / "calls").write_bytes(text[:-3])
        assert [record.ended for record in history.read(tmp_path / "calls", 0)] == [math.inf]

    def test_worker_without_a_call_has_no_history(self, tmp_path):
        assert history.read(tmp_path / "calls", 0) == []
