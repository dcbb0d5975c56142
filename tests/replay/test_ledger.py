"""What a replay finds: its ledger, its checks of the tables, and the guarantees that it checks."""

from __future__ import annotations

import itertools
import time
import uuid

import pytest

from redis_kvpoll import KVPoll, Outcome
from redis_kvpoll.replay.ledger import Ledger
from redis_kvpoll.replay.messages import Arrived, Ended, Opened, Plan, Write
from redis_kvpoll.replay.plain_dict import DictFigures
from redis_kvpoll.replay.report import Latency
from redis_kvpoll.replay.side_table import open_store
from redis_kvpoll.replay.sweep import Sweep
from tests.support import real
from tests.support import servers as matrix
from tests.support.reports import report


class TestLedger:
    @pytest.fixture
    def ledger(self):
        ledger = Ledger()
        ledger.dispatched(1, room=9)
        return ledger

    def run(self, ledger, request, opened, ended, result="success", open_outcome=Outcome.CREATED):
        for side in ("prefill", "decode"):
            ledger.opened(side, Opened(request, open_outcome, opened))
            is_over = ledger.ended(side, Ended(request, result, ended))
        return is_over

    def test_request_is_unfinished_until_both_sides_have_ended(self, ledger):
        ledger.ended("prefill", Ended(1, "success", 1.0))
        assert ledger.unfinished == [1]
        assert ledger.ended("decode", Ended(1, "success", 1.0))
        assert ledger.unfinished == []

    @pytest.mark.parametrize(
        ("prefill", "decode", "whole"),
        [
            ("success", "aborted", "aborted"),
            ("timed out", "crashed", "crashed"),
            ("failed", "success", "failed"),
            ("failed", "timed out", "timed out"),
        ],
    )
    def test_result_of_a_request_is_its_worse_side(self, ledger, prefill, decode, whole):
        ledger.ended("prefill", Ended(1, prefill, 1.0))
        ledger.ended("decode", Ended(1, decode, 1.0))
        assert dict(ledger.results) == {whole: 1}

    def test_crash_ends_requests_and_orphans_their_rooms(self, ledger):
        ledger.ended("prefill", Ended(1, "timed out", 1.0))
        assert ledger.crashed("decode", [1], 2.0) == [1]
        assert ledger.orphans == {"prefill": set(), "decode": {9}}
        assert dict(ledger.results) == {"crashed": 1}

    def test_late_message_that_creates_a_room_is_a_leak(self, ledger):
        self.run(ledger, 1, 0.0, 1.0)
        ledger.arrived(Arrived(1, "decode", KVPoll.Success, Outcome.CREATED, 2.0, planned=False))
        assert ledger.recreated() == [("decode", 9, KVPoll.Success)]
        assert ledger.cross_contaminated() == {}
        assert ledger.late == {}

    @pytest.mark.parametrize("outcome", [Outcome.SKIPPED, Outcome.UNCHANGED])
    def test_late_message_without_effect_contaminates_nothing(self, ledger, outcome):
        self.run(ledger, 1, 0.0, 1.0)
        ledger.dispatched(2, room=9)
        self.run(ledger, 2, 1.5, 3.0)
        ledger.arrived(Arrived(1, "prefill", KVPoll.Failed, outcome, 2.0, planned=True))
        assert (ledger.recreated(), ledger.cross_contaminated()) == ([], {})
        assert ledger.late == {"Failed": {outcome.name: 1}}

    @pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.ADVANCED])
    def test_late_message_contaminates_the_next_request(self, ledger, outcome):
        self.run(ledger, 1, 0.0, 1.0)
        ledger.dispatched(2, room=9)
        self.run(ledger, 2, 1.5, 3.0)
        ledger.arrived(Arrived(1, "prefill", KVPoll.Failed, outcome, 2.0, planned=True))
        ledger.arrived(Arrived(1, "prefill", KVPoll.Failed, outcome, 4.0, planned=True))
        assert ledger.cross_contaminated() == {2: "changed by a late Failed (prefill)"}

    def test_request_that_opens_a_present_room_is_contaminated(self, ledger):
        self.run(ledger, 1, 0.0, 1.0, open_outcome=Outcome.UNCHANGED)
        assert list(ledger.cross_contaminated()) == [1]


