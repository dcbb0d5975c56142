"""How a command reaches the server: agreeing on settings, scripts the server forgot, retries and the deadline.

Nothing here does I/O. A Flow is a generator that yields the next step to take (Send, Pause, Reroute), is given
that step's reply or exception, and returns the result. The sync and the asyncio store each drive the same flows
with a few lines, so every decision about failures is made once, here.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypedDict, TypeVar

from redis.backoff import EqualJitterBackoff
from redis.exceptions import AskError, MovedError, NoScriptError, RedisError

from redis_kvpoll import faults
from redis_kvpoll.checks import Mode, Policy
from redis_kvpoll.commands import Agreement, Call, Command, Scan, Settings, Table
from redis_kvpoll.commands.settings import NAMES, RENEW_SECONDS
from redis_kvpoll.errors import (
    EvictionWarning,
    KVPollError,
    OutcomeUnknownError,
    ServerRefusedError,
    StoreUnavailableError,
    printable,
)
from redis_kvpoll.faults import Fault, NotSent
from redis_kvpoll.scripts import Script

T = TypeVar("T")
V = TypeVar("V")


@dataclass(slots=True)
class Send:
    """Send ``words`` to the server that holds the shard of ``tag``, and give back its reply."""

    tag: str
    words: Sequence[str]
    timeout: float | None = None
    """Seconds; None is the connection's own, which is never above the deadline."""
    fresh: bool = False
    """Look first whether an idle connection is still open: what may not be repeated must not die of an old one."""
    asking: tuple[str, int] | None = None
    """The node that a cluster's ASK named, for this call only."""


@dataclass(slots=True)
class Pause:
    """Wait."""

    seconds: float


@dataclass(slots=True)
class Reroute:
    """Learn from a cluster's MOVED where a slot now lives. The answer is whether this way knows of clusters."""

    redirect: AskError
    """ASK, or MOVED, which redis-py makes a kind of it."""


Step: TypeAlias = Send | Pause | Reroute
Flow: TypeAlias = Generator[Step, Any, T]

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


# Seconds. The first pause is about 10 ms, as long as a server takes to accept again after a restart on the same
# host; a quarter of a second at most, so that 1,000 waiting clients do not hammer a server that comes back.
_BACKOFF = EqualJitterBackoff(cap=0.25, base=0.01)
_FREE_REDIRECTS = 4


class Delivery:
    """The deciding part of a store: its agreement with the namespace, and how calls are carried through.

    ``ttl``, ``terminal_ttl`` and ``deadline`` are seconds and have been checked.
    """

    def __init__(self, agreement: Agreement, ttl: float, terminal_ttl: float, deadline: float) -> None:
        self.deadline = deadline
        self._agreement = agreement
        self._times = (str(round(ttl * 1000)), str(round(terminal_ttl * 1000)))
        self._table: Table | None = None
        self._settled_until = 0.0
        self._losses = 0
        self._looked_at_eviction = False

    @property
    def namespace(self) -> str:
        return self._agreement.namespace

    def run(self, command: Command[V, T]) -> Flow[T]:
        """Carry a command out."""
        rooms = command.rooms
        if not rooms:
            return command.finish(rooms, [])
        trip = _Trip(self, command.operation, rooms, command.repeatable)
        table = self._agreed or (yield from self._agree(trip))
        calls = command.calls(table)
        if len(calls) == 1:
            reply = yield from trip.deliver(calls[0])
            return command.finish(rooms, command.decode(command.operation, rooms, reply))
        values: list[Any] = [None] * len(rooms)
        for call in calls:
            reply = yield from trip.deliver(call)
            trip.done += len(call.rooms)
            some = command.decode(command.operation, call.rooms, reply)
            for position, value in zip(call.positions, some, strict=True):
                values[position] = value
        return command.finish(rooms, values)

    def next_page(self, scan: Scan, clustered: bool) -> Flow[list[int] | None]:
        """The next rooms of a walk; None after the last."""
        trip = _Trip(self, "rooms", [], repeatable=True)
        table = self._agreed or (yield from self._agree(trip))
        request = scan.request(table, clustered)
        if request is None:
            return None
        return scan.page((yield from trip.ask(*request)))

    def settings(self) -> Flow[Settings | None]:
        """The settings of the namespace, without writing them; None when nobody uses it."""
        trip = _Trip(self, "settings", [], repeatable=True)
        call = self._agreement.call()
        reply = yield from trip.ask(call.tag, ["HMGET", call.keys[0], *NAMES])
        return self._agreement.settle(reply) if any(reply) else None

    @property
    def settled(self) -> bool:
        return time.monotonic() < self._settled_until

    def unsettle(self) -> None:
        """A connection was lost, and the server may be another: check the settings before the next call."""
        self._losses += 1
        self._settled_until = 0.0

    def settle(self, trip: _Trip) -> Flow[Table]:
        """Check the settings of the namespace, and renew them."""
        losses = self._losses
        settings = self._agreement.settle((yield from trip.carry(self._agreement.call(), settling=True)))
        self._agreement = self._agreement.adopt(settings)
        self._table = self._agreement.table(settings, *self._times)
        if losses == self._losses:
            self._settled_until = time.monotonic() + RENEW_SECONDS
        return self._table

    @property
    def _agreed(self) -> Table | None:
        """What was agreed on; None before the first call, and when it is time to look again."""
        return self._table if self.settled else None

    def _agree(self, trip: _Trip) -> Flow[Table]:
        table = yield from self.settle(trip)
        if not self._looked_at_eviction:
            self._looked_at_eviction = True
            yield from self._look_at_eviction(trip)
        return table

    def _look_at_eviction(self, trip: _Trip) -> Flow[None]:
        """Warn, once a store, of a server that may drop live rooms."""
        try:
            memory = yield from trip.ask(self.namespace, ["INFO", "memory"])
        except ServerRefusedError:
            return  # fakeredis has no INFO, and a careful operator may deny it
        fields = dict(line.split(":", 1) for line in memory.decode().splitlines() if ":" in line)
        policy = fields.get("maxmemory_policy", "noeviction")
        if fields.get("maxmemory", "0") != "0" and policy != "noeviction":
            warnings.warn(
                f"the server's maxmemory-policy is {policy}: short of memory, it may drop live rooms of "
                f"namespace {self.namespace!r}; set it to noeviction",
                EvictionWarning,
                stacklevel=2,
            )


