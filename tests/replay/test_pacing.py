"""What a slow host may cost a replay: speed, but no verdict."""

from __future__ import annotations

import pickle
from types import SimpleNamespace

import pytest

from redis_kvpoll import ReplayError
from redis_kvpoll.replay import pool, router, traffic
from redis_kvpoll.replay.fault_plan import FaultRates
from redis_kvpoll.replay.messages import Ended, Job, Measured, Plan, Ready, Stop
from redis_kvpoll.replay.pacing import HostTooSlowError, Patience, Window, carried_speed, slower_speed
from redis_kvpoll.replay.pool import Slot
from redis_kvpoll.replay.report import Report
from redis_kvpoll.replay.router import Router, Run
from redis_kvpoll.replay.runner import server

MEASURED = Measured([], [0.001], 0, 1, {})


def job(request):
    return Job(request, request, 1, 0, None, None)


class TestPatience:
    def test_it_ends_after_its_seconds_in_short_turns(self):
        patience = Patience(1.0, now=0.0)
        assert not any(patience.is_over(turn / 100) for turn in range(1, 100))
        assert patience.is_over(1.01)

    def test_long_turns_count_as_short_ones(self):
        patience = Patience(1.0, now=0.0)
        assert not any(patience.is_over(turn * 100.0) for turn in range(1, 50))
        assert patience.is_over(5_001.0)


class TestWindow:
    def test_late_requests_of_one_round_halve_it_once(self):
        window = Window(64)
        for request in range(10):
            window.dispatched(request, duration=0.1, now=0.0)
        for request in range(10):
            window.ended(request, "success", now=1.2)
        assert window.size == 32
        window.dispatched(10, duration=0.1, now=1.2)
        window.ended(10, "timed out", now=1.3)
        assert window.size == 16

    def test_it_grows_only_while_it_is_full(self):
        window = Window(2)
        for request, in_flight in enumerate((0, 1, 2, 2)):
            window.dispatched(request, duration=0.1, now=0.0)
            assert window.admits(in_flight) is (in_flight < 2)
            window.ended(request, "success", now=0.5)
        assert window.size == 3

    @pytest.mark.parametrize("result", ["aborted", "crashed", "failed"])
    def test_request_that_was_cut_short_says_nothing(self, result):
        window = Window(8)
        window.dispatched(1, duration=0.1, now=0.0)
        window.ended(1, result, now=100.0)
        assert window.size == 8

    def test_it_always_admits_one(self):
        window = Window(1)
        for request in range(5):
            window.dispatched(request, duration=0.1, now=0.0)
            window.ended(request, "success", now=100.0)
        assert window.admits(0)


class TestSpeed:
    def test_speed_is_carried_unless_the_replay_took_much_longer(self):
        assert carried_speed(60, span=600, seconds=11.9) == 60
        assert carried_speed(60, span=600, seconds=30) == 20
        assert carried_speed(60, span=0, seconds=0.5) == 60

    @pytest.mark.parametrize(
        ("speed", "carried", "slower"),
        [(60, 60, 20), (60, 22, 20), (60, 19, 10), (1000, 90, 50), (1, 1, 0.5), (20, 0, 10)],
    )
    def test_speed_to_try_is_round_and_at_most_half(self, speed, carried, slower):
        assert slower_speed(speed, carried) == pytest.approx(slower)

    def test_error_names_a_speed_to_try(self):
        error = pickle.loads(pickle.dumps(HostTooSlowError("no CPU", 60, 31.5)))
        assert str(error) == "this machine is too slow for --speed 60; try --speed 20 (no CPU)"


class TestSlot:
    """Whether a worker gets on: one that works and ends nothing is a broken promise, one without CPU is not."""

    @pytest.fixture
    def clock(self, monkeypatch):
        clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now)
        monkeypatch.setattr(pool, "time", clock)
        return clock

    @pytest.fixture
    def slot(self, clock):
        slot = Slot("decode", None, None, timeout=5.0)
        slot.heard(Ready())
        slot.sent(job(1))
        return slot

    def turn(self, slot, clock, turns, seconds):
        for _ in range(turns):
            clock.now += seconds
            slot.heard(MEASURED)

    def test_worker_that_works_and_ends_nothing_is_stuck(self, slot, clock):
        self.turn(slot, clock, 700, 0.02)
        assert not slot.is_stuck
        self.turn(slot, clock, 100, 0.02)
        assert slot.is_stuck

    def test_worker_that_ends_a_request_now_and_then_is_not(self, slot, clock):
        for request in range(2, 6):
            slot.sent(job(request))
            self.turn(slot, clock, 700, 0.02)
            slot.heard(Ended(request, "success", 0.0))
        assert not slot.is_stuck

    def test_worker_with_few_slow_turns_is_not_stuck(self, slot, clock):
        self.turn(slot, clock, 300, 50.0)
        assert not slot.is_stuck

    def test_only_a_worker_with_work_is_silent(self, slot, clock):
        assert not slot.is_silent(59.0)
        assert slot.is_silent(61.0)
        slot.heard(Ended(1, "success", 0.0))
        assert not slot.is_silent(1000.0)
        clock.now = 1000.0
        slot.sent(Stop())
        assert not slot.is_silent(1001.0)
        assert slot.is_silent(1061.0)


class TestRouter:
    """The router in this process, with workers of its own."""

    @pytest.fixture
    def run(self):
        with server(None) as (url, _):
            plan = Plan(url, "replay-slow", "strict", speed=20.0, ttl=10.0, lease=5.0)
            requests = [traffic.Request(number, 0.0, 100, 1) for number in range(60)]
            yield Run(plan, requests, FaultRates(), 1, 1, seed=5)

    def route(self, run):
        routing = Router(run, SimpleNamespace(send=lambda _: None))
        try:
            return routing.run()
        finally:
            routing.kill()

    def test_it_goes_on_while_requests_still_end(self, run, monkeypatch):
        """Its clock runs 100 times faster than its workers', so they are 100 times too slow."""
        real = router.time
        fast = SimpleNamespace(monotonic=lambda: real.monotonic() * 100, sleep=real.sleep)
        monkeypatch.setattr(router, "time", fast)
        monkeypatch.setattr(pool, "time", fast)
        monkeypatch.setattr(pool, "SILENT_SECONDS", float("inf"))
        found = self.route(run)
        assert isinstance(found, Report)
        assert (found.violations(), found.results) == ([], {"success": 60})

    def test_worker_that_cannot_start_ends_the_replay(self, run, monkeypatch):
        """Its replacements could not either."""

        class Killing(pool.Pool):
            def __init__(self, *args):
                super().__init__(*args)
                self.slots["decode"][0].process.kill()

        monkeypatch.setattr(router, "Pool", Killing)
        with pytest.raises(ReplayError, match="a decode worker died by itself"):
            self.route(run)

    def test_host_that_does_nothing_is_too_slow(self, run, monkeypatch):
        monkeypatch.setattr(pool, "SILENT_SECONDS", -1.0)
        with pytest.raises(HostTooSlowError, match="too slow for --speed 20; try --speed 10"):
            self.route(run)
