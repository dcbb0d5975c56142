"""What a store decides: its agreement with the namespace, and which script calls carry a command out. No I/O."""

from __future__ import annotations

import copy
import logging
import time
import warnings
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Any, Protocol, TypeAlias, TypedDict, TypeVar

from redis_kvpoll.checks import Mode, Policy
from redis_kvpoll.commands import Agreement, Call, Command, Layout, Reading, Scan, Settings
from redis_kvpoll.commands.settings import NAMES, RENEW_SECONDS
from redis_kvpoll.errors import EvictionWarning, FeedOffError, KVPollError, StoreClosedError
from redis_kvpoll.lanes import Flight
from redis_kvpoll.steps import Board, Flow, Pause, Rider
from redis_kvpoll.trip import Trip, Undelivered

T = TypeVar("T")
V = TypeVar("V")

logger = logging.getLogger("redis_kvpoll")

# Seconds; StatusStore says why.
DEFAULT_TTL = 900.0
DEFAULT_TERMINAL_TTL = 300.0
DEFAULT_DEADLINE = 5.0


class StoreOptions(TypedDict, total=False):
    """The options of both stores, as ``from_url`` takes them."""

    namespace: str
    ttl: float
    terminal_ttl: float
    deadline: float
    policy: Policy | None
    mode: Mode | None
    shards: int | None
    feed: int | None


class Watcher(Protocol):
    """A local copy, as far as writers need to know of it."""

    def departing(self) -> Any:
        """A mark that is another once the copy has begun anew."""

    def wrote(self, mark: Any, call: Call, feed_id: bytes, reply: Sequence[Any]) -> None:
        """What this process wrote, before its caller knows; ``reply`` is true at ``feed_id``."""

    def suspect(self) -> None:
        """A connection was lost, and the server may be another."""


Marks: TypeAlias = Sequence[tuple[Watcher, Any]]


