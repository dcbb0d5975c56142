"""When a failure in the table ends a request on decode, and how long its pages are held. Real queues: tests/sglang."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest

from redis_kvpoll.agent.life import Life
from redis_kvpoll.agent.outbox import RoomLife
from redis_kvpoll.integrations.sglang import holds, pages, withholding
from redis_kvpoll.integrations.sglang.failed_by_table import FailedByTable
from redis_kvpoll.integrations.sglang.pages import (
    Action,
    Cause,
    DecodeFailures,
    decide_at_poll,
    decide_deferring,
    defers,
    release_time,
    tell_to_stop,
)
from tests.support.told import ToldRegistry

ROOM = 7
FAIL, BOOT, WAIT, MOVE, OK = range(5)
HOLD, WAITING = 30.0, 300.0
ADDRESS = "10.0.0.1:8998"


@pytest.mark.parametrize(
    ("cause", "deferring", "before_asking", "after_asking"),
    [
        (Cause.FAILURE, Action.FAIL_AND_HOLD, Action.FAIL, Action.NOTHING),
        (Cause.BY_HAND, Action.FAIL, Action.FAIL, Action.ABORT),
    ],
)
def test_rules_are_those_of_the_documented_table(cause, deferring, before_asking, after_asking):
    assert decide_deferring(cause) is deferring
    assert decide_at_poll(cause, has_asked=False) is before_asking
    assert decide_at_poll(cause, has_asked=True) is after_asking


class Receiver:
    """A receiver that has asked for its pages, on a manager that does not defer."""

    bootstrap_room, bootstrap_addr, kvpoll_life = ROOM, ADDRESS, Life(ROOM, 1)
    bootstrap_infos, abort_notified = ({},), False
    aborts = notices = 0

    def __init__(self, registry, failures, is_deferring=False):
        self._registry = registry
        self.init_time = time.time()
        self.kv_mgr = SimpleNamespace(
            kvpoll_failures=failures, enable_deferred_decode_kv_release=is_deferring, waiting_timeout=WAITING
        )
        if is_deferring:
            self.ensure_abort_notified = self._send_abort_notification

    def poll(self):
        return dict.get(self._registry.statuses, ROOM)

    def abort(self):
        self.aborts += 1
        self._registry.reasons[ROOM] = "Aborted by AbortReq."
        self._registry.statuses[ROOM] = FAIL

    def _send_abort_notification(self):
        self.notices += 1


@pytest.fixture
def registry():
    registry = ToldRegistry()
    registry.statuses[ROOM] = WAIT
    return registry


def failing(registry, is_deferring=False, **options):
    """Return the failures of a manager with one receiver, and the receiver."""
    failures = DecodeFailures(registry, **{"can_hold": True} | options)
    receiver = Receiver(registry, failures, is_deferring)
    failures.add(receiver)
    return failures, receiver


class TestDeferring:
    def test_failure_fails_and_is_marked_to_be_held(self, registry):
        failures, receiver = failing(registry, is_deferring=True)
        failures.on_failure(ROOM, 1, "lost", True)
        assert (receiver.poll(), registry.reasons[ROOM]) == (FAIL, "lost")
        assert failures.mark_prolonged(receiver)

    def test_abort_by_hand_is_held_as_by_sglang(self, registry):
        failures, receiver = failing(registry, is_deferring=True)
        failures.on_abort(ROOM, 1, "wrong model")
        assert receiver.poll() == FAIL
        assert not failures.mark_prolonged(receiver)

    def test_what_sglang_has_failed_is_held_as_by_sglang(self, registry):
        failures, receiver = failing(registry, is_deferring=True)
        registry.statuses[ROOM] = FAIL
        failures.on_failure(ROOM, 1, "lost", True)
        assert not failures.mark_prolonged(receiver)

    def test_longer_hold_can_be_switched_off(self, registry):
        failures, receiver = failing(registry, is_deferring=True, can_hold=False, holds_long=False, has_ranks=True)
        failures.on_failure(ROOM, 1, "lost", True)
        assert receiver.poll() == FAIL
        registry.statuses.pop(ROOM)
        assert not failures.mark_prolonged(receiver)

    def test_queue_without_hooks_counts_as_not_deferring(self, registry):
        failures, receiver = failing(registry, is_deferring=True, can_hold=False)
        failures.on_failure(ROOM, 1, "lost", True)
        assert receiver.poll() == WAIT
        failures.on_abort(ROOM, 1, "wrong model")
        assert (receiver.poll(), receiver.aborts) == (FAIL, 0)

    def test_failure_of_another_rank_is_held(self, registry):
        """Its Failed comes by SGLang's minimum over ranks; the room is cleared before its pages are held."""
        failures, receiver = failing(registry, is_deferring=True, has_ranks=True)
        registry.statuses.pop(ROOM)
        assert failures.mark_prolonged(receiver)

    def test_own_failure_of_a_rank_is_held_as_by_sglang(self, registry):
        failures, receiver = failing(registry, is_deferring=True, has_ranks=True)
        registry.statuses[ROOM] = FAIL
        registry.statuses.pop(ROOM)
        assert not failures.mark_prolonged(receiver)

    def test_release_without_acknowledgements_is_not_deferring(self, registry):
        """0.5.19 and 0.5.20: the variable is there, and SGLang holds only what it has aborted itself."""
        _, receiver = failing(registry, is_deferring=True)
        assert defers(receiver)
        del receiver.ensure_abort_notified
        assert not defers(receiver)


