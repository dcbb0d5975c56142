"""Drives flows for asyncio. Calls made in the same turn of the event loop share a flight."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar, cast

from redis.exceptions import RedisError

from redis_kvpoll.aio.transport import Route
from redis_kvpoll.engine import batching
from redis_kvpoll.engine.classify import NotSent
from redis_kvpoll.engine.effects import Board, Flow, Rider, Send, Step
from redis_kvpoll.engine.executor import Delivery
from redis_kvpoll.protocol.feed import Change, FeedGap, Tail
from redis_kvpoll.protocol.scan import Scan
from redis_kvpoll.protocol.script_call import Call, Command

T = TypeVar("T")
V = TypeVar("V")


async def drive(flow: Flow[T], take: Callable[[Step], Awaitable[Any]]) -> T:
    """The same as in ``dispatch``, awaited."""
    try:
        step = next(flow)
        while True:
            try:
                result = await take(step)
            except (NotSent, RedisError, OSError) as error:
                step = flow.throw(error)
            else:
                step = flow.send(result)
    except StopIteration as end:
        value: T = end.value
        return value


class Lane(batching.Lane):
    """A lane of one event loop. A task, its pilot, flies until nobody waits in it."""

    __slots__ = ("loop",)

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.get_running_loop()

    @property
    def has_pilot(self) -> bool:
        return self.pilot is not None and not self.pilot.done()


class Place(asyncio.Future[Any]):
    """Where a caller waits for its rider. Cancelled, it leaves its place in line, or its flight."""

    lane: Lane
    rider: Rider
    leave: Callable[[Lane, Rider], None]
    __slots__ = ("lane", "leave", "rider")  # set by who makes it: an __init__ would cost more than all the rest of it

    def cancel(self, msg: Any | None = None) -> bool:
        if not super().cancel(msg):
            return False
        self.leave(self.lane, self.rider)
        return True


class Dispatcher:
    """The driver and the lanes of one asyncio store.

    A pilot begins in the turn after the first call, so all calls of that turn go along; and since it is no caller's
    own, a caller who is cancelled takes nobody down.
    """

    def __init__(self, delivery: Delivery, route: Route) -> None:
        self.delivery = delivery
        self.route = route
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lanes: defaultdict[str, Lane] = defaultdict(Lane)

    def execute(self, command: Command[V, T]) -> Awaitable[T]:
        """Carry a command out. One that goes along with others costs a future, and no coroutine of its own."""
        calls = self.delivery.calls(command)
        if len(calls) != 1:
            return self.run(self.delivery.run(command, calls))
        call, now = calls[0], time.monotonic()
        rider = Rider(call, now + self.delivery.deadline, command)
        lane = self._lane(call.tag)
        if lane.is_free and not lane.has_pilot:
            lane.board(rider)
            return self._lead(lane, rider, command, now)
        lane.board(rider)
        return self._place(lane, rider)

    async def run(self, flow: Flow[T]) -> T:
        """Do each step that a flow asks for, until it returns."""
        return await drive(flow, self._take)

    async def _take(self, step: Step) -> Any:
        if isinstance(step, Board):
            return await self._carry(step.riders)  # cancelled, its riders only leave their flights
        try:
            return await self.route.take(step)
        except (NotSent, RedisError, OSError):
            raise
        except BaseException:
            self.delivery.interrupted()  # cancelled: the connection is gone, as if it had been lost
            raise

    async def pages(self) -> AsyncIterator[list[int]]:
        """The rooms of the namespace, some at a time."""
        scan = Scan(self.route.clustered)
        while (page := await self.run(self.delivery.next_page(scan))) is not None:
            yield page

    async def news(self, tail: Tail) -> AsyncIterator[Change | FeedGap]:
        """What is new in the feed, for ever."""
        while True:
            while await self.run(self.delivery.read_on("tail", tail)):
                pass
            for change in tail.news():
                yield change

    async def _lead(self, lane: Lane, rider: Rider, command: Command[V, T], now: float) -> T:
        """Let the rest of this turn come along. A call that is still alone is sent by its caller, without a task."""
        # asyncio's own loops show whether anything else is due in this turn; of others it is assumed.
        if getattr(lane.loop, "_ready", True):
            try:
                await asyncio.sleep(0)
            except BaseException:
                self._leave(lane, rider)
                raise
        if len(lane.waiting) > 1:
            self._fly_on(lane)
            return cast("T", await self._place(lane, rider))
        lane.waiting.clear()
        lane.flight = rider.call
        reply = await self._fly_alone(lane, command, rider.call, now)
        return command.finish(command.rooms, command.decode(command.operation, command.rooms, reply))

    async def _fly_alone(self, lane: Lane, command: Command[V, T], call: Call, now: float) -> list[Any]:
        """The reply to a call that has its lane for itself."""
        delivery = self.delivery
        marks = delivery.marks()
        try:
            try:
                reply = await self.route.take(Send(call.tag, call.words(), None, not call.shape.repeatable))
            except (NotSent, RedisError, OSError) as error:
                return await self.run(delivery.recover(command, call, now, error))
            except BaseException:
                delivery.interrupted()  # cancelled: the connection is gone, as if it had been lost
                raise
            if delivery.has_lost(call, reply):
                return await self.run(delivery.recover(command, call, now, None))
            return delivery.read(call, marks, reply)
        finally:
            lane.flight = None
            self._fly_on(lane)

    async def _carry(self, riders: list[Rider]) -> None:
        """Return when all riders have arrived. Each is of another lane."""
        places = [self._place(self._lane(rider.call.tag), rider) for rider in riders]
        for place in places:
            was_free = place.lane.is_free
            place.lane.board(place.rider)
            if was_free:
                self._fly_on(place.lane)
        try:
            for place in places:
                await place
        except BaseException:
            for place in places:
                place.cancel()
            raise

    def _place(self, lane: Lane, rider: Rider) -> Place:
        rider.place = place = Place(loop=lane.loop)
        place.lane, place.rider, place.leave = lane, rider, self._leave
        return place

    def _lane(self, tag: str) -> Lane:
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            # Who flew and who waited in a former event loop has ended with it.
            self._loop, self._lanes = loop, defaultdict(Lane)
        return self._lanes[tag]

    def _fly_on(self, lane: Lane) -> None:
        """A pilot for those who wait. It begins in the next turn, whatever kind of tasks the event loop makes."""
        if lane.waiting and not lane.flight and not lane.has_pilot and not lane.loop.is_closed():
            lane.pilot = asyncio.Task(self._fly(lane), loop=lane.loop)
            # One that is cancelled before it begins is replaced.
            lane.pilot.add_done_callback(lambda pilot: self._fly_on(lane) if pilot.cancelled() else None)

    async def _fly(self, lane: Lane) -> None:
        while lane.waiting and not lane.flight:
            flight = lane.depart()
            try:
                await self.run(self.delivery.fly(flight))
            except asyncio.CancelledError:
                # Nobody waits for this flight any more; or all tasks are being cancelled. Who waits still, must not
                # wait for ever.
                while lane.pilot.uncancel():
                    pass
                told = lane.abandon(flight)
            except Exception as error:  # a mistake of ours
                flight.fail(error)
                told = lane.end(flight)
            else:
                told = lane.end(flight)
            # In the next turn: first the next flight departs, and the server works while the callers go on.
            lane.loop.call_soon(self._settle_all, told)

    def _settle_all(self, riders: list[Rider]) -> None:
        for rider in riders:
            if rider.place is not None and not rider.place.done():
                self._settle(rider)

    def _settle(self, rider: Rider) -> None:
        """Give a caller what it waits for."""
        command, place = rider.command, rider.place
        rider.place = None  # or the two would hold each other, and wait for the garbage collector
        if command is None:
            place.set_result(None)
            return
        try:
            (reply,) = self.delivery.arrived(command, [rider])
            value = command.finish(command.rooms, command.decode(command.operation, command.rooms, reply))
        except Exception as error:
            place.set_exception(error)
        else:
            place.set_result(value)

    def _leave(self, lane: Lane, rider: Rider) -> None:
        """A caller was cancelled. A flight that nobody waits for any more ends."""
        lane.leave(rider)
        rider.place = None
        flight = lane.flight
        if isinstance(flight, batching.Flight) and rider in flight.riders and flight.is_empty:
            lane.pilot.cancel()
        self._fly_on(lane)
