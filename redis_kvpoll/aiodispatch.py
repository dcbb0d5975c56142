"""Drives flows for asyncio. Calls made in the same turn of the event loop share a flight."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable
from typing import TypeVar

from redis.exceptions import RedisError

from redis_kvpoll.clients.aioroutes import Route
from redis_kvpoll.delivery import Delivery
from redis_kvpoll.faults import NotSent
from redis_kvpoll.lanes import Lane
from redis_kvpoll.steps import Board, Flow, Rider

T = TypeVar("T")


class Dispatcher:
    """The driver and the lanes of one asyncio store.

    A task flies a lane until nobody waits in it. It begins in the turn after the first call, so all calls of that
    turn go along; and since it is no caller's own, a caller who is cancelled takes nobody down.
    """

    def __init__(self, delivery: Delivery, route: Route) -> None:
        self._delivery = delivery
        self._route = route
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lanes: defaultdict[str, Lane] = defaultdict(Lane)
        self._pilots: dict[str, asyncio.Task[None]] = {}

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
                    # Cancelled: the connection is gone, as if it had been lost.
                    if not isinstance(step, Board):
                        self._delivery.unsettle()
                    raise
                else:
                    step = flow.send(result)
        except StopIteration as end:
            value: T = end.value
            return value

    async def _carry(self, riders: list[Rider]) -> None:
        """Return when all riders have arrived. Each is of another lane."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            # Who flew and who waited in a former event loop has ended with it.
            self._loop, self._lanes, self._pilots = loop, defaultdict(Lane), {}
        for rider in riders:
            rider.place = loop.create_future()
            tag = rider.call.tag
            lane = self._lanes[tag]
            if lane.board(rider):
                self._pilots[tag] = loop.create_task(self._fly(lane))
        try:
            for rider in riders:
                await rider.place
        except asyncio.CancelledError:
            for rider in riders:
                rider.place.cancel()
                self._leave(rider)
            raise

    async def _fly(self, lane: Lane) -> None:
        while lane.waiting:
            flight = lane.depart()
            try:
                await self.run(self._delivery.fly(flight))
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is None or not _abandoned(flight.riders):  # the event loop ends
                    _cancel([*flight.riders, *lane.waiting])
                    raise
                task.uncancel()
                flight.riders.clear()
            except BaseException as error:
                for rider in flight.riders:
                    rider.failure = error if isinstance(error, Exception) else None
                _cancel([*flight.riders, *lane.waiting])
                raise
            for rider in lane.end():
                if rider.arrived and not rider.place.done():
                    rider.place.set_result(None)

    def _leave(self, rider: Rider) -> None:
        """A caller was cancelled. A flight that nobody waits for any more ends."""
        tag = rider.call.tag
        lane = self._lanes[tag]
        if rider in lane.waiting:
            lane.leave(rider)
        elif lane.flight and rider in lane.flight.riders and _abandoned(lane.flight.riders):
            self._pilots[tag].cancel()


def _abandoned(riders: Iterable[Rider]) -> bool:
    return all(rider.place.cancelled() for rider in riders)


def _cancel(riders: Iterable[Rider]) -> None:
    for rider in riders:
        rider.place.cancel()