class TestPlainDict:
    """What the same messages would have done to SGLang's dict."""

    def ledger(self, *requests, room=9):
        """Requests in one room, one after the other: each is open from its number to a half later."""
        ledger = Ledger()
        for request in requests:
            ledger.dispatched(request, room)
            for side in ("prefill", "decode"):
                ledger.opened(side, Opened(request, Outcome.CREATED, float(request)))
                ledger.ended(side, Ended(request, "success", request + 0.5))
        return ledger

    def late(self, ledger, status, at, request=1):
        ledger.arrived(Arrived(request, "decode", status, Outcome.STALE, at, planned=True))
        return ledger.plain_dict()

    @pytest.mark.parametrize(
        ("status", "came_back"), [(KVPoll.Failed, 0), (KVPoll.Transferring, 1), (KVPoll.Success, 1)]
    )
    def test_late_message_after_the_clear_brings_a_room_back(self, status, came_back):
        assert self.late(self.ledger(1), status, 1.7) == DictFigures(came_back, frozenset())

    def test_request_that_opens_a_room_that_came_back_is_hit(self):
        assert self.late(self.ledger(1, 2), KVPoll.Success, 1.7) == DictFigures(1, frozenset({2}))

    @pytest.mark.parametrize("status", [KVPoll.Failed, KVPoll.Transferring, KVPoll.Success])
    def test_late_message_to_a_room_used_again_hits_its_request(self, status):
        assert self.late(self.ledger(1, 2), status, 2.2) == DictFigures(0, frozenset({2}))

    def test_late_message_below_the_next_request_changes_nothing(self):
        ledger = self.ledger(1, 2)
        ledger.written([Write(2, "decode", KVPoll.Success, Outcome.ADVANCED, 2.1)])
        assert self.late(ledger, KVPoll.Transferring, 2.2) == DictFigures(0, frozenset())

    def test_table_says_what_came_before_the_clear(self):
        """The clocks of two processes may not: the write of the other side is read after the clear that it led to."""
        ledger = self.ledger(1)
        ledger.written([Write(1, "decode", KVPoll.Success, Outcome.ADVANCED, 9.9)])
        assert ledger.plain_dict() == DictFigures(0, frozenset())
        ledger.written([Write(1, "decode", KVPoll.Success, Outcome.STALE, 0.1)])
        assert ledger.plain_dict() == DictFigures(1, frozenset())

    def test_killed_worker_clears_nothing_and_sends_nothing_late(self):
        ledger = Ledger()
        ledger.dispatched(1, room=9)
        ledger.opened("decode", Opened(1, Outcome.CREATED, 1.0))
        ledger.crashed("decode", [1], 2.0)
        ledger.written([Write(1, "decode", KVPoll.Success, Outcome.STALE, 3.0)])
        assert ledger.plain_dict() == DictFigures(0, frozenset())
        assert ledger.example_room() == 9


class TestSweep:
    """It reads the tables itself, whatever the workers reported."""

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

    def test_room_that_outlives_its_request_is_a_leak(self, plan, sweep):
        ledger = Ledger()
        ledger.dispatched(1, room=9)
        with open_store(plan, "decode") as store:
            store.update_status(9, KVPoll.Bootstrapping)
            for _ in range(2):
                sweep.check_leaks(ledger)
            assert sweep.leaked(ledger) == {}  # its request is running
            for side in ("prefill", "decode"):
                ledger.ended(side, Ended(1, "success", 1.0))
            sweep.check_leaks(ledger)
            assert sweep.leaked(ledger) == {}  # its clear may be under way
            sweep.check_leaks(ledger)
            assert sweep.leaked(ledger) == {"unknown": 1}

    def test_room_present_at_the_end_is_a_leak_at_once(self, plan, sweep):
        with open_store(plan, "prefill") as store:
            store.update_status(9, KVPoll.Bootstrapping)
        sweep.start_final_check(Ledger())
        assert sweep.leaked(Ledger()) == {"unknown": 1}

    def test_orphans_are_counted_until_they_expire(self, plan, sweep):
        ledger = Ledger()
        ledger.dispatched(1, room=9)
        with open_store(plan, "decode") as store:
            store.update_status(9, KVPoll.Bootstrapping)
            ledger.crashed("decode", [1], 1.0)
            sweep.add_orphans("decode", [9])
            sweep.start_final_check(ledger)
            assert (sweep.orphaned, sweep.awaits_expiry(time.monotonic()), sweep.past_ttl) == (1, True, 1)
            store.clear(9)
            assert (sweep.awaits_expiry(time.monotonic()), sweep.past_ttl, sweep.leaked(ledger)) == (False, 0, {})

    def test_live_time_of_a_killed_workers_room_is_measured(self, plan, monkeypatch):
        sweep = Sweep(plan._replace(lease=5.0))
        with open_store(plan, "decode") as store:
            store.update_many({8: KVPoll.Bootstrapping, 9: KVPoll.Bootstrapping})
            with monkeypatch.context() as patch:
                now = time.monotonic()
                patch.setattr(time, "monotonic", lambda: now)
                sweep.add_orphans("decode", [7, 8, 9])
            sweep.check_orphans(now + 3.0)
            assert (round(sweep.oldest), sweep.past_lease, sweep.has_live_orphans()) == (3, 0, True)
            store.abort(8)
            sweep.check_orphans(now + 6.0)
            assert (round(sweep.oldest), sweep.past_lease, sweep.has_live_orphans()) == (6, 0, True)
            # No other worker has swept: it had no CPU to fail them with.
            sweep.check_orphans(now + 50.0)
            assert (sweep.past_lease, sweep.has_live_orphans(), sweep.is_silent(now + 50.0)) == (0, True, False)
            assert sweep.is_silent(now + 70.0)
            with store.lease("survivor", ttl=1.0):
                later = itertools.count(1)
                real.until(lambda: sweep.check_orphans(now + 70.0 + next(later)) or sweep.past_lease, "it has swept")
            assert (sweep.past_lease, sweep.has_live_orphans()) == (1, False)
        sweep.close()

    def test_room_of_a_message_reported_late_is_explained(self, plan, sweep):
        """A slow worker reports what it did only after two checks have found it."""
        ledger = Ledger()
        ledger.dispatched(1, room=9)
        for side in ("prefill", "decode"):
            ledger.ended(side, Ended(1, "success", 1.0))
        with open_store(plan, "decode") as store:
            store.update_status(9, KVPoll.Bootstrapping)
            for _ in range(2):
                sweep.check_leaks(ledger)
        assert sweep.leaked(ledger) == {"unknown": 1}
        ledger.arrived(Arrived(1, "decode", KVPoll.Success, Outcome.CREATED, 2.0, planned=True))
        assert sweep.leaked(ledger) == {"Success": 1}


