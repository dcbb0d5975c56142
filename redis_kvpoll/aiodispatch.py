"""Drives flows for asyncio. Calls made in the same turn of the event loop share a flight."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, TypeVar, cast

from redis.exceptions import RedisError

from redis_kvpoll.clients.aioroutes import Route
from redis_kvpoll.commands import Call, Change, Command, FeedGap, Scan, Tail
from redis_kvpoll.delivery import Delivery
from redis_kvpoll.faults import NotSent
from redis_kvpoll.lanes import Lane
from redis_kvpoll.steps import Board, Flow, Rider, Send

T = TypeVar("T")
V = TypeVar("V")


class Place(asyncio.Future[Any]):
    """Where a caller waits for its rider. Cancelled, it leaves its place in line, or its flight."""

    rider: Rider
    leave: Callable[[Rider], None]
    __slots__ = ("leave", "rider")  # set by who makes it: an __init__ would cost more than all the rest of it

    def cancel(self, msg: Any | None = None) -> bool:
        if not super().cancel(msg):
            return False
        self.leave(self.rider)
        return True


class Dispatcher:
    """The driver and the lanes of one asyncio store.

    A task, the lane's pilot, flies until nobody waits in it. It begins in the turn after the first call, so all calls
    of that turn go along; and since it is no caller's own, a caller who is cancelled takes nobody down.
    """

    def __init__(self, delivery: Delivery, route: Route) -> None:
        self.delivery = delivery
        self.route = route
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lanes: defaultdict[str, Lane] = defaultdict(Lane)
        self._pilots: dict[str, asyncio.Task[None]] = {}

    def execute(self, command: Command[V, T]) -> Awaitable[T]:
        """Carry a command out. One that goes along with others costs a future, and no coroutine of its own."""
        calls = self.delivery.calls(command)
        if len(calls) != 1:
            return self.run(self.delivery.run(command, calls))
        call, now = calls[0], time.monotonic()
        rider = Rider(call, now + self.delivery.deadline, command)
        lane = self._lane(call.tag)
        if lane.board(rider) and not self._has_pilot(call.tag):
            return self._lead(lane, rider, command, now)
        return self._place(rider)

    async def run(self, flow: Flow[T]) -> T:
        """Do each step that a flow asks for, until it returns."""
        try:
            step = next(flow)
            while True:
                try:
                    result = await (self._carry(step.riders) if isinstance(step, Board) else self.route.take(step))
                except (NotSent, RedisError, OSError) as error:
                    step = flow.throw(error)
                except BaseException:
                    # Cancelled: the connection is gone, as if it had been lost. A rider only leaves its flight.
                    if not isinstance(step, Board):
                        self.delivery.interrupted()
                    raise
                else:
                    step = flow.send(result)
        except StopIteration as end:
            value: T = end.value
            return value

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
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            self.leave(rider)
            raise
        if len(lane.waiting) > 1:
            self._fly_on(rider.call.tag)
            return cast("T", await self._place(rider))
        lane.depart_alone()
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
            return delivery.read(call, marks, reply)
        finally:
            lane.end()
            self._fly_on(call.tag)

    async def _carry(self, riders: list[Rider]) -> None:
        """Return when all riders have arrived. Each is of another lane."""
        for rider in riders:
            lane = self._lane(rider.call.tag)
            self._place(rider)
            if lane.board(rider):
                self._fly_on(rider.call.tag)
        try:
            for rider in riders:
                await rider.place
        except asyncio.CancelledError:
            for rider in riders:
                rider.place.cancel()
            raise

    def _place(self, rider: Rider) -> Place:
        rider.place = place = Place(loop=self._loop)
        place.rider, place.leave = rider, self.leave
        return place

    def _lane(self, tag: str) -> Lane:
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            # Who flew and who waited in a former event loop has ended with it.
            self._loop, self._lanes, self._pilots = loop, defaultdict(Lane), {}
        return self._lanes[tag]

    def _fly_on(self, tag: str) -> None:
        """A pilot for those who wait."""
        lane = self._lane(tag)
        if lane.waiting and not self._has_pilot(tag):
            self._pilots[tag] = asyncio.create_task(self._fly(lane))

    def _has_pilot(self, tag: str) -> bool:
        pilot = self._pilots.get(tag)
        return pilot is not None and not pilot.done()

    async def _fly(self, lane: Lane) -> None:
        while lane.waiting:
            flight = lane.depart()
            try:
                await self.run(self.delivery.fly(flight))
            except BaseException as error:
                task = asyncio.current_task()
                if task is None or not isinstance(error, asyncio.CancelledError) or not _abandoned(flight.riders):
                    # The event loop ends, or this is a mistake of ours: nobody may wait for ever.
                    riders = [*flight.riders, *lane.waiting]
                    lane.waiting.clear()
                    lane.flight = None
                    for rider in riders:
                        rider.place.cancel()
                    raise
                task.uncancel()
                flight.riders.clear()
            # In the next turn: first the next flight departs, and the server works while the callers go on.
            asyncio.get_running_loop().call_soon(self._settle_all, lane.end())

    def _settle_all(self, riders: list[Rider]) -> None:
        for rider in riders:
            if rider.arrived and not rider.place.done():
                self._settle(rider)

    def _settle(self, rider: Rider) -> None:
        """Give a caller what it waits for."""
        command = rider.command
        if command is None:
            rider.place.set_result(None)
            return
        try:
            (reply,) = self.delivery.arrived(command, [rider])
            value = command.finish(command.rooms, command.decode(command.operation, command.rooms, reply))
        except Exception as error:
            rider.place.set_exception(error)
        else:
            rider.place.set_result(value)

    def leave(self, rider: Rider) -> None:
        """A caller was cancelled. A flight that nobody waits for any more ends."""
        tag = rider.call.tag
        lane = self._lane(tag)
        if rider in lane.waiting:
            if lane.leave(rider) and not lane.flight:
                self._fly_on(tag)
        elif lane.flight and rider in lane.flight.riders and _abandoned(lane.flight.riders):
            self._pilots[tag].cancel()


def _abandoned(riders: Iterable[Rider]) -> bool:
    return all(rider.place.cancelled() for rider in riders)
