"""What became of every request and every room of a replay. Pure book-keeping."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field

from redis_kvpoll.model import KVPoll, Outcome
from redis_kvpoll.replay.fault_plan import SIDES, Side
from redis_kvpoll.replay.messages import Arrived, Ended, Opened, Result

# A request ended as the first of these that one of its sides says.
_WORST_FIRST: tuple[Result, ...] = ("crashed", "aborted", "timed out", "failed", "success")


@dataclass(slots=True)
class Part:
    """One side's part in a request."""

    opened_at: float | None = None
    born: Outcome | None = None
    ended_at: float | None = None
    result: Result | None = None


@dataclass(slots=True)
class Account:
    """One request."""

    room: int
    parts: dict[Side, Part] = field(default_factory=lambda: {side: Part() for side in SIDES})

    @property
    def is_over(self) -> bool:
        return all(part.result for part in self.parts.values())

    @property
    def result(self) -> Result | None:
        """How it ended; None while a side has not said."""
        if not self.is_over:
            return None
        results = {part.result for part in self.parts.values()}
        return next(result for result in _WORST_FIRST if result in results)


class Ledger:
    """Every request, with what happened in both tables."""

    def __init__(self) -> None:
        self._accounts: dict[int, Account] = {}
        self._by_room: defaultdict[int, list[int]] = defaultdict(list)
        self._arrived: list[Arrived] = []
        self.orphans: dict[Side, set[int]] = {side: set() for side in SIDES}
        """By table, the rooms that killed workers may have left behind."""
        self.in_flight: Counter[int] = Counter()
        """How many requests are under way in each room."""
        self.results: Counter[Result] = Counter()
        self.crashes = 0

    def dispatched(self, request: int, room: int) -> None:
        self._accounts[request] = Account(room)
        self._by_room[room].append(request)
        self.in_flight[room] += 1

    def opened(self, side: Side, message: Opened) -> None:
        part = self._accounts[message.request].parts[side]
        part.opened_at, part.born = message.at, message.outcome

    def ended(self, side: Side, message: Ended) -> bool:
        """Whether the whole request is over now."""
        account = self._accounts[message.request]
        part = account.parts[side]
        part.ended_at, part.result = message.at, message.result
        return self._count(account)

    def crashed(self, side: Side, requests: list[int], at: float) -> list[int]:
        """A worker was killed with these requests on it; those of them that are over now."""
        self.crashes += 1
        over = []
        for request in requests:
            account = self._accounts[request]
            part = account.parts[side]
            part.ended_at, part.result = at, "crashed"
            self.orphans[side].add(account.room)
            if self._count(account):
                over.append(request)
        return over

    def arrived(self, message: Arrived) -> None:
        self._arrived.append(message)

    def room(self, request: int) -> int:
        return self._accounts[request].room

    @property
    def late(self) -> dict[str, dict[str, int]]:
        """The planned late messages: status -> what the table answered -> how many."""
        counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for message in self._arrived:
            if message.planned:
                counts[message.status.name][message.outcome.name] += 1
        return {status: dict(answers) for status, answers in counts.items()}

    @property
    def lost(self) -> list[int]:
        """Requests that have no end."""
        return [request for request, account in self._accounts.items() if account.result is None]

    def revived(self) -> list[tuple[Side, int, KVPoll]]:
        """(table, room, by which status) of rooms that a message brought back after their clear."""
        return [
            (message.side, self.room(message.request), message.status)
            for message in self._arrived
            if message.outcome is Outcome.CREATED
        ]

    def cross_contaminated(self) -> dict[int, str]:
        """Requests that were born with, or flipped by, what another request wrote; and how."""
        found: dict[int, str] = {}
        for request, account in self._accounts.items():
            for side, part in account.parts.items():
                if part.born not in (None, Outcome.CREATED):
                    found[request] = f"born into another request's entry ({side})"
        for message in self._arrived:
            if message.outcome in (Outcome.ADVANCED, Outcome.FAILED):
                for request in self._by_room[self.room(message.request)]:
                    if request != message.request and self._was_open(request, message.side, message.at):
                        found.setdefault(request, f"flipped by a late {message.status.name} ({message.side})")
        return found

    def _was_open(self, request: int, side: Side, at: float) -> bool:
        part = self._accounts[request].parts[side]
        return part.opened_at is not None and part.opened_at <= at and (part.ended_at is None or at <= part.ended_at)

    def _count(self, account: Account) -> bool:
        result = account.result
        if result:
            self.results[result] += 1
            self.in_flight[account.room] -= 1
            if not self.in_flight[account.room]:
                del self.in_flight[account.room]
        return result is not None
