"""The router process: it gives each request a room and two workers, and kills workers by the fault plan."""

from __future__ import annotations

import contextlib
import heapq
import random
import signal
import time
from collections import Counter, deque
from multiprocessing.connection import Connection
from typing import NamedTuple

from redis_kvpoll.errors import KVPollError, ReplayError
from redis_kvpoll.replay.counters import Counters
from redis_kvpoll.replay.fault_plan import SIDES, FaultPlan, Rates, plan_faults
from redis_kvpoll.replay.handshake import compute_seconds, timeout_seconds, transfer_seconds
from redis_kvpoll.replay.ledger import Ledger
from redis_kvpoll.replay.messages import (
    Announced,
    Arrived,
    Ended,
    FromWorker,
    Job,
    Measured,
    Opened,
    Plan,
    WorkerFailed,
)
from redis_kvpoll.replay.pool import Pool, Slot
from redis_kvpoll.replay.report import Report
from redis_kvpoll.replay.sweep import Sweep
from redis_kvpoll.replay.traffic import Request

SNAPSHOT_SECONDS = 0.1
SETTLE_SECONDS = 0.3
"""The time after the last end in which late messages may still arrive."""


class Run(NamedTuple):
    """A whole replay."""

    plan: Plan
    requests: list[Request]
    rates: Rates
    prefill: int
    decode: int
    seed: int


class Snapshot(NamedTuple):
    """The progress of a replay."""

    phase: str
    dispatched: int
    ended: int
    results: dict[str, int]
    late_skipped: int
    crashes: int


def main(run: Run, pipe: Connection[Snapshot | Report | str, None]) -> None:
    """Run the router process; it ends early when the other end of the pipe is closed."""
    # The process ends, and cleans up, when its pipe is closed; a signal to the whole group must not prevent that.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    router = Router(run, pipe)
    try:
        pipe.send(router.run())
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass
    except KVPollError as error:
        with contextlib.suppress(OSError):
            pipe.send(str(error))
    finally:
        router.kill()


