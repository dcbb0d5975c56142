"""One side's part in one request, step by step, as SGLang's prefill and decode workers take them.

Decode opens its entry, waits for input and announces itself to prefill; prefill, announced to, waits for input,
computes, transfers, and writes Success into both tables. Each looks at its own table only. Nothing here does
I/O: a step gets the polled status and the time, and says in a Turn what to write.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from redis_kvpoll.model import KVPoll
from redis_kvpoll.replay.fault_plan import Side
from redis_kvpoll.replay.messages import Job, Result

# Seconds of the trace's time: a mid-size model on one node, without queueing.
COMPUTE_BASE, TOKENS_COMPUTED = 0.05, 20_000
TRANSFER_BASE, TOKENS_TRANSFERRED = 0.01, 500_000


def compute_seconds(tokens: int) -> float:
    return COMPUTE_BASE + tokens / TOKENS_COMPUTED


def transfer_seconds(tokens: int) -> float:
    return TRANSFER_BASE + tokens / TOKENS_TRANSFERRED


def timeout_seconds(speed: float) -> float:
    """Real seconds after which a side gives up: well beyond any computation, well below a person's patience."""
    return max(5.0, 20.0 / speed)


@dataclass(slots=True)
class Turn:
    """What one look at all rooms in flight leads to; written in batches afterwards."""

    own: dict[int, KVPoll] = field(default_factory=dict)
    peer: dict[int, KVPoll] = field(default_factory=dict)
    aborts: list[tuple[int, str, bool]] = field(default_factory=list)
    """Room, reason, and whether the other side is told."""
    announced: list[int] = field(default_factory=list)
    done: list[int] = field(default_factory=list)
    """Rooms at their end."""


class Handshake:
    """What both sides share: an abort that is due, giving up, and the end."""

    def __init__(self, job: Job, speed: float, now: float) -> None:
        self.job = job
        self.status: KVPoll | None = KVPoll.Bootstrapping
        self._speed = speed
        self._abort_at = None if job.abort_after is None else now + job.abort_after
        self._give_up_at = now + timeout_seconds(speed)

    def look(self, status: KVPoll | None, now: float, turn: Turn) -> None:
        """Take the next step."""
        self.status = status
        room = self.job.room
        if status is None or status.is_terminal:
            turn.done.append(room)
        elif self._abort_at is not None and now >= self._abort_at:
            self._abort_at = None
            turn.aborts.append((room, self.abort_reason, True))
        elif now >= self._give_up_at:
            turn.aborts.append((room, self.timeout_reason, False))
        else:
            self._go_on(status, now, turn)

    def result(self, reason: str) -> Result:
        """What a request with this reason came to. Another request's reason is a failure like any other."""
        by_reason: dict[str, Result] = {self.abort_reason: "aborted", self.timeout_reason: "timed out"}
        return by_reason.get(reason, "failed")

    @property
    def abort_reason(self) -> str:
        return f"Aborted by AbortReq. (request {self.job.request})"

    @property
    def timeout_reason(self) -> str:
        return f"timed out (request {self.job.request})"

    def _go_on(self, status: KVPoll, now: float, turn: Turn) -> None:
        raise AssertionError("a Handshake is one side's")


class Prefill(Handshake):
    """WaitRegistry for decode, computes, transfers, and concludes for both."""

    def __init__(self, job: Job, speed: float, now: float) -> None:
        super().__init__(job, speed, now)
        self._computed_at: float | None = None
        self._transferred_at: float | None = None

    def announced(self, turn: Turn) -> None:
        """Decode is ready. The worker has recorded its prefix length before: it must be seen with the status."""
        turn.own[self.job.room] = KVPoll.WaitingForInput

    def start(self, prefix_length: int, now: float) -> None:
        """Compute what decode does not hold already."""
        self._computed_at = now + compute_seconds(self.job.input_length - prefix_length) / self._speed

    @property
    def waits_for_start(self) -> bool:
        return self._computed_at is None and self.status is KVPoll.WaitingForInput

    def _go_on(self, status: KVPoll, now: float, turn: Turn) -> None:
        room = self.job.room
        if self._transferred_at is not None:
            if now >= self._transferred_at:
                turn.own[room] = turn.peer[room] = KVPoll.Success
        elif self._computed_at is not None and now >= self._computed_at:
            turn.own[room] = KVPoll.Transferring
            self._transferred_at = now + transfer_seconds(self.job.input_length) / self._speed


class Decode(Handshake):
    """Announces itself, and waits for the cache."""

    def __init__(self, job: Job, speed: float, now: float) -> None:
        super().__init__(job, speed, now)
        self._announced = False

    def _go_on(self, status: KVPoll, now: float, turn: Turn) -> None:
        if not self._announced:
            self._announced = True
            turn.own[self.job.room] = KVPoll.WaitingForInput
            turn.announced.append(self.job.request)


HANDSHAKES: dict[Side, type[Prefill] | type[Decode]] = {"prefill": Prefill, "decode": Decode}
