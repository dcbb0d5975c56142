"""What SGLang's threads read and write, and what is then to be said: the book alone, without SGLang or a server."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from redis_kvpoll.integrations.sglang import outbox
from redis_kvpoll.integrations.sglang import registry as books
from redis_kvpoll.integrations.sglang.dicts import ConsensusMap
from redis_kvpoll.integrations.sglang.outbox import Use
from redis_kvpoll.integrations.sglang.registry import Book
from tests.support import pace

FAIL, BOOT, WAIT, MOVE, OK = range(5)
ROOM = 7


@pytest.fixture
def book():
    return Book(lambda: None)


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


def said(book, room=ROOM):
    """What is to be said of a room, in order."""
    return [(use.is_new, use.status, use.is_over) for use in iter(lambda: book.take(room), None)]


class Others(dict):
    """SGLang's own PPConsensusStore, on rank 0 of two."""

    def __init__(self):
        super().__init__()
        self.peer = {}

    def collect(self, room):
        return [self.get(room), self.peer.get(room)]


class TestStatuses:
    @pytest.mark.parametrize(("status", "creates"), [(FAIL, 0), (BOOT, 1), (WAIT, 1), (MOVE, 0), (OK, 0)])
    def test_only_what_opens_a_room_creates_one(self, book, status, creates):
        book.statuses[ROOM] = status
        assert len(book.statuses) == creates

    def test_they_only_go_up_and_failed_is_the_end(self, book):
        for status, then in ((BOOT, BOOT), (MOVE, MOVE), (WAIT, MOVE), (OK, OK), (FAIL, FAIL), (OK, FAIL)):
            book.statuses[ROOM] = status
            assert book.statuses[ROOM] == then

    def test_what_a_thread_decided_before_a_clear_changes_nothing_after_it(self, book, other):
        book.statuses[ROOM] = BOOT
        seen = other(book.statuses.get, ROOM)
        book.statuses.pop(ROOM)
        other(book.statuses.__setitem__, ROOM, max(seen, WAIT))
        assert ROOM not in book.statuses

    def test_nor_after_the_room_was_opened_anew(self, book, other):
        book.statuses[ROOM] = BOOT
        seen = other(book.statuses.get, ROOM)
        book.statuses.pop(ROOM)
        book.statuses[ROOM] = BOOT
        other(book.statuses.__setitem__, ROOM, max(seen, OK))
        assert book.statuses[ROOM] == BOOT

    def test_a_failure_between_two_steps_of_another_is_not_lost(self, book, other):
        book.statuses[ROOM] = BOOT
        seen = other(book.statuses.get, ROOM)
        book.statuses[ROOM] = FAIL
        other(book.statuses.__setitem__, ROOM, max(seen, MOVE))
        assert book.statuses[ROOM] == FAIL

    def test_two_that_open_it_at_once_share_it(self, book, other):
        assert other(book.statuses.get, ROOM) is None
        update(book.statuses, ROOM, WAIT)
        other(book.statuses.__setitem__, ROOM, BOOT)
        assert book.statuses[ROOM] == WAIT
        assert said(book) == [(True, WAIT, False)]

    def test_who_has_seen_that_it_is_in_gets_its_last_status(self, book):
        book.statuses[ROOM] = BOOT
        assert ROOM in book.statuses
        book.statuses.pop(ROOM)
        assert book.statuses[ROOM] == BOOT
        assert book.statuses.get(ROOM) is None

    def test_a_room_that_never_was_is_a_key_error(self, book):
        for ask in (book.statuses.__getitem__, book.statuses.pop, book.statuses.__delitem__):
            with pytest.raises(KeyError):
                ask(ROOM)
        assert book.statuses.pop(ROOM, None) is None

    def test_methods_that_a_dict_does_in_c_go_the_same_way(self, book):
        book.statuses.update({1: BOOT, 2: MOVE})
        assert book.statuses.setdefault(3, WAIT) == WAIT
        assert dict(book.statuses) == {1: BOOT, 3: WAIT}
        del book.statuses[1]
        book.statuses.clear()
        assert said(book, 1) == [(True, BOOT, True)]
        assert said(book, 3) == [(True, WAIT, True)]

    @given(
        st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["look", "write", "clear", "open", "fail"])), max_size=40)
    )
    @settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
    def test_whatever_the_order_no_room_comes_back_and_failed_stays(self, steps):
        book, looks = Book(lambda: None), {}
        uses, failed, there = 0, False, False
        with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as two, ThreadPoolExecutor(1) as three:
            threads = [one, two, three]
            for thread, step in steps:
                run = lambda call, *words, pool=threads[thread]: pool.submit(call, *words).result(60)  # noqa: E731
                if step == "look":
                    looks[thread] = run(book.statuses.get, ROOM), uses if there else None
                elif step == "write" and thread in looks:
                    seen, use = looks.pop(thread)
                    write = decided(seen, MOVE if seen is not None else BOOT)
                    if write is None:
                        continue
                    run(book.statuses.__setitem__, ROOM, write)
                    if not there and use is None:
                        uses, there, failed = uses + 1, True, False
                elif step == "clear":
                    run(book.statuses.pop, ROOM, None)
                    there = False
                elif step == "open":
                    looks.pop(thread, None)
                    run(update, book.statuses, ROOM, BOOT)
                    if not there:
                        uses, there, failed = uses + 1, True, False
                elif step == "fail":
                    looks.pop(thread, None)
                    run(update, book.statuses, ROOM, FAIL)
                    failed = failed or there
                assert (ROOM in book.statuses) is there
                assert not (there and failed) or book.statuses[ROOM] == FAIL


