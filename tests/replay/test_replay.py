"""Whole replays by real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from redis_kvpoll.replay import runner, traffic
from redis_kvpoll.replay.fault_plan import MAX_LATE_SECONDS, FaultRates
from redis_kvpoll.replay.messages import Plan
from redis_kvpoll.replay.router import Run
from tests.support import pace, real
from tests.support import servers as matrix


class TestWholeRuns:
    FAULTS = FaultRates(abort=0.1, late=0.5, reuse=0.2, crash=0.02)

    @pytest.mark.parametrize(
        ("kind", "policy"), [("valkey", "strict"), ("valkey", "compat"), ("redis", "strict"), ("redis62", "strict")]
    )
    def test_every_request_has_a_result(self, kind, policy, real_servers, watched):
        server = real_servers.get(kind)
        if server is None:
            pytest.skip(matrix.why_absent(kind))
        watched.append(server.client())
        speed, ttl = 40.0 / pace.factor(), pace.seconds(3)
        plan = Plan(server.url, f"replay-{uuid.uuid4().hex[:8]}", policy, speed, ttl)
        found = runner.replay(Run(plan, traffic.generate(150, 5), self.FAULTS, 2, 2, seed=5), lambda snapshot: None)
        assert found.violations() == []
        assert sum(found.results.values()) == found.requests == 150
        assert found.results["success"] > 50  # how many the faults hit, depends on their moments
        assert found.crashes > 0
        assert found.late_failed_skipped > 0
        assert found.reused > 0
        assert found.rooms_updated > 4 * 150
        assert min(found.polls.calls, found.mirror_polls.calls) > 0
        assert found.mirror_behind < found.rooms_mirrored / 5  # mostly mirror and call agree, a moment apart
        assert bool(found.leaked) is (policy == "compat")

    @pytest.mark.parametrize("kills", [0, 2])
    def test_fenced_replay_has_no_contamination(self, kills):
        """Late messages into reused rooms, killed workers, and a server that loses all its data change no other
        request."""
        with runner.server(None) as (url, private):
            lease, ttl, speed = min(5.0, pace.seconds(1)), pace.seconds(3), 40.0 / pace.factor()
            plan = Plan(url, f"replay-{uuid.uuid4().hex[:8]}", "compat", speed, ttl, lease)
            killer = runner.ServerKiller(private, kills, 150)
            run = Run(plan, traffic.generate(150, 5), self.FAULTS, 2, 2, seed=5)
            found = runner.replay(run, killer.update)
        assert found.violations() == []
        assert (sum(found.results.values()), found.cross_contaminated, found.leaked, killer.kills) == (
            150,
            0,
            {},
            kills,
        )
        assert found.results["success"] > 75
        assert found.crashes > 0
        assert kills or found.oldest_orphan > 0  # a room that its killed worker left may go with the server's data
        assert sum(answers.get("STALE", 0) for answers in found.late.values()) > 20

    def test_burst_of_requests_does_not_deadlock_the_router(self, real_servers, watched):
        """A router and a worker that each wait for the other to read would wait for ever."""
        server = real_servers.get("valkey")
        if server is None:
            pytest.skip(matrix.why_absent("valkey"))
        watched.append(server.client())
        requests = [traffic.Request(number, 0.0, 100, 1) for number in range(2_000)]
        plan = Plan(server.url, f"replay-{uuid.uuid4().hex[:8]}", "strict", speed=20.0, ttl=pace.seconds(10))
        found = runner.replay(Run(plan, requests, FaultRates(), 1, 1, seed=5), lambda snapshot: None)
        assert (found.violations(), sum(found.results.values())) == ([], 2_000)

    def test_late_messages_arrive_while_a_room_is_reused(self):
        assert MAX_LATE_SECONDS < 1

    @pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="processes are found through /proc")
    @pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
    def test_killed_replay_leaves_no_process_and_no_folder(self, how, tmp_path):
        mark = f"KVPOLL_TEST_MARK={uuid.uuid4()}"
        environment = os.environ | {"TMPDIR": str(tmp_path)} | dict([mark.split("=", 1)])
        command = [sys.executable, "-m", "redis_kvpoll.cli", "replay", "--limit", "5000", "--json"]
        with subprocess.Popen(
            command,
            env=environment,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            preexec_fn=real.hear_signals,
        ) as process:
            # Itself, guard and server, router, two forkservers, workers.
            real.until(lambda: len(marked(mark)) >= 7, "all processes run")
            process.send_signal(how)
            process.stderr.read()
        assert process.returncode != 0
        real.until(lambda: not marked(mark), "all processes have ended")
        real.until(lambda: not list(tmp_path.glob("kvpoll-*")), "their folders are removed")


def marked(mark):
    """The processes with ``mark`` in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:
            continue
    return found
