"""A worker process of one side: it runs the handshakes of all requests that the router gives it."""

from __future__ import annotations

import contextlib
import heapq
import logging
import queue
import signal
import threading
import time
from multiprocessing.connection import Connection

from redis_kvpoll.errors import KVPollError, LeaseLostError
from redis_kvpoll.model import KVPoll, Outcome, Update
from redis_kvpoll.replay.fault_plan import LateMessage, Side
from redis_kvpoll.replay.handshake import HANDSHAKES, Actions, Decode, Prefill, timeout_seconds
from redis_kvpoll.replay.messages import (
    Announced,
    Arrived,
    Ended,
    FromWorker,
    Job,
    Opened,
    PeerWrote,
    Plan,
    Ready,
    Result,
    Stop,
    ToWorker,
    WorkerFailed,
    Written,
)
from redis_kvpoll.replay.pacing import TURN_SECONDS, Patience
from redis_kvpoll.replay.side_table import Meter, SideTable
from redis_kvpoll.replay.writers import CHECK_PEER_SECONDS, FencedWriter, PlainWriter, Writer

POLL_SECONDS = 0.004
"""The time between two polls of all rooms: a scheduler's loop takes about as long."""
REPORT_SECONDS = TURN_SECONDS
"""The time between two reports of a loop that has nothing else to say: one at each turn would keep the router busy."""


def main(side: Side, plan: Plan, pipe: Connection[FromWorker, ToWorker]) -> None:
    """Run a worker process; it ends when the router stops it, or is gone."""
    # Ctrl-C reaches the whole process group, but the router decides how the replay ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The replay may kill the server on purpose: no warnings about that.
    logging.getLogger("redis_kvpoll").setLevel(logging.ERROR)
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        try:
            Worker(side, plan, pipe).run()
        except KVPollError as error:
            pipe.send(WorkerFailed(str(error), is_starved=isinstance(error, LeaseLostError)))