class TestWhatIsToBeSaid:
    def test_a_life_that_was_never_told_is_told_in_one(self, book):
        for status in (BOOT, WAIT, MOVE, OK):
            book.statuses[ROOM] = status
        book.statuses.pop(ROOM)
        assert said(book) == [(True, OK, True)]
        assert len(book) == 0

    def test_each_use_by_itself_and_in_order(self, book):
        for last in (OK, FAIL):
            book.statuses[ROOM] = BOOT
            book.statuses[ROOM] = last
            book.statuses.pop(ROOM)
        assert said(book) == [(True, OK, True), (True, FAIL, True)]

    def test_what_could_not_be_said_is_said_with_what_came_meanwhile(self, book):
        book.statuses[ROOM] = BOOT
        use = book.take(ROOM)
        book.statuses[ROOM] = MOVE
        book.put_back(ROOM, use)
        assert said(book) == [(True, MOVE, False)]

    def test_and_before_what_is_of_a_later_use(self, book):
        book.statuses[ROOM] = BOOT
        use = book.take(ROOM)
        book.statuses.pop(ROOM)
        book.statuses[ROOM] = WAIT
        book.put_back(ROOM, use)
        assert said(book) == [(True, BOOT, True), (True, WAIT, False)]

    def test_nothing_is_said_twice_and_no_change_is_none(self, book):
        book.statuses[ROOM] = BOOT
        assert book.news() == [ROOM]
        book.take(ROOM)
        book.statuses[ROOM] = BOOT
        assert book.news() == []
        assert said(book) == []

    def test_it_wakes_once_until_the_news_are_taken(self):
        woken = []
        book = Book(lambda: woken.append(1))
        for room in range(3):
            book.statuses[room] = BOOT
        assert (len(woken), book.news()) == (1, [0, 1, 2])
        book.statuses[0] = WAIT
        assert len(woken) == 2

    def test_the_failure_comes_with_its_reason_and_the_opening_with_the_length(self, book):
        book.lengths[ROOM] = 17
        book.statuses[ROOM] = BOOT
        assert book.take(ROOM) == Use(1, is_new=True, status=BOOT, length=17)
        book.reasons[ROOM] = "no route"
        book.statuses[ROOM] = FAIL
        assert book.take(ROOM) == Use(1, status=FAIL, reason="no route")

    def test_a_reason_that_comes_later_is_said_too(self, book):
        book.statuses.update({ROOM: BOOT})
        book.statuses[ROOM] = FAIL
        book.take(ROOM)
        book.reasons[ROOM] = "no route"
        assert book.take(ROOM) == Use(1, reason="no route")

    def test_it_is_bounded_and_what_lives_is_kept(self, book, monkeypatch):
        monkeypatch.setattr(outbox, "LIMIT", 10)
        book.statuses[1000] = BOOT
        for room in range(30):
            book.statuses[room] = BOOT
            book.statuses.pop(room)
        assert (len(book), book.untold) == (11, 20)
        assert said(book, 1000) == [(True, BOOT, False)]
        assert said(book, 29) == [(True, BOOT, True)]


