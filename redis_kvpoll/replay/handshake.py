"""One side's part in one request, step by step, as SGLang's prefill and decode workers take them.

Decode opens its room, moves to WaitingForInput and announces itself to prefill. Prefill then moves to WaitingForInput,
computes, transfers, and writes Success into both tables. Each side polls only its own table. Nothing here does I/O: a
step gets the polled status and the time, and adds the writes to an Actions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

from redis_kvpoll.model import KVPoll
from redis_kvpoll.replay.fault_plan import Side
from redis_kvpoll.replay.messages import Job, Result
from redis_kvpoll.replay.pacing import Patience

# Seconds of the trace's time: a mid-size model on one node, without queueing.
COMPUTE_BASE, TOKENS_COMPUTED = 0.05, 20_000
TRANSFER_BASE, TOKENS_TRANSFERRED = 0.01, 500_000


def compute_seconds(tokens: int) -> float:
    return COMPUTE_BASE + tokens / TOKENS_COMPUTED


def transfer_seconds(tokens: int) -> float:
    return TRANSFER_BASE + tokens / TOKENS_TRANSFERRED


def timeout_seconds(speed: float) -> float:
    """Seconds of its worker's turns after which a side gives up: beyond any computation, and short for a person."""
    return max(5.0, 20.0 / speed)


@dataclass(slots=True)
class Actions:
    """The writes that result from one poll of all running rooms; sent in batches afterwards."""

    own: dict[int, KVPoll] = field(default_factory=dict)
    """Statuses for this side's table."""
    peer: dict[int, KVPoll] = field(default_factory=dict)
    """Statuses for the other side's table."""
    aborts: list[tuple[int, str, bool]] = field(default_factory=list)
    """Room, reason, and whether the other side's room fails too."""
    announced: list[int] = field(default_factory=list)
    """Requests that decode announces to prefill."""
    ended: list[int] = field(default_factory=list)
    """Rooms to clear."""


class Handshake(ABC):
    """What both sides share: aborts, timeouts, and the end."""

    def __init__(self, job: Job, speed: float, now: float) -> None:
        self.job = job
        self.status: KVPoll | None = KVPoll.Bootstrapping
        self._speed = speed
        self._abort_at = None if job.abort_after is None else now + job.abort_after
        self._patience = Patience(timeout_seconds(speed), now)

    def advance(self, status: KVPoll | None, now: float, actions: Actions) -> None:
        """Take the next step."""
        self.status = status
        is_timeout = self._patience.is_over(now)
        room = self.job.room
        if status is None or status.is_terminal:
            actions.ended.append(room)
        elif self._abort_at is not None and now >= self._abort_at:
            self._abort_at = None
            actions.aborts.append((room, self.abort_reason, True))
        elif is_timeout:
            actions.aborts.append((room, self.timeout_reason, False))
        else:
            self._work(status, now, actions)

    def result(self, reason: str) -> Result:
        """The result of a request that failed for a reason; another request's reason is an ordinary failure."""
        by_reason: dict[str, Result] = {self.abort_reason: "aborted", self.timeout_reason: "timed out"}
        return by_reason.get(reason, "failed")

    @property
    def abort_reason(self) -> str:
        return f"Aborted by AbortReq. (request {self.job.request})"

    @property
    def timeout_reason(self) -> str:
        return f"timed out (request {self.job.request})"

    @abstractmethod
    def _work(self, status: KVPoll, now: float, actions: Actions) -> None:
        """Do this side's next step of the handshake."""


class Prefill(Handshake):
    """Waits for decode, computes, transfers, and concludes for both sides."""

    def __init__(self, job: Job, speed: float, now: float) -> None:
        super().__init__(job, speed, now)
        self._computed_at: float | None = None
        self._transferred_at: float | None = None

    def announced(self, actions: Actions) -> None:
        """Decode is ready. The worker has already recorded the prefix length, so it is readable with the status."""
        actions.own[self.job.room] = KVPoll.WaitingForInput

    def start(self, prefix_length: int, now: float) -> None:
        """Compute what decode does not have yet."""
        self._computed_at = now + compute_seconds(self.job.input_length - prefix_length) / self._speed

    @property
    def waits_for_start(self) -> bool:
        return self._computed_at is None and self.status is KVPoll.WaitingForInput

    def _work(self, status: KVPoll, now: float, actions: Actions) -> None:
        room = self.job.room
        if self._transferred_at is not None:
            if now >= self._transferred_at:
                actions.own[room] = actions.peer[room] = KVPoll.Success
        elif self._computed_at is not None and now >= self._computed_at:
            actions.own[room] = KVPoll.Transferring
            self._transferred_at = now + transfer_seconds(self.job.input_length) / self._speed


class Decode(Handshake):
    """Announces itself, and waits for the cache."""

    def __init__(self, job: Job, speed: float, now: float) -> None:
        super().__init__(job, speed, now)
        self._announced = False

    def _work(self, status: KVPoll, now: float, actions: Actions) -> None:
        if not self._announced:
            self._announced = True
            actions.own[self.job.room] = KVPoll.WaitingForInput
            actions.announced.append(self.job.request)


HANDSHAKES: dict[Side, type[Prefill] | type[Decode]] = {"prefill": Prefill, "decode": Decode}
