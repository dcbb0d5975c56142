"""Who travels with whom and in which order, with callers, flights and failures drawn at random; no I/O."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from redis_kvpoll import OutcomeUnknownError, ServerRefusedError, StoreUnavailableError
from redis_kvpoll.engine.batching import Flight, Lane
from redis_kvpoll.engine.effects import Rider
from redis_kvpoll.engine.retry import Undelivered
from redis_kvpoll.protocol import room_commands
from redis_kvpoll.protocol.script_call import MAX_BATCH
from tests.fuzzing import examples
from tests.layouts import layout

LAYOUT = layout(namespace="default")
OTHER = layout(namespace="default", policy="strict")
MAKE = {
    "update": lambda rooms: room_commands.update_many(dict.fromkeys(rooms, 2)),
    "poll": room_commands.poll,
    "clear": room_commands.clear_many,
}
NEVER = 1e9
SHARED = range(6)
"""The rooms that several callers ask for; those of the many are looked at by nobody."""


def rider(kind="poll", rooms=(1,), give_up_at=NEVER, layout=LAYOUT, busy=False):
    (call,) = MAKE[kind](rooms).calls(layout)
    made = Rider(call, give_up_at)
    made.place = SimpleNamespace(busy=busy)
    return made


def lane_with(*riders):
    lane = Lane()
    for one in riders:
        lane.board(one)
    return lane


def answer(flight):
    """A reply in which each word names its room."""
    width = len(flight.riders[0].call.shape.reply)
    return [f"{room}.{word}" for room in flight.call.rooms for word in range(width)]


def short(flight, until):
    flight.fail(Undelivered(StoreUnavailableError, "no answer", until))


class Lanes(RuleBasedStateMachine):
    """One lane. ``asked`` holds what each room was asked, in order, by those who have not left."""

    @initialize()
    def begin(self):
        self.lane = Lane()
        self.now = 0.0
        self.asked = {}
        self.everybody = []
        self.gone = []

    @rule(
        kind=st.sampled_from(sorted(MAKE)),
        rooms=st.lists(st.sampled_from(SHARED), min_size=1, max_size=3, unique=True),
        many=st.sampled_from([0, 0, 0, 400, MAX_BATCH - 3]),
        layout=st.sampled_from([LAYOUT, LAYOUT, LAYOUT, OTHER]),
        patience=st.sampled_from([1.0, 5.0]),
        busy=st.booleans(),
    )
    def board(self, kind, rooms, many, layout, patience, busy):
        made = rider(kind, [*rooms, *range(1000, 1000 + many)], self.now + patience, layout, busy)
        self.lane.board(made)
        self.everybody.append(made)
        for room in rooms:
            self.asked.setdefault(room, []).append(made)

    @precondition(lambda self: self.lane.lead())
    @rule()
    def depart(self):
        leader, line = self.lane.leader, list(self.lane.waiting)
        assert leader in line
        flight = self.lane.depart()
        assert flight.riders[0] is line[0], "the head of the line flies"
        assert self.lane.lead() is None, "one flight at a time"
        assert len(flight.call.rooms) <= MAX_BATCH
        assert {(one.call.shape, tuple(one.call.once)) for one in flight.riders} == {
            (line[0].call.shape, tuple(line[0].call.once))
        }
        assert not any(one.arrived for one in flight.riders)
        for one in flight.riders:  # nobody is passed by who asks the same room later
            for room in filter(SHARED.__contains__, one.call.rooms):
                before = self.asked[room][: self.asked[room].index(one)]
                assert all(other.arrived or other in flight.riders for other in before)
        assert flight.call.rooms == [room for one in flight.riders for room in one.call.rooms]

    @precondition(lambda self: self.lane.flight)
    @rule()
    def land(self):
        flight = self.lane.flight
        flight.land(answer(flight))
        for one in flight.riders:
            width = len(one.call.shape.reply)
            assert one.reply == [f"{room}.{word}" for room in one.call.rooms for word in range(width)]
        self.end(flight)

    @precondition(lambda self: self.lane.flight)
    @rule(passed=st.sampled_from([0.5, 2.0, 6.0]))
    def run_out_of_time(self, passed):
        self.now += passed
        flight = self.lane.flight
        short(flight, self.now)
        for one in flight.riders:
            assert one.arrived is (one.give_up_at <= self.now or one in self.gone)
        self.end(flight)

    @precondition(lambda self: self.lane.flight)
    @rule()
    def be_refused(self):
        flight = self.lane.flight
        flight.fail(Undelivered(ServerRefusedError, "no"))
        assert all(one.arrived for one in flight.riders)
        self.end(flight)

    @precondition(lambda self: self.lane.flight)
    @rule()
    def be_abandoned(self):
        flight = self.lane.flight
        told = self.lane.abandon(flight)
        for one in flight.riders:
            if one not in self.gone:
                assert one.arrived is (not flight.riders[0].call.shape.repeatable)
            assert one.arrived is (one in told)
        assert self.lane.abandon(flight) == []

    @precondition(lambda self: any(not one.arrived for one in self.everybody))
    @rule(data=st.data())
    def leave(self, data):
        one = data.draw(st.sampled_from([one for one in self.everybody if not one.arrived]))
        self.lane.leave(one)
        self.gone.append(one)
        assert self.lane.leader is not one

    @rule()
    def all_are_free(self):
        for one in self.everybody:
            one.place.busy = False

    def end(self, flight):
        told = self.lane.end(flight)
        assert told == [one for one in flight.riders if one.arrived]
        line = list(self.lane.waiting)
        assert self.lane.end(flight) == told, "it may be repeated"
        assert list(self.lane.waiting) == line

    @invariant()
    def nobody_is_lost(self):
        under_way = [*(self.lane.flight.riders if self.lane.flight else []), *self.lane.waiting]
        assert len(set(map(id, under_way))) == len(under_way)
        assert all(one in under_way for one in self.everybody if not one.arrived)

    @invariant()
    def the_line_is_in_the_order_of_asking(self):
        line = [one for one in self.lane.waiting if not one.arrived]
        for room, askers in self.asked.items():
            waiting = [one for one in line if room in one.call.rooms[:3]]
            assert waiting == [one for one in askers if one in waiting]

    @invariant()
    def a_free_lane_is_known_as_one(self):
        assert self.lane.is_free is (not self.lane.flight and all(one.arrived for one in self.everybody))

    @invariant()
    def somebody_leads(self):
        """Unless one flies, or all are busy with other lanes."""
        waiting = [one for one in self.lane.waiting if not one.arrived]
        if not self.lane.flight and any(not one.place.busy for one in waiting):
            assert self.lane.lead() in waiting


TestLanes = Lanes.TestCase
TestLanes.settings = examples(80)


class TestWhoGoesAlong:
    @pytest.mark.parametrize(
        ("line", "first"),
        {
            "alike": ([("poll", [1]), ("poll", [1]), ("poll", [2])], [0, 1, 2]),
            "another kind stays": ([("update", [1]), ("poll", [2]), ("update", [3])], [0, 2]),
            "who asks the same room later stays behind it": ([("update", [1]), ("clear", [1]), ("update", [1])], [0]),
            "and whoever shares a room with those": (
                [("update", [1]), ("clear", [2, 3]), ("update", [3, 4]), ("update", [4]), ("update", [5])],
                [0, 4],
            ),
            "by other settings": ([("update", [1], OTHER), ("update", [2]), ("update", [3], OTHER)], [0, 2]),
            "a thousand rooms are a flight": ([("poll", range(600)), ("poll", range(400)), ("poll", [1])], [0, 1]),
            "the small go where the large have no room": (
                [("poll", range(600)), ("poll", range(1000, 1500)), ("poll", [7])],
                [0, 2],
            ),
        }.values(),
    )
    def test_by_kind_rooms_and_seats(self, line, first):
        riders = [rider(kind, rooms, layout=(more or [LAYOUT])[0]) for kind, rooms, *more in line]
        flight = lane_with(*riders).depart()
        assert [riders.index(one) for one in flight.riders] == first

    def test_ten_thousand_take_ten_flights(self):
        lane = lane_with(*(rider(rooms=[room]) for room in range(10_000)))
        flights = 0
        while lane.waiting:
            flight = lane.depart()
            flight.land(answer(flight))
            lane.end(flight)
            flights += 1
        assert flights == 10

    def test_who_looks_at_the_settings_shares_the_whole_answer(self):
        call = room_commands.Agreement.checked("default", None, None, None, None).call()
        riders = [Rider(call, NEVER) for _ in range(3)]
        lane_with(*riders).depart().land([b"2", b"compat"])
        assert [one.reply for one in riders] == [[b"2", b"compat"]] * 3


class TestLeaving:
    def test_who_left_a_flight_that_fails_does_not_go_again(self):
        """It would be the first in line, and nobody would lead."""
        first, second = rider("clear", [1]), rider("clear", [2])
        lane = lane_with(first, second)
        flight = lane.depart()
        lane.leave(first)
        short(flight, 0.0)
        assert lane.end(flight) == [first]
        assert lane.lead() is second
        assert lane.depart().riders == [second]

    def test_a_lane_that_all_have_left_is_free(self):
        riders = [rider(rooms=[room]) for room in range(3)]
        lane = lane_with(*riders)
        for at in (1, 0, 2):
            lane.leave(riders[at])
        assert lane.is_free

    def test_the_next_leads(self):
        first, second = rider(), rider()
        lane = lane_with(first, second)
        assert lane.lead() is first
        lane.leave(first)
        assert lane.lead() is second

    def test_nobody_is_told_of_a_lane_abandoned_by_one_who_flew_for_himself(self):
        lane = Lane()
        lane.flight = rider().call
        assert lane.abandon(lane.flight) == []
        assert lane.is_free

    def test_a_flight_that_destroys_is_not_tried_again(self):
        riders = [rider("clear", [1]), rider("clear", [2])]
        lane = lane_with(*riders)
        assert lane.abandon(lane.depart()) == riders
        assert {one.failure.kind for one in riders} == {OutcomeUnknownError}
        assert lane.is_free

    def test_who_goes_again_is_first_in_line(self):
        """Else it would come behind what was asked of its room after it."""
        first, second = rider("update", [1]), rider("clear", [1])
        lane = lane_with(first, second)
        assert lane.end(lane.depart()) == []
        assert list(lane.waiting) == [first, second]

    def test_an_old_flight_does_not_end_the_next(self):
        """It was given up by others; and then it came back after all."""
        one, other = rider(rooms=[1]), rider("update", [1])
        lane = lane_with(one, other)
        old = lane.depart()
        lane.abandon(old)
        new = lane.depart()
        old.land(["late"])
        lane.end(old)
        assert lane.flight is new


def test_a_line_holds_on_to_no_flight_but_the_last():
    """Or each flight would hold the one before it, for as long as the lane is busy."""
    lane = Lane()
    for _ in range(3):
        lane.board(rider())
        lane.board(rider("update"))
        flight = lane.depart()
        assert all(one.behind is None for one in flight.riders)
        flight.land(answer(flight))
        lane.end(flight)
    assert isinstance(flight, Flight)