class Worker:
    """The running requests of one worker, and its loop: read messages, open, poll, write, conclude, report."""

    def __init__(self, side: Side, plan: Plan, pipe: Connection[FromWorker, ToWorker]) -> None:
        self._side, self._plan, self._pipe = side, plan, pipe
        self._inbox: queue.SimpleQueue[ToWorker | None] = queue.SimpleQueue()
        self._meter = Meter()
        self._own = SideTable(plan, side, self._meter)
        peer = SideTable(plan, "decode" if side == "prefill" else "prefill", self._meter)
        self._writer: Writer = (
            PlainWriter(self._own, peer) if plan.lease is None else FencedWriter(self._own, peer, plan.lease)
        )
        self._new: dict[Job, Patience] = {}
        self._running: dict[int, Prefill | Decode] = {}  # by room
        self._room_of: dict[int, int] = {}  # by request, of all requests so far
        self._announced: list[int] = []
        self._late: list[tuple[float, Job, LateMessage]] = []  # a heap: when, whose, message
        self._touch_at = 0.0
        self._report_at = 0.0
        self._stopping = False
        self._events: list[FromWorker] = []

    def run(self) -> None:
        # A thread always reads the pipe: if this loop did, it and the router could wait for each other.
        threading.Thread(target=self._receive, daemon=True).start()
        with self._own.following(), self._writer.session():
            self._pipe.send(Ready())
            while not (self._stopping and not self._new and not self._running and not self._late):
                self._read_messages()
                self._open()
                actions = self._poll()
                self._answer_announcements(actions)
                self._write(actions)
                self._writer.retry_pending()
                self._conclude(actions)
                self._send_late()
                self._touch()
                self._report()

    def _receive(self) -> None:
        """Read every message of the router at once; None for the router's end."""
        try:
            while True:
                self._inbox.put(self._pipe.recv())
        except (EOFError, OSError):
            self._inbox.put(None)

    def _read_messages(self) -> None:
        wait = POLL_SECONDS if self._running or self._late or self._new else CHECK_PEER_SECONDS
        with contextlib.suppress(queue.Empty):
            while True:
                message = self._inbox.get(timeout=wait)
                wait = 0.0
                if isinstance(message, Job):
                    self._new[message] = Patience(timeout_seconds(self._plan.speed), time.monotonic())
                elif isinstance(message, Announced):
                    self._announced.append(message.request)
                elif isinstance(message, PeerWrote):
                    if (room := self._room_of.get(message.request)) is not None:
                        self._own.tell(room)
                elif isinstance(message, Stop):
                    self._stopping = True
                else:
                    raise EOFError

    def _open(self) -> None:
        """Open the rooms of new requests. Any outcome but CREATED means another request's room."""
        if not self._new:
            return
        now = time.monotonic()
        self._own.hold(job.room for job in self._new)
        for job, outcome in self._writer.open([job for job in self._new if job.room not in self._running]).items():
            del self._new[job]
            self._running[job.room] = HANDSHAKES[self._side](job, self._plan.speed, now)
            self._room_of[job.request] = job.room
            self._events.append(Opened(job.request, outcome, now))
        for job in [job for job, patience in self._new.items() if patience.is_over(now)]:
            del self._new[job]  # another request keeps the room
            self._events.append(Ended(job.request, "timed out", now))

    def _poll(self) -> Actions:
        """Let the handshake of every running room take its step."""
        actions = Actions()
        rooms = list(self._running)
        if rooms:
            statuses = self._own.poll(rooms)
            now = time.monotonic()
            for room, status in zip(rooms, statuses, strict=True):
                handshake = self._running[room]
                current = self._writer.current_status(handshake.job) if status is None else status
                handshake.advance(current, now, actions)
        return actions

    def _answer_announcements(self, actions: Actions) -> None:
        """On the prefill side: note which requests decode announced, and start those whose room has the status."""
        early = []
        for request in self._announced:
            room = self._room_of.get(request)
            if room is None:
                early.append(request)  # decode was faster than the router's message to this worker
                continue
            handshake = self._running.get(room)
            if isinstance(handshake, Prefill) and handshake.job.request == request:
                self._writer.set_prefix(handshake.job)
                handshake.announced(actions)
        self._announced = early
        for handshake in self._running.values():
            if isinstance(handshake, Prefill) and handshake.waits_for_start:
                handshake.start(self._writer.take_prefix(handshake.job), time.monotonic())

    def _write(self, actions: Actions) -> None:
        self._events += (Announced(request) for request in actions.announced)
        for table, write, statuses in (
            (self._writer.own, self._writer.write, actions.own),
            (self._writer.peer, self._writer.write_peer, actions.peer),
        ):
            by_job = {self._running[room].job: status for room, status in statuses.items()}
            for job, update in (write(by_job) if by_job else {}).items():
                if update.outcome is Outcome.CREATED:  # it arrived after the clear
                    self._arrived(job.request, table.side, by_job[job], update, planned=False)
        for room, reason, both in actions.aborts:
            self._writer.abort(self._running[room].job, reason, both)

    def _conclude(self, actions: Actions) -> None:
        """Clear the rooms of finished requests, and report their results to the router."""
        if not actions.ended:
            return
        ended = {self._running[room].job: self._running.pop(room) for room in actions.ended}
        failed = [job for job, handshake in ended.items() if handshake.status is KVPoll.Failed]
        reasons = self._writer.end(ended, failed)
        for job, handshake in ended.items():
            result: Result = "success" if handshake.status is KVPoll.Success else "failed"
            if job in reasons:
                result = handshake.result(reasons[job])
            now = time.monotonic()
            self._events.append(Ended(job.request, result, now))
            self._own.forget(job.room)
            if job.late:
                heapq.heappush(self._late, (now + job.late.delay, job, job.late))

    def _send_late(self) -> None:
        while self._late and self._late[0][0] <= time.monotonic():
            _, job, late = heapq.heappop(self._late)
            self._arrived(job.request, self._side, late.status, self._writer.write_late(job, late.status), planned=True)

    def _touch(self) -> None:
        if self._running and time.monotonic() >= self._touch_at:
            self._touch_at = time.monotonic() + self._plan.ttl / 4
            self._own.store.touch(self._running)

    def _arrived(self, request: int, side: Side, status: KVPoll, update: Update, planned: bool) -> None:
        self._events.append(Arrived(request, side, status, update.outcome, time.monotonic(), planned))

    def _report(self) -> None:
        if writes := self._writer.take_writes():
            self._events.append(Written(writes))
        self._events += (PeerWrote(request) for request in self._writer.take_peer_wrote())
        now = time.monotonic()
        if now >= self._report_at or self._events:
            self._report_at = now + REPORT_SECONDS
            measured = self._meter.take()
            if measured.updates or measured.polls or self._running:  # the router hears that the loop turns
                self._events.append(measured)
        for event in self._events:
            self._pipe.send(event)
        self._events.clear()