class TestAtOnce:
    def test_failure_leaves_a_request_that_has_asked(self, registry):
        failures, receiver = failing(registry)
        failures.on_failure(ROOM, 1, "lost", True)
        assert (receiver.poll(), receiver.poll(), ROOM in registry.reasons) == (WAIT, WAIT, False)

    def test_failure_is_decided_at_the_next_poll(self, registry):
        failures, receiver = failing(registry)
        receiver.init_time = None
        failures.on_failure(ROOM, 1, "lost", True)
        assert registry.statuses[ROOM] == WAIT
        assert (receiver.poll(), registry.reasons[ROOM]) == (FAIL, "lost")

    def test_abort_by_hand_is_the_receivers_with_its_reason(self, registry):
        failures, receiver = failing(registry)
        failures.on_abort(ROOM, 1, "wrong model")
        failures.on_failure(ROOM, 1, "a failure does not replace it", True)
        assert receiver.aborts == 0
        assert (receiver.poll(), receiver.aborts, registry.reasons.get(ROOM)) == (FAIL, 1, "wrong model")

    def test_abort_by_hand_while_a_failure_is_decided_is_kept(self, registry):
        """The scheduler has begun to poll the receiver when the abort comes."""
        failures, receiver = failing(registry)
        failures.on_failure(ROOM, 1, "lost", True)
        poll = receiver.poll
        failures.on_abort(ROOM, 1, "wrong model")
        assert (poll(), receiver.poll(), receiver.aborts) == (FAIL, FAIL, 1)
        assert registry.reasons[ROOM] == "wrong model"


class TestTellingPrefill:
    """A request that another rank has failed is over here, too: its pages are given away."""

    @pytest.fixture(autouse=True)
    def takes_aborts(self, monkeypatch):
        monkeypatch.setattr(pages, "takes_aborts", lambda _: True)

    def told(self, registry, receiver):
        """Return how often prefill was told. The room does not fail here by that."""
        status = registry.statuses[ROOM]
        tell_to_stop(receiver, registry)
        assert (registry.statuses[ROOM], dict(registry.reasons)) == (status, {})
        return receiver.notices

    @pytest.mark.parametrize("has_own_call", [True, False])
    def test_prefill_is_told_and_the_reason_is_the_other_ranks(self, registry, has_own_call):
        """From 0.5.21 on SGLang has a call for it, which tells prefill once; before, its abort fails the room, too."""
        _, receiver = failing(registry, has_own_call)
        receiver.kv_mgr.enable_deferred_decode_kv_release = False
        registry.told.take(ROOM)
        assert self.told(registry, receiver) == 1
        registry.statuses.pop(ROOM)
        assert registry.told.take(ROOM) == RoomLife(1, is_over=True)

    def test_prefill_is_told_once(self, registry):
        _, receiver = failing(registry)
        assert (self.told(registry, receiver), self.told(registry, receiver)) == (1, 1)

    def test_prefill_that_does_not_know_aborts_is_not_told(self, registry, monkeypatch):
        monkeypatch.setattr(pages, "takes_aborts", lambda _: False)
        _, receiver = failing(registry)
        assert self.told(registry, receiver) == 0

    @pytest.mark.parametrize("status", [FAIL, OK])
    def test_own_end_tells_nothing_more(self, registry, status):
        _, receiver = failing(registry)
        registry.statuses[ROOM] = status
        assert self.told(registry, receiver) == 0

    def test_request_without_pages_tells_nothing(self, registry):
        _, receiver = failing(registry)
        receiver.init_time = None
        assert self.told(registry, receiver) == 0

    def test_where_decode_defers_sglang_tells_it(self, registry):
        _, receiver = failing(registry, is_deferring=True)
        assert self.told(registry, receiver) == 0

    def test_where_only_an_aborted_rank_holds_pages_nobody_is_told(self, registry):
        """As in 0.5.19: this rank would hold its pages, and the other one give them away."""
        _, receiver = failing(registry)
        receiver.kv_mgr.enable_deferred_decode_kv_release = True
        assert self.told(registry, receiver) == 0

    def test_next_life_is_left_alone(self, registry):
        _, receiver = failing(registry)
        registry.statuses.pop(ROOM)
        registry.statuses[ROOM] = WAIT
        assert self.told(registry, receiver) == 0


