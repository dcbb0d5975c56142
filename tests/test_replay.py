"""kvpoll replay: its traffic, its book-keeping, and whole runs by real processes."""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from redis_kvpoll import InvalidInputError, KVPoll, Outcome
from redis_kvpoll.replay import runner, traffic
from redis_kvpoll.replay.handshake import Decode, Prefill, Turn, timeout_seconds
from redis_kvpoll.replay.hazards import MAX_LATE_SECONDS, Rates, fate
from redis_kvpoll.replay.ledger import Ledger
from redis_kvpoll.replay.messages import Arrived, Ended, Job, Opened, Plan
from redis_kvpoll.replay.report import Latency, Report
from redis_kvpoll.replay.router import Run
from redis_kvpoll.replay.sweep import Sweep
from redis_kvpoll.replay.tables import open_store
from tests import servers as matrix

TRACE = Path(os.environ.get("KVPOLL_TRACE", Path(__file__).parents[2] / "shared/traces/conversation_trace.jsonl"))


class TestTraffic:
    def test_generated_traffic_has_the_statistics_of_the_trace(self):
        requests = traffic.generate(20_000, seed=1)
        span = requests[-1].at - requests[0].at
        assert len(requests) / span == pytest.approx(3.4, rel=0.05)
        assert {request.at % 3 for request in requests} == {0}
        inputs = [request.input_length for request in requests]
        assert statistics.median(inputs) == pytest.approx(2.71828**8.74, rel=0.05)
        assert max(inputs) <= 126_195
        outputs = [request.output_length for request in requests]
        assert statistics.mean(outputs) == pytest.approx(343, rel=0.03)
        assert max(outputs) <= 2_000

    def test_a_seed_repeats_it(self):
        assert traffic.generate(50, seed=3) == traffic.generate(50, seed=3) != traffic.generate(50, seed=4)

    def test_a_trace_is_read_in_order_of_time_and_from_zero(self, tmp_path):
        rows = [{"timestamp": t, "input_length": t, "output_length": 1} for t in (7000, 5000, 9000)]
        path = tmp_path / "trace.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
        requests = traffic.read_trace(path)
        assert [(r.id, r.at, r.input_length) for r in requests] == [(0, 0.0, 5000), (1, 2.0, 7000), (2, 4.0, 9000)]
        assert len(traffic.read_trace(path, limit=2)) == 2

    @pytest.mark.parametrize(
        ("line", "complaint"),
        [
            ("{", "not JSON"),
            ("[1]", "a JSON object is expected, not list"),
            ('{"timestamp": 1, "input_length": 1}', "the field output_length is missing"),
            ('{"timestamp": 1, "input_length": "9", "output_length": 1}', "input_length must be an int"),
            ('{"timestamp": -1, "input_length": 9, "output_length": 1}', "timestamp must be an int"),
            ('{"timestamp": true, "input_length": 9, "output_length": 1}', "timestamp must be an int"),
            ('{"timestamp": 1.5, "input_length": 9, "output_length": 1}', "timestamp must be an int"),
        ],
    )
    def test_a_malformed_line_is_named(self, tmp_path, line, complaint):
        path = tmp_path / "trace.jsonl"
        path.write_text('{"timestamp": 1, "input_length": 1, "output_length": 1}\n' + line + "\n")
        with pytest.raises(InvalidInputError, match=f"trace.jsonl, line 2: .*{complaint}"):
            traffic.read_trace(path)

    def test_an_unreadable_trace_is_an_error(self, tmp_path):
        (tmp_path / "empty").write_text("\n")
        (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
        for name in ("missing", "empty", "binary"):
            with pytest.raises(InvalidInputError, match=name):
                traffic.read_trace(tmp_path / name)

    @pytest.mark.skipif(not TRACE.exists(), reason="no trace: KVPOLL_TRACE names the file")
    def test_the_public_trace(self):
        requests = traffic.read_trace(TRACE)
        assert len(requests) == 12_031
        assert requests[-1].at == pytest.approx(3537, abs=1)


class TestHazards:
    def test_come_at_their_rates_and_repeat_with_the_seed(self):
        rates = Rates(abort=0.1, late=0.2, reuse=0.3, crash=0.4)
        fates = [fate(rates, 1, request) for request in range(4000)]
        assert fates == [fate(rates, 1, request) for request in range(4000)]
        for attribute, rate in (("abort_side", 0.1), ("late", 0.2), ("reuse", 0.3), ("crash_side", 0.4)):
            assert sum(bool(getattr(f, attribute)) for f in fates) / 4000 == pytest.approx(rate, abs=0.03)
        assert {f.late.status for f in fates if f.late} == {KVPoll.Failed, KVPoll.Success, KVPoll.Transferring}

    def test_no_rates_no_hazards(self):
        for request in range(100):
            what = fate(Rates(), 1, request)
            assert not any((what.abort_side, what.late, what.reuse, what.crash_side))


def job(**changes):
    return Job(request=1, room=9, input_length=20_000, prefix_length=0, abort_after=None, late=None)._replace(**changes)


def look(handshake, status, now):
    turn = Turn()
    handshake.look(status, now, turn)
    return turn


class TestHandshake:
    def test_prefill_from_its_announcement_to_success(self):
        side = Prefill(job(), speed=10, now=0.0)
        assert look(side, KVPoll.Bootstrapping, 0.0) == Turn()
        turn = Turn()
        side.announced(turn)
        assert turn.own == {9: KVPoll.WaitingForInput}
        assert look(side, KVPoll.WaitingForInput, 0.1) == Turn()
        assert side.waits_for_start
        side.start(prefix_length=0, now=0.1)  # 1.05 s of the trace's time
        assert look(side, KVPoll.WaitingForInput, 0.2) == Turn()
        assert look(side, KVPoll.WaitingForInput, 0.21).own == {9: KVPoll.Transferring}
        turn = look(side, KVPoll.Transferring, 0.3)
        assert turn.own == turn.peer == {9: KVPoll.Success}
        assert look(side, KVPoll.Success, 0.3).done == [9]

    def test_what_decode_holds_already_is_not_computed(self):
        side = Prefill(job(), speed=10, now=0.0)
        look(side, KVPoll.WaitingForInput, 0.0)
        side.start(prefix_length=20_000, now=0.0)
        assert look(side, KVPoll.WaitingForInput, 0.006).own == {9: KVPoll.Transferring}

    def test_decode_announces_itself_once_and_waits(self):
        side = Decode(job(), speed=10, now=0.0)
        turn = look(side, KVPoll.Bootstrapping, 0.0)
        assert (turn.own, turn.announced) == ({9: KVPoll.WaitingForInput}, [1])
        assert look(side, KVPoll.WaitingForInput, 0.1) == Turn()
        assert look(side, KVPoll.Success, 0.2).done == [9]

    @pytest.mark.parametrize("kind", [Prefill, Decode])
    def test_an_abort_goes_to_both_tables_once_and_a_timeout_to_its_own(self, kind):
        side = kind(job(abort_after=1.0), speed=10, now=0.0)
        assert look(side, KVPoll.WaitingForInput, 1.0).aborts == [(9, side.abort_reason, True)]
        assert look(side, KVPoll.WaitingForInput, 1.1).aborts == []
        end = timeout_seconds(10)
        assert look(side, KVPoll.WaitingForInput, end).aborts == [(9, side.timeout_reason, False)]
        assert side.result(side.abort_reason) == "aborted"
        assert side.result(side.timeout_reason) == "timed out"
        assert side.result("Aborted by AbortReq. (request 2)") == "failed"

    @pytest.mark.parametrize("status", [None, KVPoll.Failed, KVPoll.Success])
    def test_an_end_is_an_end_at_any_stage(self, status):
        assert look(Prefill(job(), 1, 0.0), status, 99.0).done == [9]


class TestLedger:
    @pytest.fixture
    def ledger(self):
        ledger = Ledger()
        ledger.dispatched(1, room=9)
        return ledger

    def run(self, ledger, request, opened, ended, result="success", born=Outcome.CREATED):
        for side in ("prefill", "decode"):
            ledger.opened(side, Opened(request, born, opened))
            over = ledger.ended(side, Ended(request, result, ended))
        return over

    def test_a_request_is_lost_until_both_sides_have_ended(self, ledger):
        ledger.ended("prefill", Ended(1, "success", 1.0))
        assert ledger.lost == [1]
        assert ledger.ended("decode", Ended(1, "success", 1.0))
        assert ledger.lost == []

    @pytest.mark.parametrize(
        ("prefill", "decode", "whole"),
        [
            ("success", "aborted", "aborted"),
            ("timed out", "crashed", "crashed"),
            ("failed", "success", "failed"),
            ("failed", "timed out", "timed out"),
        ],
    )
    def test_the_worse_side_counts(self, ledger, prefill, decode, whole):
        ledger.ended("prefill", Ended(1, prefill, 1.0))
        ledger.ended("decode", Ended(1, decode, 1.0))
        assert dict(ledger.results) == {whole: 1}

    def test_a_crash_ends_the_requests_of_the_worker_and_orphans_their_rooms(self, ledger):
        ledger.ended("prefill", Ended(1, "timed out", 1.0))
        assert ledger.crashed("decode", [1], 2.0) == [1]
        assert ledger.orphans == {"prefill": set(), "decode": {9}}
        assert dict(ledger.results) == {"crashed": 1}

    def test_a_late_message_that_creates_is_a_leak_whoever_sent_it(self, ledger):
        self.run(ledger, 1, 0.0, 1.0)
        ledger.arrived(Arrived(1, "decode", KVPoll.Success, Outcome.CREATED, 2.0, planned=False))
        assert ledger.revived() == [("decode", 9, KVPoll.Success)]
        assert ledger.polluted() == {}
        assert ledger.late == {}

    @pytest.mark.parametrize("outcome", [Outcome.SKIPPED, Outcome.UNCHANGED])
    def test_a_late_message_without_effect_harms_nobody(self, ledger, outcome):
        self.run(ledger, 1, 0.0, 1.0)
        ledger.dispatched(2, room=9)
        self.run(ledger, 2, 1.5, 3.0)
        ledger.arrived(Arrived(1, "prefill", KVPoll.Failed, outcome, 2.0, planned=True))
        assert (ledger.revived(), ledger.polluted()) == ([], {})
        assert ledger.late == {"Failed": {outcome.name: 1}}

    @pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.ADVANCED])
    def test_a_late_message_that_hits_the_next_request_pollutes_it(self, ledger, outcome):
        self.run(ledger, 1, 0.0, 1.0)
        ledger.dispatched(2, room=9)
        self.run(ledger, 2, 1.5, 3.0)
        ledger.arrived(Arrived(1, "prefill", KVPoll.Failed, outcome, 2.0, planned=True))
        ledger.arrived(Arrived(1, "prefill", KVPoll.Failed, outcome, 4.0, planned=True))
        assert ledger.polluted() == {2: "flipped by a late Failed (prefill)"}

    def test_a_request_born_into_an_entry_is_polluted(self, ledger):
        self.run(ledger, 1, 0.0, 1.0, born=Outcome.UNCHANGED)
        assert list(ledger.polluted()) == [1]