class TestReasons:
    def test_the_first_stays(self, book):
        book.reasons[ROOM] = "first"
        book.reasons[ROOM] = "second"
        assert book.reasons.setdefault(ROOM, "third") == "first"
        assert book.reasons.pop(ROOM, None) == "first"
        assert book.reasons.pop(ROOM, None) is None

    def test_but_who_knows_better_than_an_abort_may_say_so(self, book):
        book.reasons[ROOM] = books.GENERIC
        book.reasons[ROOM] = "the rebootstrap failed"
        assert book.reasons[ROOM] == "the rebootstrap failed"

    def test_it_outlives_the_clear_and_not_the_next_opening(self, book):
        book.statuses[ROOM] = BOOT
        book.reasons[ROOM] = "first"
        book.statuses.pop(ROOM)
        assert book.reasons.get(ROOM) == "first"
        book.statuses[ROOM] = BOOT
        assert ROOM not in book.reasons

    def test_nothing_that_nobody_asks_for_is_kept_for_ever(self):
        now = [0.0]
        book = Book(lambda: None, clock=lambda: now[0])
        book.reasons[1] = "never known"
        book.lengths[2] = 17
        book.statuses[3] = BOOT
        book.reasons[3] = "cleared"
        book.statuses.pop(3)
        book.statuses[4] = BOOT
        book.reasons[4] = "still there"
        now[0] = books.MEMORY + 1
        book.statuses[5] = BOOT
        book.statuses.pop(5)
        assert (dict(book.reasons), dict(book.lengths)) == ({4: "still there"}, {})
        with pytest.raises(KeyError):
            book.statuses[3]

    def test_another_rank_s_is_waited_for(self, book, other):
        book.reason_seconds = pace.seconds(5)
        book.statuses[ROOM] = BOOT
        book.statuses.pop(ROOM)

        def hear():
            while ROOM not in book.awaited:
                pass
            book.hear_reason(ROOM, "rank 1 says no")

        with ThreadPoolExecutor(1) as pool:
            heard = pool.submit(hear)
            assert other(book.reasons.pop, ROOM, None) == "rank 1 says no"
            heard.result(pace.seconds(5))
        assert not book.awaited

    def test_but_many_that_fail_at_once_stall_nobody_one_after_the_other(self, book):
        book.reason_seconds = 0.25
        for room in range(40):
            book.statuses[room] = BOOT
            book.statuses.pop(room)
        began = time.monotonic()
        with pace.Stopwatch() as took:
            assert all(book.reasons.pop(room, None) is None for room in range(40))
        assert time.monotonic() - began >= 0.25
        assert took.seconds < 2.0

    def test_and_after_a_while_it_is_waited_for_again(self):
        now = [0.0]
        book = Book(lambda: None, clock=lambda: now[0])
        book.reason_seconds = 0.25
        waited = []
        book._heard.wait_for = lambda _, seconds: (waited.append(round(seconds, 3)), now.append(now.pop() + seconds))
        for pause in (0.0, 0.0, 1.0, 0.0, 100.0):
            now.append(now.pop() + pause)
            book.statuses[ROOM] = BOOT
            book.statuses.pop(ROOM)
            book.reasons.pop(ROOM, None)
        assert waited == [0.25, 0.025, 0.102, 0.01, 0.25]

    def test_but_not_when_nobody_can_have_one(self, book):
        book.reason_seconds = 60.0
        assert book.reasons.pop(ROOM, None) is None  # it never was
        book.statuses[ROOM] = BOOT
        book.reasons[ROOM] = "own"
        book.statuses.pop(ROOM)
        assert book.reasons.pop(ROOM, None) == "own"


