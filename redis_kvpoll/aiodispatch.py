"""Drives flows for asyncio. Calls made in the same turn of the event loop share a flight."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterable
from typing import Any, TypeVar

from redis.exceptions import RedisError

from redis_kvpoll import lanes
from redis_kvpoll.clients.aioroutes import Route
from redis_kvpoll.commands import Call, Command
from redis_kvpoll.delivery import Delivery
from redis_kvpoll.faults import NotSent
from redis_kvpoll.steps import Board, Flow, Rider, Send

T = TypeVar("T")
V = TypeVar("V")


class Lane(lanes.Lane):
    """A lane of one event loop. A task, its pilot, flies until nobody waits in it."""

    __slots__ = ("loop",)

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.get_running_loop()

    @property
    def has_pilot(self) -> bool:
        return self.pilot is not None and not self.pilot.done()


class Dispatcher:
    """The driver and the lanes of one asyncio store.

    A pilot begins in the turn after the first call, so all calls of that turn go along; and since it is no caller's
    own, a caller who is cancelled takes nobody down.
    """

    def __init__(self, delivery: Delivery, route: Route) -> None:
        self._delivery = delivery
        self._route = route
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lanes: defaultdict[str, Lane] = defaultdict(Lane)

    async def execute(self, command: Command[V, T]) -> T:
        """Carry a command out. A call alone in its turn is sent by its caller, which saves it a task."""
        delivery = self._delivery
        calls = delivery.calls(command)
        if len(calls) != 1:
            return await self.run(delivery.run(command, calls))
        call, now = calls[0], time.monotonic()
        rider = Rider(call, now + delivery.deadline)
        lane = self._lane(call.tag)
        first = lane.is_free and not lane.has_pilot
        lane.board(rider)
        if first and await self._is_alone(lane, rider):
            reply = await self._fly_alone(lane, command, call, now)
        else:
            await self._arrive([(lane, rider)])
            (reply,) = delivery.arrived(command, [rider])
        return command.finish(command.rooms, command.decode(command.operation, command.rooms, reply))

    async def run(self, flow: Flow[T]) -> T:
        """Do each step that a flow asks for, until it returns."""
        try:
            step = next(flow)
            while True:
                try:
                    result = await (self._carry(step.riders) if isinstance(step, Board) else self._route.take(step))
                except (NotSent, RedisError, OSError) as error:
                    step = flow.throw(error)
                except BaseException:
                    # Cancelled: the connection is gone, as if it had been lost. A rider only leaves its flight.
                    if not isinstance(step, Board):
                        self._delivery.unsettle()
                    raise
                else:
                    step = flow.send(result)
        except StopIteration as end:
            value: T = end.value
            return value

    async def _is_alone(self, lane: Lane, rider: Rider) -> bool:
        """Let the rest of this turn come along. Whether nobody has: then the lane is this caller's."""
        try:
            await asyncio.sleep(0)
        except BaseException:
            self._leave(lane, rider)
            raise
        if any(other is not rider and not other.arrived for other in lane.waiting):
            self._fly_on(lane)
            return False
        lane.waiting.clear()
        lane.flight = rider.call
        return True

    async def _fly_alone(self, lane: Lane, command: Command[V, T], call: Call, now: float) -> list[Any]:
        """The reply to a call that has its lane for itself."""
        delivery = self._delivery
        marks = delivery.marks()
        try:
            try:
                reply = await self._route.take(Send(call.tag, call.words(), None, not call.shape.repeatable))
            except (NotSent, RedisError, OSError) as error:
                return await self.run(delivery.recover(command, call, now, error))
            except BaseException:
                delivery.unsettle()  # cancelled: the connection is gone, as if it had been lost
                raise
            return delivery.read(call, marks, reply)
        finally:
            lane.flight = None
            self._fly_on(lane)

    async def _carry(self, riders: list[Rider]) -> None:
        """Return when all riders have arrived. Each is of another lane."""
        boarded = [(self._lane(rider.call.tag), rider) for rider in riders]
        for lane, rider in boarded:
            if lane.is_free:
                lane.board(rider)
                self._fly_on(lane)
            else:
                lane.board(rider)
        await self._arrive(boarded)

    async def _arrive(self, boarded: list[tuple[Lane, Rider]]) -> None:
        for lane, rider in boarded:
            rider.place = lane.loop.create_future()
        try:
            for _, rider in boarded:
                await rider.place
        except BaseException:
            for lane, rider in boarded:
                self._leave(lane, rider)
            raise

    def _lane(self, tag: str) -> Lane:
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            # Who flew and who waited in a former event loop has ended with it.
            self._loop, self._lanes = loop, defaultdict(Lane)
        return self._lanes[tag]

    def _fly_on(self, lane: Lane) -> None:
        """A pilot for those who wait. He begins in the next turn, whatever kind of tasks the event loop makes."""
        if lane.waiting and not lane.flight and not lane.has_pilot and not lane.loop.is_closed():
            lane.pilot = asyncio.Task(self._fly(lane), loop=lane.loop)
            # One that is cancelled before it begins is replaced.
            lane.pilot.add_done_callback(lambda pilot: self._fly_on(lane) if pilot.cancelled() else None)

    async def _fly(self, lane: Lane) -> None:
        while lane.waiting and not lane.flight:
            flight = lane.depart()
            try:
                await self.run(self._delivery.fly(flight))
            except asyncio.CancelledError:
                # Nobody waits for this flight any more; or everything is being cancelled, but who waits has not been.
                while lane.pilot.uncancel():
                    pass
                for rider in (*flight.riders, *lane.waiting):
                    if rider.place.cancelled():
                        lane.leave(rider)
                told = lane.abandon(flight)
            except Exception as error:  # a mistake of ours; nobody may wait for ever
                flight.fail(error, 0.0)
                told = lane.end(flight)
            else:
                told = lane.end(flight)
            for rider in told:
                if not rider.place.done():
                    rider.place.set_result(None)

    def _leave(self, lane: Lane, rider: Rider) -> None:
        """A caller was cancelled. A flight that nobody waits for any more ends."""
        if rider.place:
            rider.place.cancel()
        lane.leave(rider)
        if isinstance(lane.flight, lanes.Flight) and rider in lane.flight.riders and _abandoned(lane.flight.riders):
            lane.pilot.cancel()
        self._fly_on(lane)


def _abandoned(riders: Iterable[Rider]) -> bool:
    return all(rider.place.cancelled() for rider in riders)