class Delivery:
    """The part that the blocking and the asyncio store have in common.

    ``ttl``, ``terminal_ttl`` and ``deadline`` are seconds and have been checked.
    """

    def __init__(self, agreement: Agreement, ttl: float, terminal_ttl: float, deadline: float) -> None:
        self.deadline = deadline
        self._agreement = agreement
        self._times = (str(round(ttl * 1000)), str(round(terminal_ttl * 1000)))
        self._layout: Layout | None = None
        self._settled_until = 0.0
        self._losses = 0
        self.map_version = 0
        self._looked_at_eviction = False
        self.closed = False
        self.watchers: tuple[Watcher, ...] = ()

    @property
    def agreement(self) -> Agreement:
        """What this store holds to; what it adopted, too."""
        return self._agreement

    def watch(self, watcher: Watcher) -> None:
        """Let a watcher hear of the calls that begin from now on."""
        self.watchers = (*self.watchers, watcher)

    def unwatch(self, watcher: Watcher) -> None:
        self.watchers = tuple(other for other in self.watchers if other is not watcher)

    def agreed(self, operation: str) -> Flow[Layout]:
        """The layout of the namespace, for an operation that is more than one command."""
        self.check_open(operation)
        return self._agreed or (yield from self._agree(operation))

    @property
    def namespace(self) -> str:
        return self._agreement.namespace

    def calls(self, command: Command[V, T]) -> list[Call]:
        """The script calls that carry a command out; none while the settings must be looked at first."""
        self.check_open(command.operation)
        layout = self._agreed
        return command.calls(layout) if layout and command.rooms else []

    def run(self, command: Command[V, T], calls: list[Call]) -> Flow[T]:
        """Carry a command out, by these calls if there are any."""
        rooms = command.rooms
        if not rooms:
            return command.finish(rooms, [])
        if not calls:
            calls = command.calls((yield from self._agree(command)))
        if len(calls) == 1:
            replies = yield from self._board(command, calls)
            return command.finish(rooms, command.decode(command.operation, rooms, replies[0]))
        values: list[Any] = [None] * len(rooms)
        done = 0
        for wave in _waves(calls):
            replies = yield from self._board(command, wave, done)
            for call, reply in zip(wave, replies, strict=True):
                done += len(call.rooms)
                some = command.decode(command.operation, call.rooms, reply)
                for position, value in zip(call.positions, some, strict=True):
                    values[position] = value
        return command.finish(rooms, values)

    def fly(self, flight: Flight, met: Exception | None = None) -> Flow[None]:
        """Carry a flight's call to its reply, and tell its riders; ``met`` as in Trip.carry."""
        call, marks = flight.call, self.marks()
        trip = Trip(self, call.shape.repeatable, flight.give_up_at)
        try:
            reply = yield from trip.carry(call, preliminary=not call.rooms, met=met)
        except (Undelivered, KVPollError) as failure:
            flight.fail(failure, time.monotonic())
        else:
            flight.land(self.read(call, marks, reply))

    def recover(self, command: Command[V, T], call: Call, sent_at: float, met: Exception) -> Flow[list[Any]]:
        """The reply to a command's only call, which was sent once, at ``sent_at``, and met an error."""
        rider = Rider(call, sent_at + self.deadline)
        yield from self.fly(Flight([rider]), met)
        return self.arrived(command, [rider])[0]

    def marks(self) -> Marks:
        """What watchers must be told with what is now sent."""
        return [(watcher, watcher.departing()) for watcher in self.watchers] if self.watchers else ()

    def read(self, call: Call, marks: Marks, reply: list[Any]) -> list[Any]:
        """The words of the rooms in a reply; watchers get to know what was written."""
        if call.shape.feed:
            feed_id = reply.pop(0)
            if marks and feed_id is not None and call.shape.leaves:
                for watcher, mark in marks:
                    watcher.wrote(mark, call, feed_id, reply)
        return reply

    def next_page(self, scan: Scan) -> Flow[list[int] | None]:
        """The next rooms of a walk; None after the last."""
        self.check_open("rooms")
        layout = self._agreed or (yield from self._agree("rooms"))
        request = scan.request(layout, self.map_version)
        if request is None:
            return None
        reply = yield from self._ask("rooms", *request)
        return scan.page(reply, self.map_version)

    def read_on(self, operation: str, reading: Reading) -> Flow[bool]:
        """The next step of a walk over the feed; False after the last."""
        if reading.pause:
            yield Pause(reading.pause)
        self.check_open(operation)
        layout = self._agreed or (yield from self._agree(operation))
        if layout.feed_length == "0":
            raise FeedOffError(operation, self.namespace)
        request = reading.request(layout)
        if request is None:
            return False
        reading.take((yield from self._ask(operation, *request)))
        return True

    def settings(self) -> Flow[Settings | None]:
        """The settings of the namespace, without writing them; None when nobody uses it."""
        self.check_open("settings")
        call = self._agreement.call()
        reply = yield from self._ask("settings", call.tag, ["HMGET", call.first_keys[0], *NAMES])
        return self._agreement.read(reply) if any(reply) else None

    def _board(self, command: Command[Any, Any] | str, calls: list[Call], done: int = 0) -> Flow[list[Any]]:
        """Send calls, each by the lane of its shard, and wait until all have arrived. Their replies."""
        give_up_at = time.monotonic() + self.deadline
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

    def _ask(self, operation: str, tag: str, words: list[str]) -> Flow[Any]:
        """Send a plain command that only reads, past all lanes."""
        try:
            return (yield from self._trip().ask(tag, words))
        except Undelivered as failure:
            raise failure.named(self._name(operation)) from failure.__cause__

    def _trip(self) -> Trip:
        return Trip(self, repeatable=True, give_up_at=time.monotonic() + self.deadline)

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

    def check_open(self, operation: str) -> None:
        """Raise StoreClosedError if the store was closed."""
        if self.closed:
            raise StoreClosedError(f"{operation}: this store was closed; make another")

    @property
    def settled(self) -> bool:
        return time.monotonic() < self._settled_until

    def unsettle(self) -> None:
        """A connection was lost, and the server may be another: check the settings before the next call."""
        self.interrupted()
        for watcher in self.watchers:
            watcher.suspect()

    def interrupted(self) -> None:
        """A connection was given up in the midst of a call, by us: the next one is new, and is checked."""
        self._losses += 1
        self.map_version += 1
        self._settled_until = 0.0

    def settle(self, trip: Trip) -> Flow[Layout]:
        """Check the settings of the namespace, and renew them."""
        losses = self._losses
        return self._adopt((yield from trip.carry(self._agreement.call(), preliminary=True)), losses)

    def _adopt(self, reply: list[Any], losses: int) -> Layout:
        settings = self._agreement.read(reply)
        self._agreement = self._agreement.adopt(settings)
        self._layout = self._agreement.layout(settings, *self._times)
        if losses == self._losses:
            self._settled_until = time.monotonic() + RENEW_SECONDS
        return self._layout

    @property
    def _agreed(self) -> Layout | None:
        """What was agreed on; None before the first call, and when it is time to look again."""
        return self._layout if self.settled else None

    def _agree(self, command: Command[Any, Any] | str) -> Flow[Layout]:
        """Check the settings before a call; callers that come at once share one look."""
        losses = self._losses
        (reply,) = yield from self._board(command, [self._agreement.call()])
        layout = self._agreed or self._adopt(reply, losses)
        if not self._looked_at_eviction:
            self._looked_at_eviction = True
            yield from self._look_at_eviction()
        return layout

    def _look_at_eviction(self) -> Flow[None]:
        """Warn, once a store, of a server that may drop live rooms."""
        try:
            memory = yield from self._trip().ask(self.namespace, ["INFO", "memory"])
        except Undelivered:
            return  # fakeredis has no INFO, and a careful operator may deny it
        fields = dict(line.split(":", 1) for line in memory.decode().splitlines() if ":" in line)
        policy = fields.get("maxmemory_policy", "noeviction")
        if fields.get("maxmemory", "0") != "0" and policy != "noeviction":
            what = (
                f"the server's maxmemory-policy is {policy}: short of memory, it may drop live rooms of namespace "
                f"{self.namespace!r}; set it to noeviction"
            )
            try:
                warnings.warn(what, EvictionWarning, stacklevel=1)
            except EvictionWarning:  # warnings are errors here; but the caller's call has yet to be carried out
                logger.warning(what)


def _waves(calls: list[Call]) -> Iterator[list[Call]]:
    """Calls that go at once: one a shard, then the next of each."""
    by_tag: dict[str, list[Call]] = {}
    for call in calls:
        by_tag.setdefault(call.tag, []).append(call)
    for wave in zip_longest(*by_tag.values()):
        yield [call for call in wave if call is not None]
