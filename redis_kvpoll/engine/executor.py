"""What a store decides: which script calls carry a command out, and what their replies or failures come to. No I/O."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from itertools import zip_longest
from typing import Any, TypeVar, cast

from redis_kvpoll.engine import eviction
from redis_kvpoll.engine.batching import Flight
from redis_kvpoll.engine.effects import Board, Flow, Pause, Rider
from redis_kvpoll.engine.recovery import Restating
from redis_kvpoll.engine.retry import Trip, Undelivered
from redis_kvpoll.engine.tracked_rooms import RETRY
from redis_kvpoll.errors import FeedOffError, InvalidInputError, KVPollError, StoreUnavailableError
from redis_kvpoll.model import KVPoll, Outcome, Update
from redis_kvpoll.protocol.feed import Reading
from redis_kvpoll.protocol.handle import Handle
from redis_kvpoll.protocol.scan import Scan
from redis_kvpoll.protocol.script_call import Call, Command, Layout
from redis_kvpoll.protocol.settings import NAMES, SETTINGS, Settings

T = TypeVar("T")
V = TypeVar("V")


class Delivery(Restating):
    """The part that the blocking and the asyncio store have in common: the calls, and what becomes of them."""

    def agreed(self, operation: str) -> Flow[Layout]:
        """The layout of the namespace, for an operation that is more than one command."""
        self.check_open(operation)
        return self._agreed or (yield from self._agree(operation))

    def calls(self, command: Command[V, T]) -> list[Call]:
        """The script calls that carry a command out; none while something must be looked at first."""
        self.check_open(command.operation)
        layout = self._agreed
        if layout is None or not command.rooms:
            return []
        calls = self.form(command, layout)
        if (self._doubtful or self.held.waiting) and any(self.doubts(call.tag) for call in calls):
            return []
        return calls

    def run(self, command: Command[V, T], calls: list[Call], give_up_at: float | None = None) -> Flow[T]:
        """Carry a command out, by these calls if there are any."""
        rooms, give_up_at = command.rooms, give_up_at or self._give_up_at
        if not rooms:
            return command.finish(rooms, [])
        if not calls:
            # What was once agreed on does not change; that it still holds, the flight looks first, and keeps the order.
            calls = self.form(command, self._layout or (yield from self._agree(command, give_up_at)))
        if len(calls) == 1:
            replies = yield from self._board(command, calls, give_up_at)
            return command.finish(rooms, command.decode(command.operation, rooms, replies[0]))
        values: list[Any] = [None] * len(rooms)
        done = 0
        for wave in _waves(calls):
            replies = yield from self._board(command, wave, give_up_at, done)
            give_up_at = self._give_up_at  # of the next thousands
            for call, reply in zip(wave, replies, strict=True):
                done += len(call.rooms)
                some = command.decode(command.operation, call.rooms, reply)
                for position, value in zip(call.positions, some, strict=True):
                    values[position] = value
        return command.finish(rooms, values)

    def fly(self, flight: Flight, met: Exception | None = None) -> Flow[None]:
        """Carry a flight's call to its reply, and tell its riders; ``met`` as in Trip.carry."""
        now = time.monotonic()
        if met is None and flight.give_up_at <= now:
            what = f"no answer within {self.deadline:g} s (not sent: it stood in line all the while)"
            return flight.fail(Undelivered(StoreUnavailableError, what, until=now))
        call = flight.call
        trip = Trip(self, call.shape.repeatable, flight.give_up_at)
        try:
            is_settings = call.shape is SETTINGS
            reply = yield from (self._look(call, trip, met) if is_settings else self._carry(call, trip, met))
        except (Undelivered, KVPollError) as failure:
            return flight.fail(failure)
        return flight.land(reply)

    def _look(self, call: Call, trip: Trip, met: Exception | None) -> Flow[list[Any]]:
        """The layout that the settings call of a flight leads to."""
        return [self.adopt((yield from trip.carry(call, preliminary=True, met=met)), trip)]

    def _carry(self, call: Call, trip: Trip, met: Exception | None) -> Flow[list[Any]]:
        """The words of the rooms in the reply to a call, from a shard that has all that this store holds."""
        while True:
            if met is None:
                yield from self.prepare(call.tag, trip)
            marks = self.marks()
            reply = yield from trip.carry(call, met=met)
            if not self.has_lost(call, reply):
                return self.read(call, marks, reply)
            met = None

    def insist(self, command: Command[V, T], value: T, began: float) -> Flow[T]:
        """``value``; but when the room of a guest is lost, and its opener has yet to bring it back, what comes then.

        All of it, from the time when the call ``began``, has one deadline.
        """
        give_up_at = began + self.deadline
        while _missed(value) and self.held.waits(command.rooms[0]) and time.monotonic() + RETRY < give_up_at:
            yield Pause(RETRY)
            if time.monotonic() >= give_up_at:
                break  # the last answer is one, and to have stood in line is none
            value = yield from self.run(command, [], give_up_at)
        return value

    def recover(self, command: Command[V, T], call: Call, sent_at: float, met: Exception | None) -> Flow[list[Any]]:
        """The reply to a command's only call, which was sent once, at ``sent_at``, and met an error, or lost data."""
        rider = Rider(call, sent_at + self.deadline)
        yield from self.fly(Flight([rider]), met)
        return self.arrived(command, [rider])[0]

    def adopted(self, handle: Handle[Any]) -> tuple[str, int, int, str | None]:
        """What a handle is of, if that is this store's table."""
        self.check_open("attach")
        if handle.namespace != self.namespace:
            what = f"this handle is of namespace {handle.namespace!r}, and this store of {self.namespace!r}"
            raise InvalidInputError(f"attach: {what}")
        return handle.namespace, handle.id, handle.generation, handle.request

    def next_page(self, scan: Scan) -> Flow[list[int] | None]:
        """The next rooms of a walk; None after the last."""
        layout = yield from self.agreed("rooms")
        request = scan.request(layout, self.map_version)
        if request is None:
            return None
        reply = yield from self.ask("rooms", *request)
        return scan.page(reply, self.map_version)

    def read_on(self, operation: str, reading: Reading) -> Flow[bool]:
        """The next step of a walk over the feed; False after the last."""
        if reading.pause:
            yield Pause(reading.pause)
        layout = yield from self.agreed(operation)
        if layout.feed_length == "0":
            raise FeedOffError(operation, self.namespace)
        request = reading.request(layout)
        if request is None:
            return False
        reading.take((yield from self.ask(operation, *request)))
        return True

    def settings(self) -> Flow[Settings | None]:
        """The settings of the namespace, without writing them; None when nobody uses it."""
        self.check_open("settings")
        call = self._agreement.call()
        reply = yield from self.ask("settings", call.tag, ["HMGET", call.first_keys[0], *NAMES])
        return self._agreement.read(reply) if any(reply) else None

    def send(self, operation: str, calls: list[Call]) -> Flow[list[list[Any]]]:
        """Send calls that are no command's, one a shard at most, by their lanes. Their replies."""
        return (yield from self._board(operation, calls, self._give_up_at))

    def _board(
        self, command: Command[Any, Any] | str, calls: list[Call], give_up_at: float, done: int = 0
    ) -> Flow[list[Any]]:
        """Send calls, each by the lane of its shard, and wait until all have arrived. Their replies."""
        riders = [Rider(call, give_up_at) for call in calls]
        yield Board(riders)
        return self.arrived(command, riders, done)

    def arrived(self, command: Command[Any, Any] | str, riders: list[Rider], done: int = 0) -> list[list[Any]]:
        """The riders' replies, or what failed, as the caller gets to see it."""
        for rider in riders:
            if rider.reply is not None:
                done += len(rider.call.rooms)
        for rider in riders:
            if isinstance(rider.failure, Undelivered):
                raise rider.failure.named(self._name(command, done)) from rider.failure.__cause__
            if rider.failure is not None:
                raise copy.copy(rider.failure)  # the others get it too, each with a traceback of its own
        return [rider.reply for rider in riders if rider.reply is not None]

    def ask(self, operation: str, tag: str, words: list[str]) -> Flow[Any]:
        """Send a plain command that only reads, past all lanes."""
        try:
            return (yield from Trip(self, True, self._give_up_at).ask(tag, words))
        except Undelivered as failure:
            raise failure.named(self._name(operation)) from failure.__cause__

    @property
    def _give_up_at(self) -> float:
        """When to give up what begins now."""
        return time.monotonic() + self.deadline

    def _name(self, command: Command[Any, Any] | str, done: int = 0) -> str:
        """What errors call an operation: with its rooms, all of a few, the first of many."""
        if isinstance(command, str):
            return f"{command} of namespace {self.namespace!r}"
        rooms = command.rooms
        if len(rooms) == 1:
            return f"{command.operation} of room {rooms[0]}"
        shown = ", ".join(map(str, rooms[:3]))
        more = f" and {len(rooms) - 3:,} more" if len(rooms) > 3 else ""
        return f"{command.operation} of rooms {shown}{more}" + (f" ({done:,} done)" if done else "")

    def _agree(self, command: Command[Any, Any] | str, give_up_at: float | None = None) -> Flow[Layout]:
        """Check the settings before a call, within its deadline; callers that come at once share one look."""
        give_up_at = give_up_at or self._give_up_at
        ((layout,),) = yield from self._board(command, [self._agreement.call()], give_up_at)
        if not self._looked_at_eviction:
            self._looked_at_eviction = True
            try:
                memory = yield from Trip(self, True, give_up_at).ask(self.namespace, ["INFO", "memory"])
            except Undelivered:
                pass  # fakeredis has no INFO, and a careful operator may deny it
            else:
                eviction.warn(memory, self.namespace)
        return cast(Layout, layout)


def _missed(value: Any) -> bool:
    """Whether what a handle got is what it gets when its room is not there."""
    if isinstance(value, Update):
        return value.outcome is Outcome.STALE
    return not value and not isinstance(value, KVPoll)  # Failed is 0


def _waves(calls: list[Call]) -> Iterator[list[Call]]:
    """Calls that go at once: one a shard, then the next of each."""
    by_tag: dict[str, list[Call]] = {}
    for call in calls:
        by_tag.setdefault(call.tag, []).append(call)
    for wave in zip_longest(*by_tag.values()):
        yield [call for call in wave if call is not None]