@pytest.mark.parametrize("is_deferring", [True, False])
class TestEither:
    def test_complete_request_stays(self, registry, is_deferring):
        failures, receiver = failing(registry, is_deferring)
        registry.statuses[ROOM] = OK
        failures.on_abort(ROOM, 1, "wrong model")
        failures.on_failure(ROOM, 1, "lost", True)
        assert (receiver.poll(), receiver.aborts) == (OK, 0)

    def test_former_life_ends_nothing(self, registry, is_deferring):
        failures, receiver = failing(registry, is_deferring)
        receiver.init_time = None
        failures.on_failure(ROOM, 1, "lost", True) if not is_deferring else None
        registry.statuses.pop(ROOM)
        registry.statuses[ROOM] = WAIT
        failures.on_failure(ROOM, 1, "lost", True)
        failures.on_abort(ROOM, 2, "its receiver is not known")
        assert (receiver.poll(), receiver.aborts) == (WAIT, 0)


class Queue:
    """Decode's queue, as far as it holds: an entry as from 0.5.22 on, or as before."""

    deferred_kv_release_timeout = HOLD

    def __init__(self, has_start):
        self.has_start = has_start
        self._deferred_releases = []

    def defer(self, decode_req):
        start = time.monotonic()
        times = (start, start + HOLD) if self.has_start else (start + HOLD,)
        self._deferred_releases.append((decode_req, *times, 3, 1))

    def resolve(self):
        return [entry[holds.LIMIT] for entry in self._deferred_releases]


@pytest.fixture(params=[True, False], ids=["5 items", "4 items"])
def queue(request):
    return Queue(request.param)


def hold(registry, queue, **options):
    """Fail a request by the table and hold its pages; return its receiver and its limit."""
    failures, receiver = failing(registry, is_deferring=True, **options)
    failures.on_failure(ROOM, 1, "lost", True)
    holds.around_defer(Queue.defer, queue, SimpleNamespace(kv_receiver=receiver))
    return receiver, queue._deferred_releases[0][holds.LIMIT]


class TestTelling:
    """Prefill's table hears of a failure once SGLang has sent its message to decode."""

    @pytest.fixture
    def sglang(self, registry):
        """A manager that sends its message at the end of each call."""
        sglang = SimpleNamespace(request_status=registry.statuses, published=[])

        def fail(bootstrap_room, status):
            registry.statuses[bootstrap_room] = status
            sglang.published.append(registry.told.take(bootstrap_room))

        sglang.fail = fail
        registry.told.take(ROOM)
        return sglang

    def test_update_that_tells_decode_is_published_after_it(self, registry, sglang):
        withholding.around_update(registry, sglang.fail)(ROOM, FAIL)
        assert (sglang.published, registry.told.take(ROOM).status) == ([None], FAIL)

    def test_conclusion_is_published_after_it(self, registry, sglang):
        withholding.around_conclude(lambda _, **words: sglang.fail(**words), sglang, bootstrap_room=ROOM, status=FAIL)
        assert (sglang.published, registry.told.take(ROOM).status) == ([None], FAIL)


