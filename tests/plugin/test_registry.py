"""What SGLang's threads read and write, and what is then to be said: the registry alone, without SGLang or a server."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from redis_kvpoll.integrations.sglang import outbox
from redis_kvpoll.integrations.sglang import registry as books
from redis_kvpoll.integrations.sglang.dicts import ConsensusMap
from redis_kvpoll.integrations.sglang.outbox import RoomLife
from redis_kvpoll.integrations.sglang.registry import RoomRegistry
from tests.support import pace

FAIL, BOOT, WAIT, MOVE, OK = range(5)
ROOM = 7


@pytest.fixture
def registry():
    return RoomRegistry(lambda: None)


@pytest.fixture
def other():
    """Another thread, whose steps come when a test says so."""
    with ThreadPoolExecutor(1) as pool:
        yield lambda step, *arguments: pool.submit(step, *arguments).result(5)


def update(statuses, room, status):
    """In two steps: SGLang reads, and then writes what follows from that."""
    if (write := decided(statuses.get(room), status)) is not None:
        statuses[room] = write


def decided(current, status):
    if current is None:
        return status if status in (BOOT, WAIT) else None
    if status == FAIL or current == FAIL:
        return FAIL if status == FAIL else None
    return max(current, status)


def said(registry, room=ROOM):
    """What is to be said of a room, in order."""
    return [(use.is_new, use.status, use.is_over) for use in iter(lambda: registry.take(room), None)]


class Others(dict):
    """SGLang's own PPConsensusStore, on rank 0 of two."""

    def __init__(self):
        super().__init__()
        self.peer = {}

    def collect(self, room):
        return [self.get(room), self.peer.get(room)]


class TestStatuses:
    @pytest.mark.parametrize(("status", "creates"), [(FAIL, 0), (BOOT, 1), (WAIT, 1), (MOVE, 0), (OK, 0)])
    def test_only_what_opens_a_room_creates_one(self, registry, status, creates):
        registry.statuses[ROOM] = status
        assert len(registry.statuses) == creates

    def test_they_only_go_up_and_failed_is_the_end(self, registry):
        for status, then in ((BOOT, BOOT), (MOVE, MOVE), (WAIT, MOVE), (OK, OK), (FAIL, FAIL), (OK, FAIL)):
            registry.statuses[ROOM] = status
            assert registry.statuses[ROOM] == then

    def test_what_a_thread_decided_before_a_clear_changes_nothing_after_it(self, registry, other):
        registry.statuses[ROOM] = BOOT
        seen = other(registry.statuses.get, ROOM)
        registry.statuses.pop(ROOM)
        other(registry.statuses.__setitem__, ROOM, max(seen, WAIT))
        assert ROOM not in registry.statuses

    def test_nor_after_the_room_was_opened_anew(self, registry, other):
        registry.statuses[ROOM] = BOOT
        seen = other(registry.statuses.get, ROOM)
        registry.statuses.pop(ROOM)
        registry.statuses[ROOM] = BOOT
        other(registry.statuses.__setitem__, ROOM, max(seen, OK))
        assert registry.statuses[ROOM] == BOOT

    def test_a_failure_between_two_steps_of_another_is_not_lost(self, registry, other):
        registry.statuses[ROOM] = BOOT
        seen = other(registry.statuses.get, ROOM)
        registry.statuses[ROOM] = FAIL
        other(registry.statuses.__setitem__, ROOM, max(seen, MOVE))
        assert registry.statuses[ROOM] == FAIL

    def test_two_that_open_it_at_once_share_it(self, registry, other):
        assert other(registry.statuses.get, ROOM) is None
        update(registry.statuses, ROOM, WAIT)
        other(registry.statuses.__setitem__, ROOM, BOOT)
        assert registry.statuses[ROOM] == WAIT
        assert said(registry) == [(True, WAIT, False)]

    def test_who_has_seen_that_it_is_in_gets_its_last_status(self, registry):
        registry.statuses[ROOM] = BOOT
        assert ROOM in registry.statuses
        registry.statuses.pop(ROOM)
        assert registry.statuses[ROOM] == BOOT
        assert registry.statuses.get(ROOM) is None

    def test_a_room_that_never_was_is_a_key_error(self, registry):
        for ask in (registry.statuses.__getitem__, registry.statuses.pop, registry.statuses.__delitem__):
            with pytest.raises(KeyError):
                ask(ROOM)
        assert registry.statuses.pop(ROOM, None) is None

    def test_methods_that_a_dict_does_in_c_go_the_same_way(self, registry):
        registry.statuses.update({1: BOOT, 2: MOVE})
        assert registry.statuses.setdefault(3, WAIT) == WAIT
        assert dict(registry.statuses) == {1: BOOT, 3: WAIT}
        del registry.statuses[1]
        registry.statuses.clear()
        assert said(registry, 1) == [(True, BOOT, True)]
        assert said(registry, 3) == [(True, WAIT, True)]

    @given(
        st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["look", "write", "clear", "open", "fail"])), max_size=40)
    )
    @settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
    def test_whatever_the_order_no_room_comes_back_and_failed_stays(self, steps):
        registry, looks = RoomRegistry(lambda: None), {}
        uses, failed, there = 0, False, False
        with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as two, ThreadPoolExecutor(1) as three:
            threads = [one, two, three]
            for thread, step in steps:
                run = lambda call, *words, pool=threads[thread]: pool.submit(call, *words).result(60)  # noqa: E731
                if step == "look":
                    looks[thread] = run(registry.statuses.get, ROOM), uses if there else None
                elif step == "write" and thread in looks:
                    seen, use = looks.pop(thread)
                    write = decided(seen, MOVE if seen is not None else BOOT)
                    if write is None:
                        continue
                    run(registry.statuses.__setitem__, ROOM, write)
                    if not there and use is None:
                        uses, there, failed = uses + 1, True, False
                elif step == "clear":
                    run(registry.statuses.pop, ROOM, None)
                    there = False
                elif step == "open":
                    looks.pop(thread, None)
                    run(update, registry.statuses, ROOM, BOOT)
                    if not there:
                        uses, there, failed = uses + 1, True, False
                elif step == "fail":
                    looks.pop(thread, None)
                    run(update, registry.statuses, ROOM, FAIL)
                    failed = failed or there
                assert (ROOM in registry.statuses) is there
                assert not (there and failed) or registry.statuses[ROOM] == FAIL


