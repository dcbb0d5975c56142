"""The worker processes of one replay: started, sent messages, killed, and replaced."""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from redis_kvpoll.replay import worker
from redis_kvpoll.replay.fault_plan import SIDES, Side
from redis_kvpoll.replay.handshake import timeout_seconds
from redis_kvpoll.replay.messages import Ended, FromWorker, Job, Measured, Plan, Ready, Stop, ToWorker
from redis_kvpoll.replay.pacing import SILENT_SECONDS, Patience

STUCK_TIMEOUTS = 3
"""A worker whose loop turns ends each request within two timeouts: one until its room is free, one for its part."""


@dataclass(slots=True, eq=False)
class Slot:
    """A worker, the requests that it runs, and whether it gets on with them."""

    side: Side
    process: BaseProcess
    pipe: Connection[ToWorker, FromWorker]
    timeout: float
    requests: set[int] = field(default_factory=set)
    is_ready: bool = False
    is_stopping: bool = False
    is_stuck: bool = False
    """Its loop turns, but no request ends any more: a promise is broken, since each should at least time out."""
    _heard_at: float = field(default_factory=time.monotonic)
    _patience: Patience = field(init=False)

    def __post_init__(self) -> None:
        self._got_on()

    def sent(self, message: ToWorker) -> None:
        """A message was sent to it."""
        if isinstance(message, Job):
            self.requests.add(message.request)
            self._got_on()
        elif isinstance(message, Stop):
            self.is_stopping = True
            self._got_on()

    def heard(self, message: FromWorker) -> None:
        """A message came from it."""
        self._heard_at = time.monotonic()
        if isinstance(message, Ready):
            self.is_ready = True
        elif isinstance(message, Ended):
            self.requests.discard(message.request)
            self._got_on()
        elif isinstance(message, Measured):
            self.is_stuck |= self._patience.is_over(self._heard_at) and bool(self.requests)

    def is_silent(self, now: float) -> bool:
        """Whether it has something to do, and does not get to it."""
        has_work = bool(self.requests) or self.is_stopping or not self.is_ready
        return has_work and now - self._heard_at > SILENT_SECONDS

    def _got_on(self) -> None:
        self._heard_at = time.monotonic()
        self._patience = Patience(STUCK_TIMEOUTS * self.timeout, self._heard_at)


class Pool:
    """The prefill and decode workers."""

    def __init__(self, plan: Plan, prefill: int, decode: int) -> None:
        self._plan = plan
        # forkserver: a replacement starts in milliseconds, and no worker inherits another's pipe, so that each sees
        # the end of its own when the router dies.
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([worker.__name__])
        counts = {"prefill": prefill, "decode": decode}
        self.slots = {side: [self._start(side) for _ in range(counts[side])] for side in SIDES}

    def least_busy(self, side: Side) -> Slot:
        """The worker to give a request to; one that is still starting only if there is no other."""
        return min(self.slots[side], key=lambda slot: (not slot.is_ready, len(slot.requests)))

    def all(self) -> list[Slot]:
        return [slot for slots in self.slots.values() for slot in slots]

    def peer_of(self, slot: Slot, request: int) -> Slot | None:
        """The worker that runs the other side of a request."""
        side: Side = "decode" if slot.side == "prefill" else "prefill"
        return next((peer for peer in self.slots[side] if request in peer.requests), None)

    def messages(self, timeout: float) -> Iterator[tuple[Slot, FromWorker | None]]:
        """The workers' messages within ``timeout`` seconds; None for a worker's death."""
        by_pipe = {slot.pipe: slot for slot in self.all()}
        for pipe in wait(list(by_pipe), timeout):
            slot = by_pipe[pipe]  # type: ignore[index]
            try:
                while True:
                    message = slot.pipe.recv()
                    slot.heard(message)
                    yield slot, message
                    if not slot.pipe.poll():
                        break
            except (EOFError, OSError):
                yield slot, None

    def send(self, slot: Slot, message: ToWorker) -> None:
        slot.sent(message)
        with contextlib.suppress(OSError):  # it has just died, which the next read of its pipe shows
            slot.pipe.send(message)

    def replace(self, slot: Slot) -> list[FromWorker]:
        """Kill a worker and start another in its place; returns the messages of the old one that were not read."""
        slot.process.kill()
        slot.process.join()
        unread: list[FromWorker] = []
        try:
            while slot.pipe.poll():
                unread.append(slot.pipe.recv())
                slot.heard(unread[-1])
        except (EOFError, OSError):
            pass  # the end, perhaps in the middle of a message
        slot.pipe.close()
        slots = self.slots[slot.side]
        slots[slots.index(slot)] = self._start(slot.side)
        return unread

    def stop(self) -> None:
        """Ask every worker to send its late messages and end; read its messages until it is ``remove``d."""
        for slot in self.all():
            self.send(slot, Stop())

    def remove(self, slot: Slot) -> None:
        """Take out a worker that has ended."""
        slot.process.join()
        slot.pipe.close()
        self.slots[slot.side].remove(slot)

    def kill(self) -> None:
        for slot in self.all():
            slot.process.kill()
            slot.process.join()

    def _start(self, side: Side) -> Slot:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=worker.main, args=(side, self._plan, theirs), daemon=True)
        process.start()
        theirs.close()
        return Slot(side, process, ours, timeout_seconds(self._plan.speed))