class _Trip:
    """One operation under way: its name and rooms for messages, and the time that it has left."""

    def __init__(self, delivery: Delivery, operation: str, rooms: Sequence[int], repeatable: bool) -> None:
        self.done = 0
        self._delivery = delivery
        self._operation = operation
        self._rooms = rooms
        self._repeatable = repeatable
        self._tries = 0
        self._give_up_at = time.monotonic() + delivery.deadline

    def deliver(self, call: Call) -> Flow[Any]:
        """Carry one call of the operation through to its reply. Each has the whole deadline to itself."""
        if self.done:
            self._tries, self._give_up_at = 0, time.monotonic() + self._delivery.deadline
        return self.carry(call)

    def carry(self, call: Call, settling: bool = False) -> Flow[Any]:
        """Send a script call by its digest, or whole to a server that does not know the script."""
        words = ["EVALSHA", call.script.sha, str(len(call.keys)), *call.keys, *call.args]
        return self._persist(call.tag, words, settling, call.script)

    def ask(self, tag: str, words: list[str]) -> Flow[Any]:
        """Send a plain command that only reads."""
        return self._persist(tag, words, settling=True)

    def _persist(self, tag: str, words: list[str], settling: bool, script: Script | None = None) -> Flow[Any]:
        """Send until there is a reply, a final refusal, or no time left.

        ``settling`` marks what belongs to no operation's effect: it may be repeated, and does not settle first.
        """
        repeatable = settling or self._repeatable
        asking = None
        while True:
            error: Exception
            try:
                return (yield Send(tag, words, self._timeout(), not repeatable, asking))
            except NoScriptError:
                if script is None:
                    raise
                # EVAL goes the same way, so it loads the script on just the node that lacks it.
                words[:2] = "EVAL", script.source
                script = None
                continue
            except (NotSent, RedisError, OSError) as caught:
                error = caught
            # Not in the except block: this error would become the next one's context, which faults.judge reads.
            asking = None
            if isinstance(error, AskError):
                asking = yield from self._redirected(error)
                continue
            yield from self._recover(error, repeatable)
            if not settling and not self._delivery.settled:
                yield from self._delivery.settle(self)

    def _recover(self, error: Exception, repeatable: bool) -> Flow[None]:
        """Wait before the next try, or raise what the caller gets to see."""
        fault, cause = faults.judge(error), faults.reason(error)
        if fault is Fault.REFUSED:
            raise self._failed(ServerRefusedError, faults.refusal(cause)) from cause
        self._delivery.unsettle()
        if fault is Fault.LOST and not repeatable:
            raise self._failed(
                OutcomeUnknownError,
                f"sent, but the reply was lost ({cause}): it may have happened or not; look before doing it again",
            ) from cause
        yield from self._pause(cause)

    def _redirected(self, error: AskError) -> Flow[tuple[str, int] | None]:
        """Follow a cluster's redirect at once; wait only when they do not end. The node to ask, for ASK."""
        if not (yield Reroute(error)):
            raise self._failed(ServerRefusedError, faults.refusal(error)) from error
        if self._tries < _FREE_REDIRECTS:
            self._tries += 1
        else:
            yield from self._pause(error)
        return None if isinstance(error, MovedError) else (error.host, error.port)

    def _pause(self, cause: BaseException) -> Flow[None]:
        self._tries += 1
        seconds = _BACKOFF.compute(self._tries)
        if time.monotonic() + seconds >= self._give_up_at:
            tries = "1 try" if self._tries == 1 else f"{self._tries} tries"
            raise self._failed(
                StoreUnavailableError,
                f"no answer within {self._delivery.deadline:g} s ({tries}; last: {cause}): "
                "check that the server is up and reachable; the call may be repeated",
            ) from cause
        yield Pause(seconds)

    def _timeout(self) -> float | None:
        """Seconds for the next try; None, the connection's own, while the deadline has hardly begun.

        A time of its own takes a connection of its own, so the usual case must do without.
        """
        left = self._give_up_at - time.monotonic()
        return None if left > 0.9 * self._delivery.deadline else max(0.001, left)

    def _failed(self, kind: type[KVPollError], what: str) -> KVPollError:
        return kind(f"{self._operation}{self._subject()}: {printable(what)}")

    def _subject(self) -> str:
        """The rooms, for a message: all of a few, the first of many."""
        if not self._rooms:
            return f" of namespace {self._delivery.namespace!r}"
        if len(self._rooms) == 1:
            return f" of room {self._rooms[0]}"
        shown = ", ".join(map(str, self._rooms[:3]))
        more = f" and {len(self._rooms) - 3:,} more" if len(self._rooms) > 3 else ""
        return f" of rooms {shown}{more}" + (f" ({self.done:,} done)" if self.done else "")