class TestWhatIsToBeSaid:
    def test_a_life_that_was_never_told_is_told_in_one(self, registry):
        for status in (BOOT, WAIT, MOVE, OK):
            registry.statuses[ROOM] = status
        registry.statuses.pop(ROOM)
        assert said(registry) == [(True, OK, True)]
        assert len(registry) == 0

    def test_each_use_by_itself_and_in_order(self, registry):
        for last in (OK, FAIL):
            registry.statuses[ROOM] = BOOT
            registry.statuses[ROOM] = last
            registry.statuses.pop(ROOM)
        assert said(registry) == [(True, OK, True), (True, FAIL, True)]

    def test_what_could_not_be_said_is_said_with_what_came_meanwhile(self, registry):
        registry.statuses[ROOM] = BOOT
        use = registry.take(ROOM)
        registry.statuses[ROOM] = MOVE
        registry.put_back(ROOM, use)
        assert said(registry) == [(True, MOVE, False)]

    def test_and_before_what_is_of_a_later_use(self, registry):
        registry.statuses[ROOM] = BOOT
        use = registry.take(ROOM)
        registry.statuses.pop(ROOM)
        registry.statuses[ROOM] = WAIT
        registry.put_back(ROOM, use)
        assert said(registry) == [(True, BOOT, True), (True, WAIT, False)]

    def test_nothing_is_said_twice_and_no_change_is_none(self, registry):
        registry.statuses[ROOM] = BOOT
        assert registry.news() == [ROOM]
        registry.take(ROOM)
        registry.statuses[ROOM] = BOOT
        assert registry.news() == []
        assert said(registry) == []

    def test_it_wakes_once_until_the_news_are_taken(self):
        woken = []
        registry = RoomRegistry(lambda: woken.append(1))
        for room in range(3):
            registry.statuses[room] = BOOT
        assert (len(woken), registry.news()) == (1, [0, 1, 2])
        registry.statuses[0] = WAIT
        assert len(woken) == 2

    def test_the_failure_comes_with_its_reason_and_the_opening_with_the_length(self, registry):
        registry.lengths[ROOM] = 17
        registry.statuses[ROOM] = BOOT
        assert registry.take(ROOM) == RoomLife(1, is_new=True, status=BOOT, length=17)
        registry.reasons[ROOM] = "no route"
        registry.statuses[ROOM] = FAIL
        assert registry.take(ROOM) == RoomLife(1, status=FAIL, reason="no route")

    def test_a_reason_that_comes_later_is_said_too(self, registry):
        registry.statuses.update({ROOM: BOOT})
        registry.statuses[ROOM] = FAIL
        registry.take(ROOM)
        registry.reasons[ROOM] = "no route"
        assert registry.take(ROOM) == RoomLife(1, reason="no route")

    def test_it_is_bounded_and_what_lives_is_kept(self, registry, monkeypatch):
        monkeypatch.setattr(outbox, "LIMIT", 10)
        registry.statuses[1000] = BOOT
        for room in range(30):
            registry.statuses[room] = BOOT
            registry.statuses.pop(room)
        assert (len(registry), registry.dropped) == (11, 20)
        assert said(registry, 1000) == [(True, BOOT, False)]
        assert said(registry, 29) == [(True, BOOT, True)]