class TestWhatIsHeard:
    def test_a_failure_elsewhere_is_one_here(self, book):
        book.statuses[ROOM] = BOOT
        said(book)
        book.hear_failed(ROOM, book.number_of(ROOM), "an operator", False)
        assert (book.statuses[ROOM], book.reasons[ROOM]) == (FAIL, "an operator")
        assert said(book) == []

    def test_one_of_another_table_is_said_to_ours(self, book):
        book.statuses[ROOM] = BOOT
        said(book)
        book.hear_failed(ROOM, book.number_of(ROOM), "prefill lost", True)
        assert book.take(ROOM) == Use(1, status=FAIL, reason="prefill lost")

    def test_nor_does_one_of_another_table_undo_what_got_done_while_its_reason_was_asked_for(self, book):
        book.statuses[ROOM] = BOOT
        book.statuses[ROOM] = OK
        book.hear_failed(ROOM, 1, "lost", True)
        assert book.statuses[ROOM] == OK
        book.hear_failed(ROOM, 1, "lost", False)
        assert book.statuses[ROOM] == FAIL

    def test_one_of_a_use_that_is_over_is_none(self, book):
        book.statuses[ROOM] = BOOT
        number = book.number_of(ROOM)
        book.statuses.pop(ROOM)
        book.statuses[ROOM] = BOOT
        book.hear_failed(ROOM, number, "late", False)
        assert book.statuses[ROOM] == BOOT
        assert ROOM not in book.reasons


class TestConsensus:
    def test_each_stage_in_order_and_the_own_one_as_it_is_here(self, book):
        theirs = {0: OK, 4: WAIT, 6: MOVE}
        book.statuses = ConsensusMap(book, 4, [0, 4, 8], lambda room: theirs if room == ROOM else {}, Others())
        assert book.statuses.collect(ROOM) == [OK, None, None]
        book.statuses[ROOM] = BOOT
        assert book.statuses.collect(ROOM) == [OK, BOOT, None]
        assert book.statuses.collect(8) == [None, None, None]

    def test_as_pp_consensus_store_it_lets_pop_what_is_not_there(self, book):
        assert ConsensusMap(book, 0, [0, 1], lambda room: {}, Others()).pop(ROOM) is None

    def test_sglang_s_own_store_counts_while_the_table_cannot_be_heard(self, book):
        others, theirs = Others(), {}
        book.statuses = ConsensusMap(book, 0, [0, 1], lambda room: theirs, others)
        book.statuses[ROOM] = BOOT
        others.peer[ROOM] = others.peer[8] = MOVE
        assert (others[ROOM], book.statuses.collect(ROOM)) == (BOOT, [BOOT, None])
        book.away(True)
        assert book.statuses.collect(ROOM) == [BOOT, MOVE]
        book.away(False)
        theirs[1] = WAIT  # said again, but not all of it yet
        assert book.statuses.collect(ROOM) == [BOOT, MOVE]
        theirs[1] = FAIL
        assert book.statuses.collect(ROOM) == [BOOT, FAIL]
        book.statuses.pop(ROOM)
        assert ROOM not in others
        theirs.clear()
        book.statuses[ROOM] = BOOT
        assert book.statuses.collect(ROOM) == [BOOT, None]


class TestWithoutALink:
    def test_nothing_is_kept_or_waited_for(self, book):
        book.reason_seconds = 60.0
        book.statuses[1] = BOOT
        book.part()
        book.statuses[1] = MOVE
        for room in range(100):
            book.statuses[room] = BOOT
            book.lengths[room] = 3
            book.reasons[room] = "no route"
            book.statuses[room] = FAIL
            book.statuses.pop(room)
        assert book.reasons.pop(7, None) == "no route"
        assert book.reasons.pop(7, None) is None
        assert (len(book), book.news(), book.unsaid()) == (0, [], [])
        assert book.is_alone_with(1)
