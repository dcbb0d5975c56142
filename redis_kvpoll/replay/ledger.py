"""The results of all requests and rooms of a replay. Pure."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from redis_kvpoll.model import KVPoll, Outcome
from redis_kvpoll.replay import plain_dict
from redis_kvpoll.replay.fault_plan import SIDES, Side
from redis_kvpoll.replay.messages import Arrived, Ended, Opened, Result, Write
from redis_kvpoll.replay.plain_dict import DictFigures, Kind, Message

# The result of a request is the first of these that one of its sides reports.
_WORST_FIRST: tuple[Result, ...] = ("crashed", "aborted", "timed out", "failed", "success")


@dataclass(slots=True)
class Part:
    """One side's part in a request."""

    opened_at: float | None = None
    open_outcome: Outcome | None = None
    ended_at: float | None = None
    result: Result | None = None


@dataclass(slots=True)
class RequestRecord:
    """One request."""

    room: int
    parts: dict[Side, Part] = field(default_factory=lambda: {side: Part() for side in SIDES})

    @property
    def result(self) -> Result | None:
        """Its result; None until both sides have ended."""
        results = {part.result for part in self.parts.values()}
        if None in results:
            return None
        return next(result for result in _WORST_FIRST if result in results)


class Ledger:
    """All requests, with their events in both tables."""

    def __init__(self) -> None:
        self._requests: dict[int, RequestRecord] = {}
        self._by_room: defaultdict[int, list[int]] = defaultdict(list)
        self._arrived: list[Arrived] = []
        self._written: list[Write] = []
        self.orphans: dict[Side, set[int]] = {side: set() for side in SIDES}
        """By table, the rooms that killed workers may have left behind."""
        self.running: Counter[int] = Counter()
        """The number of running requests in each room."""
        self.results: Counter[Result] = Counter()
        self.crashes = 0

    def dispatched(self, request: int, room: int) -> None:
        self._requests[request] = RequestRecord(room)
        self._by_room[room].append(request)
        self.running[room] += 1

    def opened(self, side: Side, message: Opened) -> None:
        part = self._requests[message.request].parts[side]
        part.opened_at, part.open_outcome = message.at, message.outcome

    def ended(self, side: Side, message: Ended) -> bool:
        """Record one side's end; returns whether the request has ended on both."""
        record = self._requests[message.request]
        part = record.parts[side]
        part.ended_at, part.result = message.at, message.result
        return self._count(record)

    def crashed(self, side: Side, requests: list[int], at: float) -> list[int]:
        """Record the kill of a worker with these requests; returns those that have now ended on both sides."""
        self.crashes += 1
        ended = []
        for request in requests:
            record = self._requests[request]
            part = record.parts[side]
            part.ended_at, part.result = at, "crashed"
            self.orphans[side].add(record.room)
            if self._count(record):
                ended.append(request)
        return ended

    def arrived(self, message: Arrived) -> None:
        self._arrived.append(message)

    def written(self, writes: list[Write]) -> None:
        self._written += writes

    def result(self, request: int) -> Result | None:
        return self._requests[request].result

    @property
    def timed_out(self) -> set[int]:
        return {request for request, record in self._requests.items() if record.result == "timed out"}

    def room(self, request: int) -> int:
        return self._requests[request].room

    @property
    def late(self) -> dict[str, dict[str, int]]:
        """The planned late messages: status -> outcome -> how many."""
        counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for message in self._arrived:
            if message.planned:
                counts[message.status.name][message.outcome.name] += 1
        return {status: dict(outcomes) for status, outcomes in counts.items()}

    @property
    def unfinished(self) -> list[int]:
        """Requests without a result."""
        return [request for request, record in self._requests.items() if record.result is None]

    def recreated(self) -> list[tuple[Side, int, KVPoll]]:
        """(table, room, status) of late messages that created a room again after its clear."""
        return [
            (message.side, self.room(message.request), message.status)
            for message in self._arrived
            if message.outcome is Outcome.CREATED
        ]

    def cross_contaminated(self) -> dict[int, str]:
        """Requests that another request's write affected, and how."""
        found: dict[int, str] = {}
        for request, record in self._requests.items():
            for side, part in record.parts.items():
                if part.open_outcome not in (None, Outcome.CREATED):
                    found[request] = f"found another request's room ({side})"
        for message in self._arrived:
            if message.outcome in (Outcome.ADVANCED, Outcome.FAILED):
                for request in self._by_room[self.room(message.request)]:
                    if request != message.request and self._was_open(request, message.side, message.at):
                        found.setdefault(request, f"changed by a late {message.status.name} ({message.side})")
        return found

    def example_room(self) -> int | None:
        """A room of decode's table with much to see in its history: of a killed worker, if there is one."""
        decode = [(record.room, record.parts["decode"]) for record in self._requests.values()]
        rooms = [room for room, part in decode if part.opened_at is not None]
        return next((room for room in rooms if room in self.orphans["decode"]), rooms[-1] if rooms else None)

    def plain_dict(self) -> DictFigures:
        """What the messages of this replay would have done to a plain dict a side."""
        sides = [plain_dict.figures(self._messages(side)) for side in SIDES]
        return DictFigures(sum(side.came_back for side in sides), frozenset().union(*(side.hit for side in sides)))

    def _messages(self, side: Side) -> Iterator[Message]:
        """All messages to one table; those of a request that did not open its room there are left out."""
        for request, record in self._requests.items():
            part = record.parts[side]
            if part.opened_at is not None:
                yield Message(part.opened_at, Kind.OPEN, request, record.room, KVPoll.Bootstrapping)
                if part.ended_at is not None and part.result != "crashed":
                    yield Message(part.ended_at, Kind.CLEAR, request, record.room, KVPoll.Bootstrapping)
        for write in [write for write in self._written if write.side == side]:
            yield from self._message(write, write.outcome is Outcome.STALE)
        for late in [late for late in self._arrived if late.side == side]:
            yield from self._message(Write(late.request, side, late.status, late.outcome, late.at), is_late=True)

    def _message(self, write: Write, is_late: bool) -> Iterator[Message]:
        record = self._requests[write.request]
        part = record.parts[write.side]
        opened, ended = part.opened_at, part.ended_at if part.result != "crashed" else None
        if opened is None or (is_late and ended is None):
            return
        at = max(write.at, ended or opened) if is_late else min(max(write.at, opened), ended or math.inf)
        yield Message(at, Kind.LATE if is_late else Kind.WRITE, write.request, record.room, write.status)

    def _was_open(self, request: int, side: Side, at: float) -> bool:
        part = self._requests[request].parts[side]
        return part.opened_at is not None and part.opened_at <= at and (part.ended_at is None or at <= part.ended_at)

    def _count(self, record: RequestRecord) -> bool:
        result = record.result
        if result:
            self.results[result] += 1
            self.running[record.room] -= 1
            if not self.running[record.room]:
                del self.running[record.room]
        return result is not None
