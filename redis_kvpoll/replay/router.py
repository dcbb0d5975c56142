"""The router process: it gives each request a room and two workers, and kills workers by the fault plan."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import random
import signal
import time
from collections import Counter, deque
from multiprocessing.connection import Connection
from typing import NamedTuple, TypeAlias

from redis_kvpoll.errors import KVPollError, ReplayError
from redis_kvpoll.replay.counters import Counters
from redis_kvpoll.replay.fault_plan import SIDES, FaultPlan, FaultRates, plan_faults
from redis_kvpoll.replay.handshake import compute_seconds, transfer_seconds
from redis_kvpoll.replay.ledger import Ledger
from redis_kvpoll.replay.messages import (
    Announced,
    Arrived,
    Ended,
    FromWorker,
    Job,
    Measured,
    Opened,
    PeerWrote,
    Plan,
    WorkerFailed,
    Written,
)
from redis_kvpoll.replay.pacing import FIRST_WINDOW, HostTooSlowError, Window, carried_speed
from redis_kvpoll.replay.pool import Pool, Slot
from redis_kvpoll.replay.report import Report
from redis_kvpoll.replay.sweep import Sweep
from redis_kvpoll.replay.traffic import Request

SNAPSHOT_SECONDS = 0.1
SNAPSHOT_ROOMS = 256
TURN_SECONDS = 0.02
"""The longest wait for messages, so that kills and requests are on time."""


class Run(NamedTuple):
    """A whole replay."""

    plan: Plan
    requests: list[Request]
    rates: FaultRates
    prefill: int
    decode: int
    seed: int


class ReplayProgress(NamedTuple):
    """The progress of a replay."""

    phase: str
    dispatched: int
    ended: int
    results: dict[str, int]
    late_skipped: int
    crashes: int
    rooms: list[int]
    """Some of the running requests' rooms."""


Sent: TypeAlias = ReplayProgress | Report | ReplayError
"""What the router sends: snapshots, and in the end a report, or why there is none."""


def main(run: Run, pipe: Connection[Sent, None]) -> None:
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
            pipe.send(error if isinstance(error, ReplayError) else ReplayError(str(error)))
    finally:
        router.kill()


