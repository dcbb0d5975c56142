"""Drives flows for blocking code. Threads share flights: whoever leads a lane sends for all that wait in it.

A thread that comes to a free lane flies at once, and pays one short lock for it. One that comes while another flies
waits in line; at that flight's end one of those in line flies next and takes along who waits with it.

An interrupt (Ctrl-C, a time limit set by a signal) may come between any two steps of a thread, and nobody else must
pay for it. So what a thread has begun in a lane is ended in a ``finally`` that may begin again, and no
caller waits much longer than its deadline for another thread, whatever has become of that.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from threading import get_ident
from typing import Any, TypeVar

from redis.exceptions import RedisError

from redis_kvpoll._fork import forkable
from redis_kvpoll.engine.batching import Flight, Lane
from redis_kvpoll.engine.classify import NotSent
from redis_kvpoll.engine.effects import Board, Flow, Rider, Send, Step
from redis_kvpoll.engine.executor import Delivery
from redis_kvpoll.engine.retry import Undelivered
from redis_kvpoll.errors import OutcomeUnknownError, StoreUnavailableError
from redis_kvpoll.protocol.feed import Change, FeedGap, Tail
from redis_kvpoll.protocol.scan import Scan
from redis_kvpoll.protocol.script_call import Call, Command
from redis_kvpoll.sync.fan_out import Formation
from redis_kvpoll.sync.transport import Route

T = TypeVar("T")
V = TypeVar("V")

OVERDUE = 1.0
"""Seconds after its deadline that a caller still waits for who flies it: usually that one knows better."""


def drive(flow: Flow[T], take: Callable[[Step], Any]) -> T:
    """``take`` each step that a flow asks for, until it returns. What goes wrong on the way, the flow judges."""
    try:
        step = next(flow)
        while True:
            try:
                result = take(step)
            except (NotSent, RedisError, OSError) as error:
                step = flow.throw(error)
            else:
                step = flow.send(result)
    except StopIteration as end:
        value: T = end.value
        return value


class Caller:
    """A thread that waits for its riders."""

    __slots__ = ("bell", "busy")

    def __init__(self) -> None:
        self.bell: SimpleQueue[None] = SimpleQueue()
        """Rung for each rider that arrives, or is to lead."""
        self.busy = False
        """Whether it flies, and has riders in further lanes, which it cannot lead meanwhile."""


class Dispatcher:
    """The driver and the lanes of one blocking store."""

    def __init__(self, delivery: Delivery, route: Route) -> None:
        self.delivery = delivery
        self.route = route
        self.after_fork()
        forkable.add(self)

    def after_fork(self) -> None:
        """Begin with free lanes. In the child of a fork, who flew and who waited were threads of the parent."""
        # Reentrant, for signal handlers and finalizers that use the store.
        self._lock = threading.RLock()
        self._lanes: defaultdict[str, Lane] = defaultdict(Lane)
        self._aboard: set[int] = set()

    def execute(self, command: Command[V, T]) -> T:
        """Carry a command out. A call alone in its lane is sent at once; only trouble takes a flow."""
        delivery = self.delivery
        calls = delivery.calls(command)
        if len(calls) != 1:
            return self.run(delivery.run(command, calls))
        call, now, own = calls[0], time.monotonic(), None
        try:
            with self._lock:
                lane = self._lanes[call.tag]
                if lane.is_free:
                    lane.pilot = get_ident()
                    own = lane.flight = call  # no interrupt comes between the two: what begins here is ended below
            if own is None:
                rider = Rider(call, now + delivery.deadline)
                self._carry(Board([rider]))
                (reply,) = delivery.arrived(command, [rider])
            else:
                reply = self._fly_alone(command, call, now)
        finally:
            if own is not None:
                # Without the lock: who boards looks at the flight once more thereafter.
                if lane.flight is own:
                    lane.flight = None
                if lane.waiting:
                    self._hand_on(lane)
        return command.finish(command.rooms, command.decode(command.operation, command.rooms, reply))

    def _fly_alone(self, command: Command[V, T], call: Call, now: float) -> list[Any]:
        """The reply to a call that has its lane for itself."""
        delivery = self.delivery
        marks = delivery.marks()
        try:
            reply = self.route.take(Send(call.tag, call.words(), None, not call.shape.repeatable))
        except (NotSent, RedisError, OSError) as error:
            return self.run(delivery.recover(command, call, now, error))
        except BaseException:
            delivery.interrupted()  # interrupted: the connection is gone, as if it had been lost
            raise
        if delivery.has_lost(call, reply):
            return self.run(delivery.recover(command, call, now, None))
        return delivery.read(call, marks, reply)

    def run(self, flow: Flow[T]) -> T:
        """Do each step that a flow asks for, until it returns."""
        return drive(flow, self._take)

    def _take(self, step: Step) -> Any:
        try:
            return self._carry(step) if isinstance(step, Board) else self.route.take(step)
        except (NotSent, RedisError, OSError):
            raise
        except BaseException:
            self.delivery.interrupted()  # the connection is gone, as if it had been lost
            raise

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
        me = get_ident()
        if me in self._aboard or self._flies(me, riders):
            # A signal handler or a finalizer, in the midst of a call of this thread, which must not wait for itself.
            for rider in riders:
                self.run(self.delivery.fly(Flight([rider])))
            return riders
        caller = Caller()
        try:
            self._aboard.add(me)
            with self._lock:
                for rider in riders:
                    rider.place = caller
                    lane = self._lane(rider)
                    lane.board(rider)
                    if lane.leader is None:
                        _ring(lane.lead())
            self._arrive(riders, caller)
        except BaseException:
            self._leave(riders)
            raise
        finally:
            self._aboard.discard(me)
        return riders

    def _arrive(self, riders: list[Rider], caller: Caller) -> None:
        """Wait, and see to the flights that this thread is told to lead, until all riders have arrived."""
        until = riders[0].give_up_at + OVERDUE  # those of one call have the same
        while True:
            try:
                caller.bell.get(timeout=max(0.0, until - time.monotonic()))
            except Empty:
                self._despair(riders)
                return
            for rider in riders:
                if not rider.arrived:
                    break
            else:
                return
            self._fly(riders, caller)

    def _flies(self, thread: int, riders: list[Rider]) -> bool:
        """Whether a thread is just flying one of these riders' lanes."""
        for rider in riders:
            lane = self._lane(rider)
            if lane.flight is not None and lane.pilot == thread:
                return True
        return False

    def _lane(self, rider: Rider) -> Lane:
        return self._lanes[rider.call.tag]

    def _fly(self, riders: list[Rider], caller: Caller) -> None:
        """The next flights of the lanes that these riders lead, all at once."""
        flights: list[tuple[Lane, Flight]] = []
        with self._lock:
            for rider in riders:
                lane = self._lane(rider)
                if lane.leader is rider:
                    caller.busy = len(riders) > 1
                    lane.pilot = get_ident()
                    flights.append((lane, lane.depart()))
        if len(flights) == 1:
            ((lane, flight),) = flights
            self.run(self.delivery.fly(flight))
            self._end(lane, flight)
        elif flights:
            flows = [self.delivery.fly(flight) for _, flight in flights]
            Formation(self.route, flows, self.delivery.deadline, lambda number: self._end(*flights[number])).fly()
        if caller.busy:
            caller.busy = False
            for rider in riders:
                if not rider.arrived:
                    self._hand_on(self._lane(rider))

    def _end(self, lane: Lane, flight: Flight) -> None:
        with self._lock:
            told = lane.end(flight)
        for rider in told:
            rider.place.bell.put(None)
        self._hand_on(lane)

    def _hand_on(self, lane: Lane) -> None:
        """Tell who leads to fly, if nobody does."""
        try:
            with self._lock:
                leader = lane.lead()
            _ring(leader)
        except BaseException:
            self._hand_on(lane)
            raise

    def _leave(self, riders: list[Rider]) -> None:
        """This thread was interrupted: others must not wait for it."""
        self.delivery.interrupted()
        told: list[Rider] = []
        with self._lock:
            for rider in riders:
                lane = self._lane(rider)
                lane.leave(rider)
                if lane.flight and lane.pilot == get_ident():
                    told += lane.abandon(lane.flight)
                _ring(lane.lead())
        for rider in told:
            rider.place.bell.put(None)

    def _despair(self, riders: list[Rider]) -> None:
        """Nothing has been heard for too long: who flies hangs, or was interrupted where no care could be taken."""
        told: list[Rider] = []
        with self._lock:
            for rider in riders:
                lane = self._lane(rider)
                if rider.arrived:
                    continue
                stands = rider in lane.waiting
                kind = StoreUnavailableError if stands or rider.call.shape.repeatable else OutcomeUnknownError
                rider.failure = Undelivered(
                    kind, f"no answer within {self.delivery.deadline:g} s: another thread hangs"
                )
                flight = lane.flight
                if flight and (flight is rider.behind or (isinstance(flight, Flight) and rider in flight.riders)):
                    told += lane.abandon(flight)
                if not lane.flight:
                    lane.leader = None  # has not come in all this time
                lane.leave(rider)
                _ring(lane.lead())
        for rider in told:
            rider.place.bell.put(None)


def _ring(leader: Rider | None) -> None:
    if leader is not None:
        leader.place.bell.put(None)
