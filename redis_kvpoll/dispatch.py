"""Drives flows for blocking code. Threads share flights: whoever leads a lane sends for all that wait in it.

A thread that comes to a free lane flies at once, and pays two short locks for it. One that comes while another flies
waits in line; at that flight's end the first in line flies next and takes along who waits with it.
"""

from __future__ import annotations

import os
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from queue import SimpleQueue
from typing import Any, TypeVar
from weakref import WeakSet

from redis.exceptions import RedisError

from redis_kvpoll.clients.routes import Pending, Route
from redis_kvpoll.commands import Call, Change, Command, FeedGap, Scan, Tail
from redis_kvpoll.delivery import Delivery
from redis_kvpoll.faults import NotSent
from redis_kvpoll.lanes import Lane
from redis_kvpoll.steps import Board, Flow, Pause, Rider, Send, Step

T = TypeVar("T")
V = TypeVar("V")


class Dispatcher:
    """The driver and the lanes of one blocking store."""

    def __init__(self, delivery: Delivery, route: Route) -> None:
        self.delivery = delivery
        self.route = route
        self.forget_riders()
        _ALL.add(self)

    def forget_riders(self) -> None:
        """In the child of a fork: who flew and who waited were threads of the parent."""
        self._lock = threading.Lock()
        self._lanes: defaultdict[str, Lane] = defaultdict(Lane)

    def execute(self, command: Command[V, T]) -> T:
        """Carry a command out. A call alone in its lane is sent at once; only trouble takes a flow."""
        delivery = self.delivery
        calls = delivery.calls(command)
        if len(calls) != 1:
            return self.run(delivery.run(command, calls))
        call, now = calls[0], time.monotonic()
        with self._lock:
            lane = self._lanes[call.tag]
            if lane.is_free:
                lane.depart_alone()
                rider = None
            else:
                rider = Rider(call, now + delivery.deadline)
                rider.place = SimpleQueue()
                lane.board(rider)
        if rider is None:
            reply = self._fly_alone(command, call, now)
        else:
            self._arrive([rider], rider.place)
            (reply,) = delivery.arrived(command, [rider])
        return command.finish(command.rooms, command.decode(command.operation, command.rooms, reply))

    def _fly_alone(self, command: Command[V, T], call: Call, now: float) -> list[Any]:
        """The reply to a call that has its lane for itself."""
        delivery = self.delivery
        marks = delivery.marks()
        try:
            try:
                reply = self.route.take(Send(call.tag, call.words(), None, not call.shape.repeatable))
            except (NotSent, RedisError, OSError) as error:
                return self.run(delivery.recover(command, call, now, error))
            except BaseException:
                delivery.interrupted()  # interrupted: the connection is gone, as if it had been lost
                raise
            return delivery.read(call, marks, reply)
        finally:
            self._end(call.tag)

    def run(self, flow: Flow[T]) -> T:
        """Do each step that a flow asks for, until it returns."""
        try:
            step = next(flow)
            while True:
                try:
                    result = self._carry(step) if isinstance(step, Board) else self.route.take(step)
                except (NotSent, RedisError, OSError) as error:
                    step = flow.throw(error)
                except BaseException:
                    # Interrupted: the connection is gone, as if it had been lost.
                    self.delivery.interrupted()
                    raise
                else:
                    step = flow.send(result)
        except StopIteration as end:
            value: T = end.value
            return value

    def pages(self) -> Iterator[list[int]]:
        """The rooms of the namespace, some at a time."""
        scan = Scan(self.route.clustered)
        while (page := self.run(self.delivery.next_page(scan))) is not None:
            yield page

    def news(self, tail: Tail) -> Iterator[Change | FeedGap]:
        """What is new in the feed, for ever."""
        while True:
            while self.run(self.delivery.read_on("tail", tail)):
                pass
            yield from tail.news()

    def _carry(self, step: Board) -> list[Rider]:
        """Return when all riders have arrived. Each is of another lane."""
        riders = step.riders
        bell: SimpleQueue[None] = SimpleQueue()
        with self._lock:
            for rider in riders:
                rider.place = bell
                if self._lane(rider).board(rider):
                    bell.put(None)
        self._arrive(riders, bell)
        return riders

    def _arrive(self, riders: list[Rider], bell: SimpleQueue[None]) -> None:
        """Wait, and see to the flights that this thread is told to lead, until all riders have arrived."""
        try:
            while not all([rider.arrived for rider in riders]):  # noqa: C419 - a list is faster, and most have one
                bell.get()  # rung for each that arrives, or is to lead
                led = [rider for rider in riders if rider.leads]
                if led:
                    self._fly(led)
        except BaseException:
            self._leave(riders)
            raise

    def _lane(self, rider: Rider) -> Lane:
        return self._lanes[rider.call.tag]

    def _fly(self, led: list[Rider]) -> None:
        """The next flights of the lanes that these riders lead, all at once."""
        with self._lock:
            flights = {rider.call.tag: self._lanes[rider.call.tag].depart() for rider in led}
        flows = {tag: self.delivery.fly(flight) for tag, flight in flights.items()}
        if len(flows) == 1:
            ((tag, flow),) = flows.items()
            self.run(flow)
            self._end(tag)
        else:
            Formation(self.route, flows).fly(self._end)

    def _end(self, tag: str) -> None:
        with self._lock:
            told = self._lanes[tag].end()
        _tell(told)

    def _leave(self, riders: list[Rider]) -> None:
        """This thread was interrupted: others must not wait for it."""
        self.delivery.interrupted()
        told: list[Rider] = []
        with self._lock:
            for rider in riders:
                lane = self._lane(rider)
                if rider in lane.waiting:
                    told += lane.leave(rider)
                elif lane.flight and lane.flight.riders[:1] == [rider]:  # who leads is the first
                    lane.interrupt()
                    lane.flight.riders.remove(rider)
                    told += lane.end()
        _tell(told)