class TestReasons:
    def test_the_first_stays(self, registry):
        registry.reasons[ROOM] = "first"
        registry.reasons[ROOM] = "second"
        assert registry.reasons.setdefault(ROOM, "third") == "first"
        assert registry.reasons.pop(ROOM, None) == "first"
        assert registry.reasons.pop(ROOM, None) is None

    def test_but_who_knows_better_than_an_abort_may_say_so(self, registry):
        registry.reasons[ROOM] = books.GENERIC
        registry.reasons[ROOM] = "the rebootstrap failed"
        assert registry.reasons[ROOM] == "the rebootstrap failed"

    def test_it_outlives_the_clear_and_not_the_next_opening(self, registry):
        registry.statuses[ROOM] = BOOT
        registry.reasons[ROOM] = "first"
        registry.statuses.pop(ROOM)
        assert registry.reasons.get(ROOM) == "first"
        registry.statuses[ROOM] = BOOT
        assert ROOM not in registry.reasons

    def test_nothing_that_nobody_asks_for_is_kept_for_ever(self):
        now = [0.0]
        registry = RoomRegistry(lambda: None, clock=lambda: now[0])
        registry.reasons[1] = "never known"
        registry.lengths[2] = 17
        registry.statuses[3] = BOOT
        registry.reasons[3] = "cleared"
        registry.statuses.pop(3)
        registry.statuses[4] = BOOT
        registry.reasons[4] = "still there"
        now[0] = books.MEMORY + 1
        registry.statuses[5] = BOOT
        registry.statuses.pop(5)
        assert (dict(registry.reasons), dict(registry.lengths)) == ({4: "still there"}, {})
        with pytest.raises(KeyError):
            registry.statuses[3]

    def test_another_rank_s_is_waited_for(self, registry, other):
        registry.reason_seconds = pace.seconds(5)
        registry.statuses[ROOM] = BOOT
        registry.statuses.pop(ROOM)

        def hear():
            while ROOM not in registry.awaited:
                pass
            registry.note_reason(ROOM, "rank 1 says no")

        with ThreadPoolExecutor(1) as pool:
            heard = pool.submit(hear)
            assert other(registry.reasons.pop, ROOM, None) == "rank 1 says no"
            heard.result(pace.seconds(5))
        assert not registry.awaited

    def test_but_many_that_fail_at_once_stall_nobody_one_after_the_other(self, registry):
        registry.reason_seconds = 0.25
        for room in range(40):
            registry.statuses[room] = BOOT
            registry.statuses.pop(room)
        began = time.monotonic()
        with pace.Stopwatch() as took:
            assert all(registry.reasons.pop(room, None) is None for room in range(40))
        assert time.monotonic() - began >= 0.25
        assert took.seconds < 2.0

    def test_and_after_a_while_it_is_waited_for_again(self):
        now = [0.0]
        registry = RoomRegistry(lambda: None, clock=lambda: now[0])
        registry.reason_seconds = 0.25
        waited = []
        registry._heard.wait_for = lambda _, seconds: (
            waited.append(round(seconds, 3)),
            now.append(now.pop() + seconds),
        )
        for pause in (0.0, 0.0, 1.0, 0.0, 100.0):
            now.append(now.pop() + pause)
            registry.statuses[ROOM] = BOOT
            registry.statuses.pop(ROOM)
            registry.reasons.pop(ROOM, None)
        assert waited == [0.25, 0.025, 0.102, 0.01, 0.25]

    def test_but_not_when_nobody_can_have_one(self, registry):
        registry.reason_seconds = 60.0
        assert registry.reasons.pop(ROOM, None) is None  # it never was
        registry.statuses[ROOM] = BOOT
        registry.reasons[ROOM] = "own"
        registry.statuses.pop(ROOM)
        assert registry.reasons.pop(ROOM, None) == "own"