class Router:
    """A running replay."""

    def __init__(self, run: Run, pipe: Connection[Sent, None]) -> None:
        self._run, self._pipe = run, pipe
        self._pool = Pool(run.plan, run.prefill, run.decode)
        self._ledger = Ledger()
        self._counters = Counters()
        self._sweep = Sweep(run.plan)
        self._rng = random.Random(run.seed)  # noqa: S311 - room ids, not secrets
        self._free: deque[int] = deque(maxlen=64)  # rooms of ended requests, the latest last
        self._kills: list[tuple[float, int, Slot]] = []  # a heap: when, a number, which worker
        self._window = Window(FIRST_WINDOW * min(run.prefill, run.decode))
        self._running = 0
        self._half_crashed: set[int] = set()  # running on one side alone: they wait for a lease or a timeout
        self._carried = run.plan.speed
        self._is_stopping = False
        self._reused = 0
        self._snapshot_at = 0.0
        self._check_at = 0.0
        self._errors: list[str] = []

    def run(self) -> Report:
        total = len(self._run.requests)
        while not all(slot.is_ready for slot in self._pool.all()):
            self._process_events(TURN_SECONDS, "starting workers", 0)
        started = time.monotonic()
        self._dispatch_all(started)
        while self._running and not self._is_stuck:
            self._process_events(TURN_SECONDS, "finishing", total)
        seconds = time.monotonic() - started
        while self._sweep.has_live_orphans():  # the workers' leases fail them, so before the workers end
            self._process_events(TURN_SECONDS, "failing orphans", total)
        self._stop_workers(total)
        self._sweep.start_final_check(self._ledger)
        while self._sweep.awaits_expiry(time.monotonic()):
            self._send_snapshot("expiring orphans", total)
            time.sleep(SNAPSHOT_SECONDS)
        return self._report(seconds)

    def _dispatch_all(self, started: float) -> None:
        """Dispatch each request when it is due, and when the host carries one more."""
        speed = self._run.plan.speed
        for number, request in enumerate(self._run.requests):
            due = started + request.at / speed
            self._process_events(0, "replaying", number)  # also when late: the workers' reports must not pile up
            while (now := time.monotonic()) < due or not self._window.admits(self._running - len(self._half_crashed)):
                self._process_events(min(max(due - now, 0.001), TURN_SECONDS), "replaying", number)
                if self._is_stuck:
                    return
            self._carried = carried_speed(speed, request.at, now - started)
            self._dispatch(request, now)

    def _stop_workers(self, total: int) -> None:
        """End the workers, whose late messages are still to come."""
        if self._is_stuck:
            self._pool.kill()
            return
        self._is_stopping = True
        self._pool.stop()
        while self._pool.all():
            self._process_events(TURN_SECONDS, "finishing", total)

    @property
    def _is_stuck(self) -> bool:
        return any(slot.is_stuck for slot in self._pool.all())

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
        self._window.dispatched(request.id, duration, now)
        self._running += 1
        for side in SIDES:
            slot = self._pool.least_busy(side)
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
            if message is None and self._is_stopping:
                self._pool.remove(slot)
            elif message is None:
                self._worker_died(slot)
            else:
                self._handle(slot, message)
        while self._kills and self._kills[0][0] <= time.monotonic() and not self._is_stopping:
            _, _, slot = heapq.heappop(self._kills)
            if slot in self._pool.slots[slot.side]:  # else it was already killed, for another request
                self._replace_worker(slot)
        now = time.monotonic()
        if any(slot.is_silent(now) for slot in self._pool.all()):
            raise self._too_slow("a worker got nothing done for a minute")
        self._sweep.check_orphans(now)
        if self._sweep.is_silent(now):
            raise self._too_slow("no worker renewed its lease for a minute")
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
        elif isinstance(message, Announced | PeerWrote):
            if peer := self._pool.peer_of(slot, message.request):
                self._pool.send(peer, message)
        elif isinstance(message, Written):
            self._ledger.written(message.writes)
        elif isinstance(message, WorkerFailed):
            raise self._too_slow(message.why) if message.is_starved else ReplayError(message.why)
        elif isinstance(message, Ended) and self._ledger.ended(slot.side, message):
            self._finish(message.request)

    def _too_slow(self, why: str) -> HostTooSlowError:
        return HostTooSlowError(why, self._run.plan.speed, self._carried)

    def _worker_died(self, slot: Slot) -> None:
        why = f"a {slot.side} worker died by itself; its own message is above"
        if not slot.is_ready:
            raise ReplayError(why)  # so would the next
        self._errors.append(why)
        self._replace_worker(slot)

    def _replace_worker(self, slot: Slot) -> None:
        for message in self._pool.replace(slot):
            self._handle(slot, message)
        requests = sorted(slot.requests)
        self._sweep.add_orphans(slot.side, [self._ledger.room(request) for request in requests])
        self._half_crashed |= set(requests)
        for request in self._ledger.crashed(slot.side, requests, time.monotonic()):
            self._finish(request)

    def _finish(self, request: int) -> None:
        self._running -= 1
        self._half_crashed.discard(request)
        self._window.ended(request, self._ledger.result(request), time.monotonic())
        room = self._ledger.room(request)
        if not any(room in rooms for rooms in self._ledger.orphans.values()):
            self._free.append(room)

    def _send_snapshot(self, phase: str, dispatched: int) -> None:
        """Send a snapshot; if the other end is gone, the exception ends the replay."""
        self._snapshot_at = time.monotonic() + SNAPSHOT_SECONDS
        skipped = sum(counts.get("SKIPPED", 0) + counts.get("STALE", 0) for counts in self._ledger.late.values())
        results = {str(result): count for result, count in self._ledger.results.items()}
        ended = sum(results.values())
        rooms = list(itertools.islice(self._ledger.running, SNAPSHOT_ROOMS))
        self._pipe.send(ReplayProgress(phase, dispatched, ended, results, skipped, self._ledger.crashes, rooms))

    def _report(self, seconds: float) -> Report:
        run, ledger = self._run, self._ledger
        cross_contaminated = ledger.cross_contaminated()
        plain = ledger.plain_dict() if run.plan.lease is not None else None
        return Report(
            policy=run.plan.policy,
            requests=len(run.requests),
            prefill=run.prefill,
            decode=run.decode,
            speed=run.plan.speed,
            carried_speed=self._carried,
            seed=run.seed,
            seconds=round(seconds, 3),
            input_tokens=sum(request.input_length for request in run.requests),
            output_tokens=sum(request.output_length for request in run.requests),
            reused=self._reused,
            crashes=ledger.crashes,
            unfinished=len(ledger.unfinished),
            timed_out_for_nothing=len(ledger.timed_out - cross_contaminated.keys()),
            results={str(result): count for result, count in ledger.results.items()},
            orphaned=self._sweep.orphaned,
            orphans_past_ttl=self._sweep.past_ttl,
            lease=run.plan.lease,
            orphans_past_lease=self._sweep.past_lease,
            oldest_orphan=round(self._sweep.oldest, 3),
            leaked=self._sweep.leaked(ledger),
            example_room=ledger.example_room(),
            cross_contaminated=len(cross_contaminated),
            cross_contamination=dict(Counter(cross_contaminated.values())),
            plain_dict=plain and (plain.came_back, len(plain.hit)),
            late=ledger.late,
            errors=self._errors,
            **self._counters.figures(),
        )
