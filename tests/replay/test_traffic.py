"""The input of a replay: its requests, its faults, and each side's part in the handshake."""

from __future__ import annotations

import json
import os
import statistics
from pathlib import Path

import pytest

from redis_kvpoll import InvalidInputError, KVPoll
from redis_kvpoll.replay import pacing, traffic
from redis_kvpoll.replay.fault_plan import FaultRates, plan_faults
from redis_kvpoll.replay.handshake import Actions, Decode, Prefill, timeout_seconds
from redis_kvpoll.replay.messages import Job

TRACE = Path(os.environ.get("KVPOLL_TRACE", Path(__file__).parents[3] / "shared/traces/conversation_trace.jsonl"))


class TestTraffic:
    def test_generated_traffic_has_the_trace_statistics(self):
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

    def test_seed_repeats_the_traffic(self):
        assert traffic.generate(50, seed=3) == traffic.generate(50, seed=3) != traffic.generate(50, seed=4)

    def test_trace_is_sorted_by_time_and_starts_at_zero(self, tmp_path):
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
    def test_malformed_line_is_named_in_the_error(self, tmp_path, line, complaint):
        path = tmp_path / "trace.jsonl"
        path.write_text('{"timestamp": 1, "input_length": 1, "output_length": 1}\n' + line + "\n")
        with pytest.raises(InvalidInputError, match=f"trace.jsonl, line 2: .*{complaint}"):
            traffic.read_trace(path)

    def test_unreadable_trace_is_named_in_the_error(self, tmp_path):
        (tmp_path / "empty").write_text("\n")
        (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
        for name in ("missing", "empty", "binary"):
            with pytest.raises(InvalidInputError, match=name) as raised:
                traffic.read_trace(tmp_path / name)
            assert "Errno" not in str(raised.value)

    @pytest.mark.skipif(not TRACE.exists(), reason="no trace: KVPOLL_TRACE names the file")
    def test_public_trace_is_read_in_full(self):
        requests = traffic.read_trace(TRACE)
        assert len(requests) == 12_031
        assert requests[-1].at == pytest.approx(3537, abs=1)


class TestFaultPlan:
    def test_faults_have_their_rates_and_repeat_with_the_seed(self):
        rates = FaultRates(abort=0.1, late=0.2, reuse=0.3, crash=0.4)
        plans = [plan_faults(rates, 1, request) for request in range(4000)]
        assert plans == [plan_faults(rates, 1, request) for request in range(4000)]
        for attribute, rate in (("abort_side", 0.1), ("late", 0.2), ("reuse", 0.3), ("crash_side", 0.4)):
            assert sum(bool(getattr(plan, attribute)) for plan in plans) / 4000 == pytest.approx(rate, abs=0.03)
        assert {plan.late.status for plan in plans if plan.late} == {KVPoll.Failed, KVPoll.Success, KVPoll.Transferring}

    def test_zero_rates_give_no_faults(self):
        for request in range(100):
            plan = plan_faults(FaultRates(), 1, request)
            assert not any((plan.abort_side, plan.late, plan.reuse, plan.crash_side))


def job(**changes):
    return Job(request=1, room=9, input_length=20_000, prefix_length=0, abort_after=None, late=None)._replace(**changes)


def advance(handshake, status, now):
    actions = Actions()
    handshake.advance(status, now, actions)
    return actions


class TestHandshake:
    def test_prefill_goes_from_announcement_to_success(self):
        side = Prefill(job(), speed=10, now=0.0)
        assert advance(side, KVPoll.Bootstrapping, 0.0) == Actions()
        actions = Actions()
        side.announced(actions)
        assert actions.own == {9: KVPoll.WaitingForInput}
        assert advance(side, KVPoll.WaitingForInput, 0.1) == Actions()
        assert side.waits_for_start
        side.start(prefix_length=0, now=0.1)  # 1.05 s of the trace's time
        assert advance(side, KVPoll.WaitingForInput, 0.2) == Actions()
        assert advance(side, KVPoll.WaitingForInput, 0.21).own == {9: KVPoll.Transferring}
        actions = advance(side, KVPoll.Transferring, 0.3)
        assert actions.own == actions.peer == {9: KVPoll.Success}
        assert advance(side, KVPoll.Success, 0.3).ended == [9]

    def test_prefix_that_decode_has_is_not_computed(self):
        side = Prefill(job(), speed=10, now=0.0)
        advance(side, KVPoll.WaitingForInput, 0.0)
        side.start(prefix_length=20_000, now=0.0)
        assert advance(side, KVPoll.WaitingForInput, 0.006).own == {9: KVPoll.Transferring}

    def test_decode_announces_itself_once_and_waits(self):
        side = Decode(job(), speed=10, now=0.0)
        actions = advance(side, KVPoll.Bootstrapping, 0.0)
        assert (actions.own, actions.announced) == ({9: KVPoll.WaitingForInput}, [1])
        assert advance(side, KVPoll.WaitingForInput, 0.1) == Actions()
        assert advance(side, KVPoll.Success, 0.2).ended == [9]

    @pytest.mark.parametrize("kind", [Prefill, Decode])
    def test_abort_fails_both_sides_and_timeout_only_its_own(self, kind):
        side = kind(job(abort_after=1.0), speed=10, now=0.0)
        assert advance(side, KVPoll.WaitingForInput, 1.0).aborts == [(9, side.abort_reason, True)]
        assert advance(side, KVPoll.WaitingForInput, 1.1).aborts == []
        now, aborts = 1.1, []
        while not aborts:
            now += pacing.TURN_SECONDS
            aborts = advance(side, KVPoll.WaitingForInput, now).aborts
        assert aborts == [(9, side.timeout_reason, False)]
        assert now >= timeout_seconds(10)
        assert side.result(side.abort_reason) == "aborted"
        assert side.result(side.timeout_reason) == "timed out"
        assert side.result("Aborted by AbortReq. (request 2)") == "failed"

    def test_turn_that_the_host_made_long_times_nothing_out(self):
        """A worker without CPU for an hour has not waited for its peer for an hour."""
        side = Decode(job(), speed=10, now=0.0)
        assert advance(side, KVPoll.WaitingForInput, 3600.0).aborts == []
        assert advance(side, KVPoll.WaitingForInput, 7200.0).aborts == []

    @pytest.mark.parametrize("status", [None, KVPoll.Failed, KVPoll.Success])
    def test_terminal_or_absent_status_ends_the_handshake(self, status):
        assert advance(Prefill(job(), 1, 0.0), status, 99.0).ended == [9]
