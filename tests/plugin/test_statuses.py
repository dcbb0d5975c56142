"""The map of statuses, without SGLang or a server: what threads of SGLang's read and write, in any order of steps."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redis_kvpoll.integrations.sglang.registry import RoomRegistry
from tests.support import pace
from tests.support.fuzzing import examples
from tests.support.standin import EarlyManager, Manager, decided
from tests.support.told import ToldRegistry

FAIL, BOOT, WAIT, MOVE, OK = range(5)
ROOM = 7
TEXTS = (Manager, EarlyManager)
"""How releases of SGLang decide on a status: by ``get``, or by ``in`` and ``[]``."""


@pytest.fixture
def registry():
    return ToldRegistry()


@pytest.fixture(params=TEXTS)
def update(request, registry):
    """SGLang's update_status for the room, in the text of a release."""
    sglang = request.param(request_status=registry.statuses)
    scoped = registry.scoped(sglang.update_status)
    return lambda status: scoped(ROOM, status)


class Update:
    """A call of update_status in a thread of its own, which waits between its read and its write."""

    def __init__(self, registry, status):
        self.read, self._go = threading.Event(), threading.Event()

        def update_status(room, status):
            write = decided(registry.statuses.get(room), status)
            self.read.set()
            assert self._go.wait(pace.seconds(60))
            if write is not None:
                registry.statuses[room] = write

        self._thread = threading.Thread(target=registry.scoped(update_status), args=(ROOM, status))
        self._thread.start()
        assert self.read.wait(pace.seconds(60))

    def finish(self):
        self._go.set()
        self._thread.join()


class TestUpdate:
    @pytest.mark.parametrize(("status", "creates"), [(FAIL, 0), (BOOT, 1), (WAIT, 1), (MOVE, 0), (OK, 0)])
    def test_absent_room_is_created_by_opening_statuses_only(self, registry, update, status, creates):
        update(status)
        assert len(registry.statuses) == creates

    def test_lower_status_is_ignored_and_failed_is_final(self, registry, update):
        for status, then in ((BOOT, BOOT), (MOVE, MOVE), (WAIT, MOVE), (OK, OK), (FAIL, FAIL), (OK, FAIL)):
            update(status)
            assert registry.statuses[ROOM] == then

    @pytest.mark.parametrize("read", [lambda statuses: statuses.get(ROOM), lambda statuses: statuses[ROOM]])
    def test_read_before_reuse_does_not_make_the_opening_late(self, registry, update, read):
        """A poll reads the room in the thread that later opens its next life."""
        update(BOOT)
        update(OK)
        read(registry.statuses)
        registry.statuses.pop(ROOM)
        update(BOOT)
        assert registry.statuses[ROOM] == BOOT

    def test_update_of_another_room_inside_one_is_its_own(self, registry):
        """What hangs on a failure may update other rooms."""

        def update_status(room, status):
            if room == ROOM:
                scoped(ROOM + 1, BOOT)
            registry.statuses[room] = status

        scoped = registry.scoped(update_status)
        scoped(ROOM, WAIT)
        assert dict(registry.statuses) == {ROOM: WAIT, ROOM + 1: BOOT}

    def test_update_that_raises_leaves_no_scope(self, registry):
        def update_status(room, status):
            raise RuntimeError("a bug")

        registry.statuses[ROOM] = BOOT
        with pytest.raises(RuntimeError):
            registry.scoped(update_status)(ROOM, OK)
        registry.statuses.pop(ROOM)
        registry.statuses[ROOM] = OK
        assert registry.statuses[ROOM] == OK


class TestLateUpdate:
    def test_write_decided_before_clear_is_dropped(self, registry, update):
        update(BOOT)
        late = Update(registry, WAIT)
        registry.statuses.pop(ROOM)
        late.finish()
        assert ROOM not in registry.statuses

    def test_write_decided_before_reopening_is_dropped(self, registry, update):
        update(BOOT)
        late = Update(registry, OK)
        registry.statuses.pop(ROOM)
        update(BOOT)
        late.finish()
        assert registry.statuses[ROOM] == BOOT

    def test_failure_between_read_and_write_is_kept(self, registry, update):
        update(BOOT)
        late = Update(registry, MOVE)
        update(FAIL)
        late.finish()
        assert registry.statuses[ROOM] == FAIL

    def test_room_opened_by_two_threads_is_one_life(self, registry, update):
        first = Update(registry, BOOT)
        update(WAIT)
        first.finish()
        assert registry.statuses[ROOM] == WAIT
        assert registry.told.take_all(ROOM) == [(True, WAIT, False)]

    @examples(100)
    @given(
        st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["begin", "end", "clear", "open", "fail"])), max_size=40)
    )
    def test_any_thread_order_keeps_cleared_and_failed(self, steps):
        """However three threads interleave their steps, no cleared room comes back and no Failed is undone."""
        registry, begun = RoomRegistry(), {}
        update = registry.scoped(Manager(request_status=registry.statuses).update_status)
        lives, failed, there = 0, False, False
        for thread, step in [*steps, *((thread, "end") for thread in range(3))]:
            if step == "begin" and thread not in begun:
                begun[thread] = Update(registry, MOVE if there else BOOT), there
            elif step == "end" and thread in begun:
                late, was_there = begun.pop(thread)
                late.finish()
                if not there and not was_there:
                    lives, there, failed = lives + 1, True, False
            elif step == "clear":
                registry.statuses.pop(ROOM, None)
                there = False
            elif step == "open":
                update(ROOM, BOOT)
                if not there:
                    lives, there, failed = lives + 1, True, False
            elif step == "fail":
                update(ROOM, FAIL)
                failed = failed or there
            assert (ROOM in registry.statuses) is there
            assert not (there and failed) or registry.statuses[ROOM] == FAIL


class TestDict:
    """Outside update_status the map is a dict."""

    @pytest.mark.parametrize("status", [FAIL, MOVE, OK, 10])
    def test_assignment_opens_and_overwrites(self, registry, status):
        registry.statuses[ROOM] = status
        assert registry.statuses.get(ROOM) == status
        registry.statuses[ROOM] = WAIT
        assert registry.statuses[ROOM] == WAIT

    def test_item_read_after_clear_gives_last_status(self, registry):
        registry.statuses[ROOM] = BOOT
        assert ROOM in registry.statuses
        registry.statuses.pop(ROOM)
        assert registry.statuses[ROOM] == BOOT
        assert registry.statuses.get(ROOM) is None

    def test_item_of_unknown_room_is_failed(self, registry):
        """A receiver may poll long after another one has cleared the room: a KeyError would end the scheduler."""
        assert registry.statuses[ROOM] == FAIL
        assert (ROOM in registry.statuses, registry.statuses.get(ROOM)) == (False, None)

    def test_removal_of_unknown_room_is_a_key_error(self, registry):
        for remove in (registry.statuses.pop, registry.statuses.__delitem__):
            with pytest.raises(KeyError):
                remove(ROOM)
        assert registry.statuses.pop(ROOM, None) is None

    def test_dict_method_written_in_c_goes_through_registry(self, registry):
        registry.statuses.update({1: BOOT, 2: MOVE})
        assert registry.statuses.setdefault(3, WAIT) == WAIT
        assert dict(registry.statuses) == {1: BOOT, 2: MOVE, 3: WAIT}
        del registry.statuses[1]
        registry.statuses.clear()
        assert registry.told.take_all(1) == [(True, BOOT, True)]
        assert registry.told.take_all(3) == [(True, WAIT, True)]