class TestSweep:
    """It looks at the tables for itself, whatever the scripts have answered."""

    @pytest.fixture
    def plan(self, real_servers, watched):
        server = real_servers.get("valkey")
        if server is None:
            pytest.skip(matrix.why_absent("valkey"))
        watched.append(server.client())
        return Plan(server.url, f"replay-{uuid.uuid4().hex[:8]}", "strict", speed=1.0, ttl=60.0)

    @pytest.fixture
    def sweep(self, plan):
        sweep = Sweep(plan)
        yield sweep
        sweep.close()

    def test_a_room_that_outlives_its_request_is_a_leak(self, plan, sweep):
        ledger = Ledger()
        ledger.dispatched(1, room=9)
        with open_store(plan, "decode") as store:
            store.update_status(9, KVPoll.Bootstrapping)
            for _ in range(2):
                sweep.patrol(ledger)
            assert sweep.leaked(ledger) == {}  # it is in flight
            for side in ("prefill", "decode"):
                ledger.ended(side, Ended(1, "success", 1.0))
            sweep.patrol(ledger)
            assert sweep.leaked(ledger) == {}  # its clear may be under way
            sweep.patrol(ledger)
            assert sweep.leaked(ledger) == {"unknown": 1}

    def test_what_is_there_at_the_end_is_a_leak_at_once(self, plan, sweep):
        with open_store(plan, "prefill") as store:
            store.update_status(9, KVPoll.Bootstrapping)
        sweep.begin(Ledger())
        assert sweep.leaked(Ledger()) == {"unknown": 1}

    def test_orphans_are_counted_and_waited_for(self, plan, sweep):
        ledger = Ledger()
        ledger.dispatched(1, room=9)
        with open_store(plan, "decode") as store:
            store.update_status(9, KVPoll.Bootstrapping)
            ledger.crashed("decode", [1], 1.0)
            sweep.bury("decode", [9])
            sweep.begin(ledger)
            assert (sweep.orphaned, sweep.is_waiting(), sweep.past_ttl) == (1, True, 1)
            store.clear(9)
            assert (sweep.is_waiting(), sweep.past_ttl, sweep.leaked(ledger)) == (False, 0, {})


