"""Rooms that a message opens before they have a sender: prefill's registry alone, without SGLang."""

from __future__ import annotations

import gc
import threading
from functools import partial
from types import SimpleNamespace

import pytest

from redis_kvpoll.agent.outbox import RoomLife
from redis_kvpoll.integrations.sglang import hooks
from tests.support import real
from tests.support.standin import manager

FAIL, BOOT, WAIT, MOVE, OK = range(5)
ROOM = 7


def nothing():
    """Do what the constructor of a sender does whose room is open."""


class TestClaims:
    def test_room_without_sender_is_not_published(self, registry):
        registry.lengths[ROOM] = 17
        registry.statuses[ROOM] = WAIT
        registry.reasons[ROOM] = "no route"
        registry.statuses[ROOM] = FAIL
        assert (registry.told.rooms(), registry.told.take(ROOM)) == ([], None)
        registry.statuses.pop(ROOM)
        assert (registry.told.rooms(), registry.told.take(ROOM)) == ([], None)

    def test_sender_publishes_what_was_there_before(self, registry):
        registry.lengths[ROOM] = 17
        registry.statuses[ROOM] = WAIT
        registry.claim_during(ROOM, "rid", registry.statuses.__setitem__, ROOM, WAIT)
        assert registry.told.take(ROOM) == RoomLife(1, is_new=True, request="rid", status=WAIT, length=17)

    def test_sender_of_a_failed_room_publishes_the_failure(self, registry):
        registry.statuses[ROOM] = WAIT
        registry.reasons[ROOM] = "aborted"
        registry.statuses[ROOM] = FAIL
        registry.claim_during(ROOM, "", nothing)
        assert registry.told.take(ROOM) == RoomLife(1, is_new=True, status=FAIL, reason="aborted")

    def test_room_opened_by_its_sender_has_the_request(self, registry):
        registry.claim_during(ROOM, "rid", registry.statuses.update, {ROOM: BOOT, ROOM + 1: BOOT})
        assert registry.told.take(ROOM) == RoomLife(1, is_new=True, request="rid", status=BOOT)
        assert registry.told.take(ROOM + 1) is None

    def test_second_sender_leaves_the_request(self, registry):
        for request in ("first", "second"):
            registry.claim_during(ROOM, request, registry.statuses.__setitem__, ROOM, BOOT)
        assert registry.told.take(ROOM).request == "first"

    def test_sender_that_interrupts_its_rooms_opening_claims_it(self, registry):
        """Its claim finds no room yet, and is put off until there is one."""
        add = registry.unclaimed.add

        def interrupted(room):
            registry.claim_during(ROOM, "rid", nothing)
            return add(room)

        registry.unclaimed.add = interrupted
        registry.statuses[ROOM] = WAIT
        assert registry.is_claimed(ROOM)

    def test_room_that_a_message_opens_has_no_sender(self, registry):
        """Another thread has begun its life, and not yet taken note that it has no sender."""
        is_opening, may_open, found = threading.Event(), threading.Event(), []
        add = registry.unclaimed.add
        registry.unclaimed.add = lambda room: (is_opening.set(), may_open.wait(), add(room))[-1]
        opening = threading.Thread(target=registry.statuses.__setitem__, args=(ROOM, WAIT))
        looking = threading.Thread(target=lambda: found.append(registry.is_claimed(ROOM)))
        opening.start()
        is_opening.wait()
        looking.start()
        looking.join(0.1)
        may_open.set()
        opening.join()
        looking.join()
        assert found == [False]


class TestUnclaimed:
    def test_old_room_without_sender_is_listed_and_ended(self, registry, now):
        registry.statuses[ROOM] = WAIT
        registry.lengths[ROOM] = 17
        now[0] = 10.0
        registry.statuses[ROOM + 1] = WAIT
        assert (registry.unclaimed.old(10.0), registry.unclaimed.old(11.0)) == ([ROOM], [])
        assert registry.end_unclaimed(ROOM)
        assert dict(registry.statuses) == {ROOM + 1: WAIT}
        assert not registry.lengths
        assert not registry.end_unclaimed(ROOM)

    def test_room_whose_sender_has_come_is_not_ended(self, registry):
        registry.statuses[ROOM] = WAIT
        registry.claim_during(ROOM, "rid", nothing)
        assert registry.unclaimed.old(0.0) == []
        assert not registry.end_unclaimed(ROOM)
        assert registry.statuses[ROOM] == WAIT

    def test_room_is_open_since_decodes_first_message(self, registry, now):
        """A failure in decode's table since then concerns it, whenever decode has asked anew or its sender came."""
        update = registry.scoped(registry.statuses.__setitem__)
        for now[0] in (1.0, 5.0):
            update(ROOM, WAIT)
        assert (registry.unclaimed.old(0.0), registry.unclaimed.old(1.0)) == ([ROOM], [])
        assert registry.held() == [(ROOM, 1, 1.0)]
        now[0] = 9.0
        registry.claim_during(ROOM, "rid", nothing)
        assert registry.told.take(ROOM).opened_at == 1.0

    def test_room_is_claimed_by_its_sender_alone(self, registry):
        assert not registry.is_claimed(ROOM)
        registry.statuses[ROOM] = WAIT  # decode's message
        assert not registry.is_claimed(ROOM)
        registry.claim_during(ROOM, "rid", nothing)
        assert registry.is_claimed(ROOM)


