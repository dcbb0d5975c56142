"""Calls that travel together: who waits for which shard, and who goes next with whom. No I/O and no locks.

Each shard has one lane, and one flight at a time on it: a script call that carries one caller's rooms, or many
callers'. While it is under way, the calls that come wait in line; those of one kind then go as the next flight. So the
more callers there are, the fewer round trips each of them costs, and what is asked of one room happens in the order
in which it was asked, whatever a flight goes through on its way.
"""

from __future__ import annotations

import math
from collections import deque
from itertools import islice
from typing import Any

from redis_kvpoll.engine.effects import Rider
from redis_kvpoll.engine.retry import Undelivered
from redis_kvpoll.errors import OutcomeUnknownError, StoreUnavailableError
from redis_kvpoll.protocol.script_call import MAX_BATCH, Call


class Flight:
    """Riders of one kind, and the one script call that carries them all."""

    __slots__ = ("riders",)

    def __init__(self, riders: list[Rider]) -> None:
        self.riders = riders

    @property
    def call(self) -> Call:
        first, *others = self.riders
        return first.call.together([rider.call for rider in others]) if others else first.call

    @property
    def give_up_at(self) -> float:
        return min(rider.give_up_at for rider in self.riders)

    @property
    def is_empty(self) -> bool:
        """Whether all its riders have left."""
        return all(rider.failure is _LEFT for rider in self.riders)

    def land(self, reply: list[Any]) -> None:
        """Give each rider its part of the reply, which has the words of each room in turn."""
        if len(self.riders) == 1 or not self.riders[0].call.rooms:
            for rider in self.riders:
                rider.reply = reply
            return
        width, at = len(self.riders[0].call.shape.reply), 0
        for rider in self.riders:
            end = at + width * len(rider.call.rooms)
            rider.reply, at = reply[at:end], end

    def fail(self, failure: Exception) -> None:
        """Tell the riders; where only time was short, not those who came later and have some left."""
        until = failure.until if isinstance(failure, Undelivered) else math.inf
        for rider in self.riders:
            if not rider.arrived and rider.give_up_at <= until:
                rider.failure = failure


class Lane:
    """One shard: the flight that is under way, and who waits for the next.

    Who leads sees to the next flight. The one at the head of the line is always a caller who still waits.
    """

    __slots__ = ("flight", "leader", "pilot", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[Rider] = deque()
        self.flight: Flight | Call | None = None
        """A Call is flown by its caller, who sees to its reply without a rider."""
        self.leader: Rider | None = None
        self.pilot: Any = None
        """Who flies, as the driver knows them."""

    @property
    def is_free(self) -> bool:
        """Whether nobody flies and nobody waits to."""
        return self.flight is None and not self.waiting

    def board(self, rider: Rider) -> None:
        """Stand in line."""
        rider.behind = self.flight
        self.waiting.append(rider)

    def lead(self) -> Rider | None:
        """Who is to see to the next flight: the first in line who is not busy with another lane's.

        None while one is under way. A lane whose waiting callers are all busy is led by the first to be free.
        """
        if self.flight is not None:
            return None
        if self.leader is None:
            self.leader = next((rider for rider in self.waiting if not rider.arrived and not rider.place.busy), None)
        return self.leader

    def depart(self) -> Flight:
        """The next flight: the first in line, and all behind that may go along without passing one of their rooms."""
        first = self.waiting[0]
        riders, left = [first], deque[Rider]()
        seats = MAX_BATCH - len(first.call.rooms)
        passed: set[int] = set()
        seen = 1
        for rider in islice(self.waiting, 1, None):
            if seats <= 0:
                break
            seen += 1
            rooms = rider.call.rooms
            if rider.arrived:
                pass  # its caller has left
            elif len(rooms) <= seats and rider.call.is_like(first.call) and passed.isdisjoint(rooms):
                riders.append(rider)
                seats -= len(rooms)
            else:
                left.append(rider)
                passed.update(rooms)
        left.extend(islice(self.waiting, seen, None))
        for rider in riders:
            rider.behind = None
        flight = Flight(riders)
        # Only now, and with nothing between: who is interrupted here loses nobody.
        self.leader, self.flight, self.waiting = None, flight, left
        self._close_up()
        return flight

    def end(self, flight: Flight) -> list[Rider]:
        """A flight is over: who has not arrived goes back to the head of the line. Those who have, to be told of it.

        May be repeated: whoever is interrupted here must be able to begin again.
        """
        if self.flight is flight:
            back = [rider for rider in flight.riders if not rider.arrived]
            # An interrupt cannot come between these two.
            self.waiting, self.flight = deque([*back, *self.waiting]) if back else self.waiting, None
            self._close_up()
        return [rider for rider in flight.riders if rider.arrived]

    def leave(self, rider: Rider) -> None:
        """A caller gives up. A flight that carries its rider goes on; a rider that stands in line is left behind."""
        rider.behind = None
        if not rider.arrived:
            rider.failure = _LEFT
        if self.leader is rider:
            self.leader = None
        self._close_up()

    def abandon(self, flight: Flight | Call) -> list[Rider]:
        """Whoever flew has gone: its riders try again, or learn that the outcome is unknown. Those, to be told."""
        if self.flight is not flight:
            return []
        if not isinstance(flight, Flight):
            self.flight = None
            return []
        if not flight.riders[0].call.shape.repeatable:
            what = "sent, but who sent it was interrupted: it may have happened or not; look before doing it again"
            flight.fail(Undelivered(OutcomeUnknownError, what))
        return self.end(flight)

    def _close_up(self) -> None:
        """Drop those who have left from the head of the line; further back, they are passed over by ``depart``."""
        while self.waiting and self.waiting[0].arrived:
            self.waiting.popleft()


_LEFT = Undelivered(StoreUnavailableError, "its caller has left")