LATE_MESSAGES = {"Failed": {"STALE": 1}}


class TestGuarantees:
    def test_expired_orphans_and_contamination_violate_nothing(self):
        assert report().violations() == []

    @pytest.mark.parametrize(
        ("changes", "complaint"),
        [
            ({"unfinished": 1}, "1 requests unfinished"),
            ({"orphans_past_ttl": 2}, "2 rooms of killed workers outlived their TTL"),
            ({"orphans_past_lease": 2, "lease": 5.0, "cross_contaminated": 0}, "beyond their lease and 2 s"),
            ({"cross_contaminated": 2, "lease": 5.0}, "2 requests cross-contaminated"),
            ({"leaked": {"Success": 1}, "lease": 5.0, "cross_contaminated": 0, "policy": "compat"}, "late Success"),
            ({"leaked": {"Success": 1}}, "late Success"),
            ({"leaked": {"Failed": 1}, "policy": "compat"}, "late Failed"),
            ({"leaked": {"unknown": 1}, "policy": "compat"}, "nothing explains"),
            ({"errors": ["a decode worker died by itself"]}, "died by itself"),
        ],
    )
    def test_each_violated_guarantee_is_named(self, changes, complaint):
        [violation] = report(**changes).violations()
        assert complaint in violation

    @pytest.mark.parametrize(
        ("changes", "verdicts"),
        [
            ({}, "PASS not-tested not-promised not-promised PASS"),
            ({"late": LATE_MESSAGES, "lease": 5.0, "cross_contaminated": 0}, "PASS PASS not-tested PASS PASS"),
            ({"late": LATE_MESSAGES, "lease": 5.0, "cross_contaminated": 0, "reused": 1}, "PASS PASS PASS PASS PASS"),
            ({"late": LATE_MESSAGES, "lease": 5.0, "reused": 1, "leaked": {"Success": 1}}, "PASS FAIL FAIL PASS PASS"),
            ({"late": LATE_MESSAGES, "policy": "compat", "leaked": {"Success": 1}},
             "PASS not-promised not-promised not-promised PASS"),
            ({"late": LATE_MESSAGES, "policy": "compat", "leaked": {"Failed": 1}},
             "PASS FAIL not-promised not-promised PASS"),
            ({"orphans_past_ttl": 1}, "PASS not-tested not-promised not-promised FAIL"),
            ({"orphans_past_lease": 1, "lease": 5.0, "cross_contaminated": 0, "orphaned": 1},
             "PASS not-tested not-tested FAIL PASS"),
            ({"unfinished": 1, "orphaned": 0}, "FAIL not-tested not-promised not-promised not-tested"),
            ({"errors": ["a worker died"]}, "FAIL not-tested not-promised not-promised PASS"),
        ],
    )  # fmt: skip
    def test_each_promise_has_a_verdict(self, changes, verdicts):
        found = report(**changes)
        assert [promise.verdict.replace(" ", "-") for promise in found.promises()] == verdicts.split()
        assert ("FAIL" in verdicts) is bool(found.violations())

    def test_compat_may_leak_by_late_success_and_transferring(self):
        assert report(policy="compat", leaked={"Success": 1, "Transferring": 1}).violations() == []

    def test_latency_percentiles_are_in_milliseconds(self):
        latency = Latency.of([n / 1000 for n in range(1, 101)])
        assert (latency.calls, latency.p50, latency.p99, latency.max) == (100, 50.0, 99.0, 100.0)