class Router:
    """A running replay."""

    def __init__(self, run: Run, pipe: Connection[Snapshot | Report | str, None]) -> None:
        self._run, self._pipe = run, pipe
        self._pool = Pool(run.plan, run.prefill, run.decode)
        self._ledger = Ledger()
        self._counters = Counters()
        self._sweep = Sweep(run.plan)
        self._rng = random.Random(run.seed)  # noqa: S311 - room ids, not secrets
        self._free: deque[int] = deque(maxlen=64)  # rooms of ended requests, the latest last
        self._kills: list[tuple[float, int, Slot]] = []  # a heap: when, a number, which worker
        self._running = 0
        self._reused = 0
        self._snapshot_at = 0.0
        self._check_at = 0.0
        self._errors: list[str] = []

    def run(self) -> Report:
        started = time.monotonic()
        for number, request in enumerate(self._run.requests):
            due = started + request.at / self._run.plan.speed
            self._process_events(0, "replaying", number)  # also when late: the workers' reports must not pile up
            while (now := time.monotonic()) < due:
                self._process_events(min(due - now, 0.02), "replaying", number)
            self._dispatch(request, now)
        total = len(self._run.requests)
        give_up_at = time.monotonic() + timeout_seconds(self._run.plan.speed) + 5
        while self._running and time.monotonic() < give_up_at:
            self._process_events(0.02, "finishing", total)
        seconds = time.monotonic() - started
        settled_at = time.monotonic() + SETTLE_SECONDS
        while time.monotonic() < settled_at:
            self._process_events(0.02, "finishing", total)
        while self._sweep.has_live_orphans():  # the workers' leases fail them, so before the workers end
            self._process_events(0.02, "failing orphans", total)
        self._pool.stop()
        self._sweep.start_final_check(self._ledger)
        while self._sweep.awaits_expiry(time.monotonic()):
            self._send_snapshot("expiring orphans", total)
            time.sleep(SNAPSHOT_SECONDS)
        return self._report(seconds)

    def kill(self) -> None:
        self._pool.kill()
        self._sweep.close()

    def _dispatch(self, request: Request, now: float) -> None:
        faults = plan_faults(self._run.rates, self._run.seed, request.id)
        room = self._room(faults)
        prefix_length = int(request.input_length * faults.prefix_share)
        speed = self._run.plan.speed
        duration = (compute_seconds(request.input_length) + transfer_seconds(request.input_length)) / speed + 0.02
        self._ledger.dispatched(request.id, room)
        self._running += 1
        for side in SIDES:
            slot = self._pool.least_busy(side)
            slot.requests.add(request.id)
            late = faults.late if faults.late and faults.late.side == side else None
            abort_after = faults.abort_at * duration if faults.abort_side == side else None
            self._pool.send(slot, Job(request.id, room, request.input_length, prefix_length, abort_after, late))
            if faults.crash_side == side:
                heapq.heappush(self._kills, (now + faults.crash_at * duration, request.id, slot))

    def _room(self, faults: FaultPlan) -> int:
        """A new random id, as SGLang's router makes them, or the latest one that is free again."""
        if faults.reuse and self._free:
            self._reused += 1
            return self._free.pop()
        return self._rng.randrange(2**63)

    def _process_events(self, timeout: float, phase: str, dispatched: int) -> None:
        """Handle the workers' messages, due kills, periodic checks, and the next snapshot."""
        for slot, message in self._pool.messages(timeout):
            if message is None:
                self._errors.append(f"a {slot.side} worker died by itself; its own message is above")
                self._replace_worker(slot)
            else:
                self._handle(slot, message)
        while self._kills and self._kills[0][0] <= time.monotonic():
            _, _, slot = heapq.heappop(self._kills)
            if slot in self._pool.slots[slot.side]:  # else it was already killed, for another request
                self._replace_worker(slot)
        now = time.monotonic()
        self._sweep.check_orphans(now)
        if now >= self._check_at:
            self._check_at = now + self._run.plan.ttl / 4
            self._sweep.check_leaks(self._ledger)
        if now >= self._snapshot_at:
            self._send_snapshot(phase, dispatched)

    def _handle(self, slot: Slot, message: FromWorker) -> None:
        if isinstance(message, Measured):
            self._counters.add(message)
        elif isinstance(message, Opened):
            self._ledger.opened(slot.side, message)
        elif isinstance(message, Arrived):
            self._ledger.arrived(message)
        elif isinstance(message, Announced):
            if prefill := self._pool.slot_of("prefill", message.request):
                self._pool.send(prefill, message)
        elif isinstance(message, WorkerFailed):
            raise ReplayError(message.why)
        elif isinstance(message, Ended):
            slot.requests.discard(message.request)
            if self._ledger.ended(slot.side, message):
                self._finish(message.request)

    def _replace_worker(self, slot: Slot) -> None:
        for message in self._pool.replace(slot):
            self._handle(slot, message)
        requests = sorted(slot.requests)
        self._sweep.add_orphans(slot.side, [self._ledger.room(request) for request in requests])
        for request in self._ledger.crashed(slot.side, requests, time.monotonic()):
            self._finish(request)

    def _finish(self, request: int) -> None:
        self._running -= 1
        room = self._ledger.room(request)
        if not any(room in rooms for rooms in self._ledger.orphans.values()):
            self._free.append(room)

    def _send_snapshot(self, phase: str, dispatched: int) -> None:
        """Send a snapshot; if the other end is gone, the exception ends the replay."""
        self._snapshot_at = time.monotonic() + SNAPSHOT_SECONDS
        skipped = sum(counts.get("SKIPPED", 0) + counts.get("STALE", 0) for counts in self._ledger.late.values())
        results = {str(result): count for result, count in self._ledger.results.items()}
        ended = sum(results.values())
        self._pipe.send(Snapshot(phase, dispatched, ended, results, skipped, self._ledger.crashes))

    def _report(self, seconds: float) -> Report:
        run, ledger = self._run, self._ledger
        cross_contaminated = ledger.cross_contaminated()
        return Report(
            policy=run.plan.policy,
            requests=len(run.requests),
            prefill=run.prefill,
            decode=run.decode,
            speed=run.plan.speed,
            seed=run.seed,
            seconds=round(seconds, 3),
            input_tokens=sum(request.input_length for request in run.requests),
            output_tokens=sum(request.output_length for request in run.requests),
            reused=self._reused,
            crashes=ledger.crashes,
            unfinished=len(ledger.unfinished),
            results={str(result): count for result, count in ledger.results.items()},
            orphaned=self._sweep.orphaned,
            orphans_past_ttl=self._sweep.past_ttl,
            lease=run.plan.lease,
            orphans_past_lease=self._sweep.past_lease,
            oldest_orphan=round(self._sweep.oldest, 3),
            leaked=self._sweep.leaked(ledger),
            cross_contaminated=len(cross_contaminated),
            cross_contamination=dict(Counter(cross_contaminated.values())),
            late=ledger.late,
            errors=self._errors,
            **self._counters.figures(),
        )