class Sender:
    """A sender whose constructor does what SGLang's does where decode allocates after prefill."""

    def __init__(self, mgr, bootstrap_addr, bootstrap_room):
        self.kv_mgr, self.bootstrap_room = mgr, bootstrap_room
        if mgr.deferred_bootstrap is not None:
            mgr.deferred_bootstrap.append("opened")
        mgr.update_status(bootstrap_room, BOOT)
        if mgr.is_conflict:
            mgr.record_failure(bootstrap_room, "conflict")
            mgr.update_status(bootstrap_room, FAIL)

    def poll(self):
        return self.kv_mgr.request_status[self.bootstrap_room]


class TestSecondSender:
    @pytest.fixture
    def sglang(self, registry):
        """A manager with a room that has a sender."""
        sglang = SimpleNamespace(request_status=registry.statuses, deferred_bootstrap=[], is_conflict=False)
        sglang.update_status = registry.statuses.__setitem__
        sglang.record_failure = registry.record_reason
        self.make(sglang)
        sglang.is_conflict = True
        return sglang

    def make(self, sglang, **words):
        sender = object.__new__(Sender)
        args = () if words else (sglang, "10.0.0.1:8998", ROOM)
        hooks.around_sender(Sender.__init__, sender, *args, **words)
        return sender

    @pytest.mark.parametrize("is_by_name", [True, False])
    def test_its_constructor_touches_no_room(self, registry, sglang, is_by_name):
        words = {"mgr": sglang, "bootstrap_addr": "10.0.0.1:8998", "bootstrap_room": ROOM}
        second = self.make(sglang, **words if is_by_name else {})
        assert (registry.statuses[ROOM], registry.reasons, sglang.deferred_bootstrap) == (BOOT, {}, ["opened"])
        assert second.kv_mgr is sglang

    def test_it_reports_failed_and_the_reason(self, sglang):
        second = self.make(sglang)
        assert (second.poll(), second.poll_pp_consensus(), second.send([1]), second.clear()) == (FAIL, FAIL, None, None)
        with pytest.raises(RuntimeError) as raised:
            second.failure_exception()
        assert raised.value.args == (ROOM, "room reused while in use")