class Formation:
    """Flights that go at once: all is sent before the first reply is waited for."""

    def __init__(self, route: Route, flows: dict[str, Flow[None]]) -> None:
        self.route = route
        self._flows = flows
        self._steps: dict[str, Step] = {}

    def fly(self, ended: Any) -> None:
        """``ended`` is called with the tag of each flight when it is over."""
        for tag, flow in self._flows.items():
            self._steps[tag] = next(flow)
        while self._steps:
            for tag, answer in self._answers().items():
                flow = self._flows[tag]
                try:
                    self._steps[tag] = flow.throw(answer) if isinstance(answer, BaseException) else flow.send(answer)
                except StopIteration:
                    del self._steps[tag]
                    ended(tag)

    def _answers(self) -> dict[str, Any]:
        """Do the steps that can be done now: sends first; pauses only when nothing else is left to do."""
        answers: dict[str, Any] = {}
        pending: dict[str, Pending] = {}
        try:
            for tag, step in self._steps.items():
                if isinstance(step, Send):
                    try:
                        pending[tag] = self.route.begin(step)
                    except (NotSent, RedisError, OSError) as error:
                        answers[tag] = error
                elif not isinstance(step, Pause):
                    answers[tag] = self.route.take(step)
            while pending:
                tag = next(iter(pending))
                try:
                    answers[tag] = self.route.finish(*pending.pop(tag))
                except (NotSent, RedisError, OSError) as error:
                    answers[tag] = error
        finally:
            for sent in pending.values():
                self.route.give_up(*sent)
        return answers or self._pause()

    def _pause(self) -> dict[str, Any]:
        """Nothing but pauses is left: sleep through the shortest."""
        pauses = {tag: step for tag, step in self._steps.items() if isinstance(step, Pause)}
        shortest = min(step.seconds for step in pauses.values())
        time.sleep(shortest)
        for step in pauses.values():
            step.seconds -= shortest
        return {tag: None for tag, step in pauses.items() if step.seconds <= 0}


def _tell(riders: Iterable[Rider]) -> None:
    for rider in riders:
        rider.place.put(None)


_ALL: WeakSet[Dispatcher] = WeakSet()


def _after_fork() -> None:
    for dispatcher in _ALL:
        dispatcher.forget_riders()


os.register_at_fork(after_in_child=_after_fork)