def report(**changes):
    none = Latency.of([])
    fields = {
        "policy": "strict", "requests": 1, "prefill": 1, "decode": 1, "speed": 1.0, "seed": 1, "seconds": 1.0,
        "input_tokens": 1, "output_tokens": 1, "results": {"success": 1}, "rooms_updated": 0, "rooms_polled": 0,
        "updates": none, "polls": none, "outcomes": {}, "late": {}, "reused": 0, "crashes": 0, "lost": 0, "orphaned": 3,
        "orphans_past_ttl": 0, "leaked": {}, "polluted": 5, "pollution": {},
    }  # fmt: skip
    return Report(**(fields | changes))


class TestPromises:
    def test_orphans_that_expired_and_pollution_break_none(self):
        assert report().violations() == []

    @pytest.mark.parametrize(
        ("changes", "complaint"),
        [
            ({"lost": 1}, "1 requests lost"),
            ({"orphans_past_ttl": 2}, "2 rooms of killed workers outlived their TTL"),
            ({"leaked": {"Success": 1}}, "late Success"),
            ({"leaked": {"Failed": 1}, "policy": "compat"}, "late Failed"),
            ({"leaked": {"unknown": 1}, "policy": "compat"}, "nothing explains"),
            ({"errors": ["a decode worker died by itself"]}, "died by itself"),
        ],
    )
    def test_each_broken_promise_is_named(self, changes, complaint):
        [violation] = report(**changes).violations()
        assert complaint in violation

    def test_compat_may_leak_through_late_success_and_transferring(self):
        assert report(policy="compat", leaked={"Success": 1, "Transferring": 1}).violations() == []

    def test_percentiles(self):
        latency = Latency.of([n / 1000 for n in range(1, 101)])
        assert (latency.calls, latency.p50, latency.p99, latency.max) == (100, 50.0, 99.0, 100.0)


