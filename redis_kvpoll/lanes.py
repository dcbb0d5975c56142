"""Calls that travel together: who waits for which shard, and who goes next with whom. No I/O and no locks.

Each shard has one lane, and one flight at a time on it: a script call that carries one caller's rooms, or many
callers'. While it is under way, the calls that come wait in line; those of one kind then go as the next flight. So the
more callers there are, the fewer round trips each of them costs, and what is asked of one room happens in the order
in which it was asked, whatever a flight goes through on its way.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from redis_kvpoll.commands import Call
from redis_kvpoll.commands.shape import MAX_BATCH
from redis_kvpoll.errors import KVPollError, OutcomeUnknownError, StoreUnavailableError
from redis_kvpoll.steps import Rider
from redis_kvpoll.trip import Undelivered


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

    def fail(self, failure: Undelivered | KVPollError, now: float) -> None:
        """Tell the riders; where only time was short, not those who came later and have some left."""
        short_of_time = isinstance(failure, Undelivered) and failure.kind is StoreUnavailableError
        for rider in self.riders:
            if not rider.arrived and (not short_of_time or rider.give_up_at <= now):
                rider.failure = failure


_ALONE = Flight([])


class Lane:
    """One shard: the flight that is under way, and who waits for the next.

    Who comes to a free lane leads: it sees to the first flight. At a flight's end the first in line leads.
    """

    __slots__ = ("flight", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[Rider] = deque()
        self.flight: Flight | None = None

    @property
    def is_free(self) -> bool:
        """Whether nobody flies and nobody waits to."""
        return self.flight is None and not self.waiting

    def depart_alone(self) -> None:
        """A caller flies for itself, and looks to its reply itself; whoever waited was only that caller."""
        self.waiting.clear()
        self.flight = _ALONE

    def board(self, rider: Rider) -> bool:
        """Stand in line. Whether this caller leads."""
        rider.leads = self.is_free
        self.waiting.append(rider)
        return rider.leads

    def depart(self) -> Flight:
        """The next flight: the first in line, and all behind that may go along without passing one of their rooms."""
        first = self.waiting.popleft()
        first.leads = False
        riders = [first]
        seats = MAX_BATCH - len(first.call.rooms)
        if self.waiting and seats > 0:
            left: deque[Rider] = deque()
            passed: set[int] = set()
            for rider in self.waiting:
                rooms = rider.call.rooms
                if len(rooms) <= seats and rider.call.is_like(first.call) and passed.isdisjoint(rooms):
                    riders.append(rider)
                    seats -= len(rooms)
                else:
                    left.append(rider)
                    passed.update(rooms)
            self.waiting = left
        self.flight = Flight(riders)
        return self.flight

    def end(self) -> list[Rider]:
        """The flight is over: who has not arrived goes back to the head of the line. Whom to tell of it."""
        riders = self.flight.riders if self.flight else []
        self.flight = None
        told = [rider for rider in riders if rider.arrived]
        if len(told) < len(riders):
            self.waiting.extendleft(rider for rider in reversed(riders) if not rider.arrived)
        if self.waiting:
            self.waiting[0].leads = True
            told.append(self.waiting[0])
        return told

    def leave(self, rider: Rider) -> list[Rider]:
        """A caller gives up its place in line. Whom to tell of it."""
        self.waiting.remove(rider)
        if not (rider.leads and self.waiting):
            return []
        self.waiting[0].leads = True
        return [self.waiting[0]]

    def interrupt(self) -> None:
        """Whoever flew has gone: its riders try again, or learn that the outcome is unknown."""
        if self.flight and not self.flight.riders[0].call.shape.repeatable:
            what = "sent, but who sent it was interrupted: it may have happened or not; look before doing it again"
            self.flight.fail(Undelivered(OutcomeUnknownError, what), now=0.0)