class TestFailureOfTheTable:
    """A rank of prefill tells no failure of the table: another rank may still write."""

    @pytest.fixture
    def sglang(self, registry):
        """A manager that tells decode of a transfer's end, as SGLang's conclude_transfer."""
        manager = SimpleNamespace(request_status=registry.statuses, told=[], during=lambda: None)
        manager.kvpoll_failed_by_table = FailedByTable(registry)
        registry.scoped(registry.statuses.__setitem__)

        def conclude(manager, bootstrap_room, status, targets=None):
            manager.during()
            status = FAIL if registry.statuses[bootstrap_room] == FAIL else status
            registry.update_status(bootstrap_room, status)
            if targets is None:
                manager.told.append(status)

        manager.conclude = lambda: withholding.around_conclude(conclude, manager, bootstrap_room=ROOM, status=OK)
        return manager

    def fail(self, registry, sglang):
        sglang.kvpoll_failed_by_table.fail(ROOM, registry.lives.number(ROOM), "lost", False)

    def test_from_before_is_not_told(self, registry, sglang):
        self.fail(registry, sglang)
        sglang.conclude()
        assert (sglang.told, registry.statuses[ROOM]) == ([], FAIL)

    def test_while_it_concludes_is_not_told(self, registry, sglang):
        sglang.during = lambda: self.fail(registry, sglang)
        sglang.conclude()
        assert (sglang.told, registry.statuses[ROOM]) == ([OK], OK)

    def test_while_it_concludes_in_vain_comes_after(self, registry, sglang):
        def interrupted():
            self.fail(registry, sglang)
            raise OSError("no route")

        sglang.during = interrupted
        with pytest.raises(OSError, match="no route"):
            sglang.conclude()
        assert (sglang.told, registry.statuses[ROOM]) == ([], FAIL)

    def test_of_a_former_life_hides_nothing(self, registry, sglang):
        self.fail(registry, sglang)
        registry.statuses.pop(ROOM)
        registry.statuses[ROOM] = OK
        sglang.conclude()
        assert sglang.told == [OK]


class TestHolds:
    def test_limit_is_when_sglang_would_have_given_up(self, registry, queue):
        receiver, limit = hold(registry, queue)
        wanted = release_time(receiver.init_time, WAITING, HOLD)
        assert limit == pytest.approx(wanted, abs=1.0)
        assert len(queue._deferred_releases[0]) == (5 if queue.has_start else 4)

    def test_limit_is_never_before_sglangs(self, registry, queue):
        failures, receiver = failing(registry, is_deferring=True)
        receiver.init_time = time.time() - 10 * WAITING
        failures.on_failure(ROOM, 1, "lost", True)
        began = time.monotonic()
        holds.around_defer(Queue.defer, queue, SimpleNamespace(kv_receiver=receiver))
        assert queue.resolve()[0] >= began + HOLD

    def test_sglangs_own_failure_has_sglangs_limit(self, registry, queue):
        _, receiver = failing(registry, is_deferring=True)
        registry.statuses[ROOM] = FAIL
        holds.around_defer(Queue.defer, queue, SimpleNamespace(kv_receiver=receiver))
        assert queue.resolve()[0] <= time.monotonic() + HOLD

    def test_node_found_lost_has_sglangs_hold_from_then_on(self, registry, queue):
        receiver, limit = hold(registry, queue)
        holds.around_node_failure(lambda *_: None, receiver.kv_mgr, "10.0.0.2:8998")
        assert holds.around_resolve(Queue.resolve, queue) == [limit]
        lost_at = time.monotonic()
        holds.around_node_failure(lambda *_: None, receiver.kv_mgr, ADDRESS)
        (limit,) = holds.around_resolve(Queue.resolve, queue)
        assert lost_at + HOLD <= limit <= time.monotonic() + HOLD

    def test_node_lost_before_the_request_failed_does_not_count(self, registry, queue):
        failures, receiver = failing(registry, is_deferring=True)
        holds.around_node_failure(lambda *_: None, receiver.kv_mgr, ADDRESS)
        failures.on_failure(ROOM, 1, "lost", True)
        holds.around_defer(Queue.defer, queue, SimpleNamespace(kv_receiver=receiver))
        (limit,) = queue.resolve()
        assert holds.around_resolve(Queue.resolve, queue) == [limit]

    def test_unexpected_entry_stops_failures_and_raises_nothing(self, registry, queue, caplog):
        failures, receiver = failing(registry, is_deferring=True)
        failures.on_failure(ROOM, 1, "lost", True)

        def defer(queue, decode_req):
            queue._deferred_releases.append((decode_req, "another", "form"))

        holds.around_defer(defer, queue, SimpleNamespace(kv_receiver=receiver))
        assert not failures.can_hold
        assert "holds pages in another way" in caplog.text