class TestWholeRuns:
    HAZARDS = Rates(abort=0.1, late=0.5, reuse=0.2, crash=0.02)

    @pytest.mark.parametrize(
        ("kind", "policy"), [("valkey", "strict"), ("valkey", "compat"), ("redis", "strict"), ("redis62", "strict")]
    )
    def test_every_request_is_accounted_for(self, kind, policy, real_servers, watched):
        server = real_servers.get(kind)
        if server is None:
            pytest.skip(matrix.why_absent(kind))
        watched.append(server.client())
        plan = Plan(server.url, f"replay-{uuid.uuid4().hex[:8]}", policy, speed=40.0, ttl=3.0)
        found = runner.replay(Run(plan, traffic.generate(150, 5), self.HAZARDS, 2, 2, seed=5), lambda snapshot: None)
        assert found.violations() == []
        assert sum(found.results.values()) == found.requests == 150
        assert found.results["success"] > 100
        assert found.crashes > 0
        assert found.late_failed_skipped > 0
        assert found.reused > 0
        assert found.rooms_updated > 4 * 150
        assert bool(found.leaked) is (policy == "compat")

    def test_a_burst_does_not_tie_router_and_workers_up(self, real_servers, watched):
        """Router and workers, each waiting for the other to read, would wait for ever."""
        server = real_servers.get("valkey")
        if server is None:
            pytest.skip(matrix.why_absent("valkey"))
        watched.append(server.client())
        requests = [traffic.Request(number, 0.0, 100, 1) for number in range(2_000)]
        plan = Plan(server.url, f"replay-{uuid.uuid4().hex[:8]}", "strict", speed=20.0, ttl=10.0)
        found = runner.replay(Run(plan, requests, Rates(), 1, 1, seed=5), lambda snapshot: None)
        assert (found.violations(), sum(found.results.values())) == ([], 2_000)

    def test_late_messages_come_soon_enough_to_hit_a_reused_room(self):
        assert MAX_LATE_SECONDS < 1

    @pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="processes are found through /proc")
    @pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
    def test_a_killed_replay_leaves_nothing_behind(self, how, tmp_path):
        mark = f"KVPOLL_TEST_MARK={uuid.uuid4()}"
        environment = os.environ | {"TMPDIR": str(tmp_path)} | dict([mark.split("=", 1)])
        command = [sys.executable, "-m", "redis_kvpoll.cli", "replay", "--limit", "5000", "--json"]
        with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
            wait_for(lambda: len(marked(mark)) >= 7)  # itself, guard and server, router, two forkservers, workers
            process.send_signal(how)
            process.stderr.read()
        assert process.returncode != 0
        wait_for(lambda: not marked(mark))
        wait_for(lambda: not list(tmp_path.glob("kvpoll-*")))


def marked(mark):
    """The processes that have ``mark`` in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def wait_for(condition, seconds=20.0):
    give_up_at = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up_at, "it did not come to pass"
        time.sleep(0.05)