class TestWhatIsHeard:
    def test_a_failure_elsewhere_is_one_here(self, registry):
        registry.statuses[ROOM] = BOOT
        said(registry)
        registry.fail_from_table(ROOM, registry.number_of(ROOM), "an operator", False)
        assert (registry.statuses[ROOM], registry.reasons[ROOM]) == (FAIL, "an operator")
        assert said(registry) == []

    def test_one_of_another_table_is_said_to_ours(self, registry):
        registry.statuses[ROOM] = BOOT
        said(registry)
        registry.fail_from_table(ROOM, registry.number_of(ROOM), "prefill lost", True)
        assert registry.take(ROOM) == RoomLife(1, status=FAIL, reason="prefill lost")

    def test_nor_does_one_of_another_table_undo_what_got_done_while_its_reason_was_asked_for(self, registry):
        registry.statuses[ROOM] = BOOT
        registry.statuses[ROOM] = OK
        registry.fail_from_table(ROOM, 1, "lost", True)
        assert registry.statuses[ROOM] == OK
        registry.fail_from_table(ROOM, 1, "lost", False)
        assert registry.statuses[ROOM] == FAIL

    def test_one_of_a_use_that_is_over_is_none(self, registry):
        registry.statuses[ROOM] = BOOT
        number = registry.number_of(ROOM)
        registry.statuses.pop(ROOM)
        registry.statuses[ROOM] = BOOT
        registry.fail_from_table(ROOM, number, "late", False)
        assert registry.statuses[ROOM] == BOOT
        assert ROOM not in registry.reasons


class TestConsensus:
    def test_each_stage_in_order_and_the_own_one_as_it_is_here(self, registry):
        theirs = {0: OK, 4: WAIT, 6: MOVE}
        registry.statuses = ConsensusMap(registry, 4, [0, 4, 8], lambda room: theirs if room == ROOM else {}, Others())
        assert registry.statuses.collect(ROOM) == [OK, None, None]
        registry.statuses[ROOM] = BOOT
        assert registry.statuses.collect(ROOM) == [OK, BOOT, None]
        assert registry.statuses.collect(8) == [None, None, None]

    def test_as_pp_consensus_store_it_lets_pop_what_is_not_there(self, registry):
        assert ConsensusMap(registry, 0, [0, 1], lambda room: {}, Others()).pop(ROOM) is None

    def test_sglang_s_own_store_counts_while_the_table_cannot_be_heard(self, registry):
        others, theirs = Others(), {}
        registry.statuses = ConsensusMap(registry, 0, [0, 1], lambda room: theirs, others)
        registry.statuses[ROOM] = BOOT
        others.peer[ROOM] = others.peer[8] = MOVE
        assert (others[ROOM], registry.statuses.collect(ROOM)) == (BOOT, [BOOT, None])
        registry.away(True)
        assert registry.statuses.collect(ROOM) == [BOOT, MOVE]
        registry.away(False)
        theirs[1] = WAIT  # said again, but not all of it yet
        assert registry.statuses.collect(ROOM) == [BOOT, MOVE]
        theirs[1] = FAIL
        assert registry.statuses.collect(ROOM) == [BOOT, FAIL]
        registry.statuses.pop(ROOM)
        assert ROOM not in others
        theirs.clear()
        registry.statuses[ROOM] = BOOT
        assert registry.statuses.collect(ROOM) == [BOOT, None]


class TestWithoutALink:
    def test_nothing_is_kept_or_waited_for(self, registry):
        registry.reason_seconds = 60.0
        registry.statuses[1] = BOOT
        registry.part()
        registry.statuses[1] = MOVE
        for room in range(100):
            registry.statuses[room] = BOOT
            registry.lengths[room] = 3
            registry.reasons[room] = "no route"
            registry.statuses[room] = FAIL
            registry.statuses.pop(room)
        assert registry.reasons.pop(7, None) == "no route"
        assert registry.reasons.pop(7, None) is None
        assert (len(registry), registry.news(), registry.unsaid()) == (0, [], [])
        assert registry.is_alone_with(1)
