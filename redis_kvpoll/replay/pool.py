"""The worker processes of one replay: started, sent messages, killed, and replaced."""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from redis_kvpoll.replay import worker
from redis_kvpoll.replay.fault_plan import SIDES, Side
from redis_kvpoll.replay.messages import FromWorker, Plan, Stop, ToWorker


@dataclass(slots=True, eq=False)
class Slot:
    """A worker, and the requests that it runs."""

    side: Side
    process: BaseProcess
    pipe: Connection[ToWorker, FromWorker]
    requests: set[int] = field(default_factory=set)


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
        return min(self.slots[side], key=lambda slot: len(slot.requests))

    def slot_of(self, side: Side, request: int) -> Slot | None:
        return next((slot for slot in self.slots[side] if request in slot.requests), None)

    def messages(self, timeout: float) -> Iterator[tuple[Slot, FromWorker | None]]:
        """The workers' messages within ``timeout`` seconds; None for a worker's death."""
        by_pipe = {slot.pipe: slot for slots in self.slots.values() for slot in slots}
        for pipe in wait(list(by_pipe), timeout):
            slot = by_pipe[pipe]  # type: ignore[index]
            try:
                while True:
                    yield slot, slot.pipe.recv()
                    if not slot.pipe.poll():
                        break
            except (EOFError, OSError):
                yield slot, None

    def send(self, slot: Slot, message: ToWorker) -> None:
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
        except (EOFError, OSError):
            pass  # the end, perhaps in the middle of a message
        slot.pipe.close()
        slots = self.slots[slot.side]
        slots[slots.index(slot)] = self._start(slot.side)
        return unread

    def stop(self) -> None:
        """Let every worker send its late messages and end."""
        workers = [slot for slots in self.slots.values() for slot in slots]
        for slot in workers:
            self.send(slot, Stop())
        for slot in workers:
            slot.process.join(timeout=5)

    def kill(self) -> None:
        for slots in self.slots.values():
            for slot in slots:
                slot.process.kill()
                slot.process.join()

    def _start(self, side: Side) -> Slot:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=worker.main, args=(side, self._plan, theirs), daemon=True)
        process.start()
        theirs.close()
        return Slot(side, process, ours)