class TestDroppedSender:
    """SGLang drops the sender of some requests that it aborts, and does not clear their rooms."""

    @pytest.fixture
    def sglang(self, registry):
        sglang = manager(request_status=registry.statuses, failure_records=registry.reasons)
        sglang.deferred_bootstrap, sglang.is_conflict = None, False
        sglang.update_status = registry.scoped(sglang.update_status)
        return sglang

    def make(self, sglang):
        sender = object.__new__(Sender)
        hooks.around_sender(Sender.__init__, sender, sglang, "10.0.0.1:8998", ROOM)
        return sender

    def abort(self, sglang):
        sglang.failure_records[ROOM] = "Aborted by AbortReq."
        sglang.update_status(ROOM, FAIL)

    def test_its_failed_room_ends_for_the_table(self, registry, sglang):
        """SGLang's own dict keeps it, until its two timeouts are over."""
        sender = self.make(sglang)
        self.abort(sglang)
        del sender
        gc.collect()
        registry.abandon()
        assert registry.told.take(ROOM).is_over
        assert (registry.statuses[ROOM], registry.unclaimed.old(0.0)) == (FAIL, [ROOM])

    def test_room_stays_while_it_lives(self, registry, sglang):
        sender = self.make(sglang)
        self.abort(sglang)
        gc.collect()
        registry.abandon()
        assert not registry.told.take(ROOM).is_over
        assert registry.is_claimed(ROOM)
        assert sender.poll() == FAIL

    def test_room_that_has_not_failed_stays(self, registry, sglang):
        self.make(sglang)
        gc.collect()
        registry.abandon()
        assert not registry.told.take(ROOM).is_over
        assert registry.is_claimed(ROOM)

    def test_finalizer_waits_for_no_other_thread(self, registry, sglang):
        """It may run in any line of its thread, with a lock that another thread's change waits for."""
        senders, is_changing, may_end = [self.make(sglang)], threading.Event(), threading.Event()
        other = threading.Thread(target=registry.change, args=(lambda: is_changing.set() or may_end.wait(),))
        dropping = threading.Thread(target=senders.clear)
        try:
            other.start()
            is_changing.wait()
            dropping.start()
            real.until(lambda: not dropping.is_alive(), "the sender is dropped")
        finally:
            may_end.set()
            other.join()
            dropping.join()

    def test_sender_of_a_cleared_room_is_not_noted(self, registry, sglang):
        """It is the usual end of a request, and is to take no time of the next one."""
        sender = self.make(sglang)
        registry.statuses.pop(ROOM)
        del sender
        gc.collect()
        assert not registry.unclaimed.dropped

    def test_next_sender_waits_for_the_end_of_a_dropped_one(self, registry, sglang):
        """Another thread has just taken note of that end, and is not through: the room is not in use any more."""
        sender, is_ending, may_end = self.make(sglang), threading.Event(), threading.Event()
        self.abort(sglang)
        del sender
        gc.collect()
        end, senders = registry.sender.end, []
        registry.sender.end = lambda life: (is_ending.set(), may_end.wait(), end(life))
        ending = threading.Thread(target=registry.abandon)
        making = threading.Thread(target=lambda: senders.append(self.make(sglang)))
        ending.start()
        is_ending.wait()
        making.start()
        making.join(0.1)
        may_end.set()
        ending.join()
        making.join()
        assert senders[0].poll() == FAIL
        assert registry.is_claimed(ROOM)

    def test_next_sender_fails_once_as_in_sglang(self, registry, sglang):
        sender = self.make(sglang)
        self.abort(sglang)
        registry.told.take(ROOM)
        del sender
        gc.collect()
        second = self.make(sglang)  # before anybody has seen to the first one's end
        assert second.poll() == FAIL
        assert registry.told.take(ROOM) == RoomLife(1, is_over=True)
        assert registry.told.take(ROOM) == RoomLife(2, is_new=True, status=FAIL, reason="Aborted by AbortReq.")
        registry.statuses.pop(ROOM, None)
        assert registry.told.take(ROOM) == RoomLife(2, is_over=True)
        assert self.make(sglang).poll() == BOOT


class TestLives:
    """The steps of a sender or receiver act on the life that it has opened."""

    @pytest.fixture
    def former(self, registry):
        """Make calls in the scope of a receiver whose room is used again."""
        registry.statuses[ROOM] = BOOT
        life = registry.lives.get(ROOM)
        registry.statuses.pop(ROOM)
        registry.statuses[ROOM] = BOOT
        return partial(registry.scopes.run, (life.room, life))

    def test_clear_of_a_former_life_leaves_the_next(self, registry, former):
        assert former(registry.statuses.pop, ROOM, None) is None
        assert ROOM in registry.statuses
        former(registry.statuses.__delitem__, ROOM)  # which is no KeyError for a dict
        former(registry.statuses.clear)
        assert registry.statuses[ROOM] == BOOT

    def test_second_clear_leaves_all_to_the_next_life(self, registry):
        """SGLang's receiver clears several tables by room."""
        receiver = SimpleNamespace(kv_mgr=SimpleNamespace(request_status=registry.statuses), bootstrap_room=ROOM)
        registry.statuses[ROOM] = FAIL
        receiver.kvpoll_life = registry.lives.get(ROOM)
        responses = {}

        def clear(receiver):
            registry.statuses.pop(receiver.bootstrap_room, None)
            responses.pop(receiver.bootstrap_room, None)

        hooks.around_receiver_clear(clear, receiver)
        assert ROOM not in registry.statuses
        registry.statuses[ROOM], responses[ROOM] = WAIT, 1
        hooks.around_receiver_clear(clear, receiver)
        assert (registry.statuses[ROOM], responses) == (WAIT, {ROOM: 1})

    @pytest.mark.parametrize("status", [FAIL, WAIT])
    def test_update_by_a_former_life_leaves_the_next(self, registry, former, status):
        former(registry.reasons.__setitem__, ROOM, "Aborted by AbortReq.")
        former(registry.scoped(lambda room, status: registry.statuses.update({room: status})), ROOM, status)
        assert registry.statuses[ROOM] == BOOT
        assert not registry.reasons

    def test_update_by_a_former_life_opens_nothing(self, registry, former):
        registry.statuses.pop(ROOM)
        former(registry.statuses.__setitem__, ROOM, WAIT)
        assert ROOM not in registry.statuses

    def test_scope_ends_with_its_call(self, registry, former):
        with pytest.raises(ZeroDivisionError):
            former(lambda: 1 / 0)
        registry.statuses.pop(ROOM)
        assert ROOM not in registry.statuses
