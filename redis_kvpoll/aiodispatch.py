"""Drives flows for asyncio. Calls made in the same turn of the event loop share a flight."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterable
from typing import Any, TypeVar

from redis.exceptions import RedisError

from redis_kvpoll.clients.aioroutes import Route
from redis_kvpoll.commands import Call, Command
from redis_kvpoll.delivery import Delivery
from redis_kvpoll.faults import NotSent
from redis_kvpoll.lanes import Lane
from redis_kvpoll.steps import Board, Flow, Rider, Send

T = TypeVar("T")
V = TypeVar("V")


class Dispatcher:
    """The driver and the lanes of one asyncio store.

    A task, the lane's pilot, flies until nobody waits in it. It begins in the turn after the first call, so all calls
    of that turn go along; and since it is no caller's own, a caller who is cancelled takes nobody down.
    """

    def __init__(self, delivery: Delivery, route: Route) -> None:
        self._delivery = delivery
        self._route = route
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lanes: defaultdict[str, Lane] = defaultdict(Lane)
        self._pilots: dict[str, asyncio.Task[None]] = {}

    async def execute(self, command: Command[V, T]) -> T:
        """Carry a command out. A call alone in its turn is sent by its caller, which saves it a task."""
        delivery = self._delivery
        calls = delivery.calls(command)
        if len(calls) != 1:
            return await self.run(delivery.run(command, calls))
        call, now = calls[0], time.monotonic()
        rider = Rider(call, now + delivery.deadline)
        lane = self._lane(call.tag)
        if lane.board(rider) and not self._has_pilot(call.tag) and await self._is_alone(lane, rider):
            reply = await self._fly_alone(lane, command, call, now)
        else:
            await self._arrive([rider])
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
        except asyncio.CancelledError:
            self._leave(rider)
            raise
        if len(lane.waiting) == 1:
            lane.depart_alone()
            return True
        self._fly_on(rider.call.tag)
        return False

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
            lane.end()
            self._fly_on(call.tag)

    async def _carry(self, riders: list[Rider]) -> None:
        """Return when all riders have arrived. Each is of another lane."""
        for rider in riders:
            if self._lane(rider.call.tag).board(rider):
                self._fly_on(rider.call.tag)
        await self._arrive(riders)

    async def _arrive(self, riders: list[Rider]) -> None:
        for rider in riders:
            rider.place = self._loop.create_future()  # type: ignore[union-attr]
        try:
            for rider in riders:
                await rider.place
        except asyncio.CancelledError:
            for rider in riders:
                rider.place.cancel()
                self._leave(rider)
            raise

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
                await self.run(self._delivery.fly(flight))
            except BaseException as error:
                task = asyncio.current_task()
                if task is None or not isinstance(error, asyncio.CancelledError) or not _abandoned(flight.riders):
                    # The event loop ends, or this is a mistake of ours: nobody may wait for ever.
                    for rider in (*flight.riders, *lane.waiting):
                        rider.place.cancel()
                    lane.waiting.clear()
                    lane.flight = None
                    raise
                task.uncancel()
                flight.riders.clear()
            for rider in lane.end():
                if rider.arrived and not rider.place.done():
                    rider.place.set_result(None)

    def _leave(self, rider: Rider) -> None:
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
