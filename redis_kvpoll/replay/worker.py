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

from redis_kvpoll.errors import KVPollError
from redis_kvpoll.model import KVPoll, Outcome, Update
from redis_kvpoll.replay.fault_plan import Late, Side
from redis_kvpoll.replay.handshake import HANDSHAKES, Decode, Prefill, Turn, timeout_seconds
from redis_kvpoll.replay.messages import (
    Announced,
    Arrived,
    Broken,
    Ended,
    FromWorker,
    Job,
    Opened,
    Plan,
    Result,
    Stop,
    ToWorker,
)
from redis_kvpoll.replay.tables import Meter, Table
from redis_kvpoll.replay.writers import FencedWriter, PlainWriter, Writer

LOOK_SECONDS = 0.004
"""Between two looks at all rooms: a scheduler's loop is of this order."""


def main(side: Side, plan: Plan, pipe: Connection[FromWorker, ToWorker]) -> None:
    """The whole life of a worker process. It ends when the router says so, or is gone."""
    # Ctrl-C reaches the whole group of processes; the router decides how it ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # That a mirror is not current is counted; where the server is killed on purpose, warnings would be no news.
    logging.getLogger("redis_kvpoll").setLevel(logging.ERROR)
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        try:
            Worker(side, plan, pipe).run()
        except KVPollError as error:
            pipe.send(Broken(str(error)))


class Worker:
    """Rooms in flight, and what is to be done about them."""

    def __init__(self, side: Side, plan: Plan, pipe: Connection[FromWorker, ToWorker]) -> None:
        self._side, self._plan, self._pipe = side, plan, pipe
        self._inbox: queue.SimpleQueue[ToWorker | None] = queue.SimpleQueue()
        self._meter = Meter()
        self._own = Table(plan, side, self._meter)
        peer = Table(plan, "decode" if side == "prefill" else "prefill", self._meter)
        self._writer: Writer = (
            PlainWriter(self._own, peer) if plan.lease is None else FencedWriter(self._own, peer, plan.lease)
        )
        self._new: dict[Job, float] = {}  # with when each came
        self._running: dict[int, Prefill | Decode] = {}  # by room
        self._known: dict[int, int] = {}  # room by request, of all requests so far
        self._announced: list[int] = []
        self._late: list[tuple[float, Job, Late]] = []  # a heap: when, whose, message
        self._touch_at = 0.0
        self._stopping = False
        self._events: list[FromWorker] = []

    def run(self) -> None:
        # The router must never wait for us to read, for we may be waiting for it to do so.
        threading.Thread(target=self._receive, daemon=True).start()
        with self._own.mirrored(), self._writer.at_work():
            while not (self._stopping and not self._new and not self._running and not self._late):
                self._listen()
                self._open()
                turn = self._look()
                self._answer_announcements(turn)
                self._write(turn)
                self._writer.go_on()
                self._conclude(turn)
                self._send_late()
                self._touch()
                self._report()

    def _receive(self) -> None:
        """Read all that the router says, at once; None stands for its end."""
        try:
            while True:
                self._inbox.put(self._pipe.recv())
        except (EOFError, OSError):
            self._inbox.put(None)

    def _listen(self) -> None:
        wait = LOOK_SECONDS if self._running or self._late or self._new else None
        with contextlib.suppress(queue.Empty):
            while True:
                message = self._inbox.get(timeout=wait)
                wait = 0
                if isinstance(message, Job):
                    self._new[message] = time.monotonic()
                elif isinstance(message, Announced):
                    self._announced.append(message.request)
                elif isinstance(message, Stop):
                    self._stopping = True
                else:
                    raise EOFError

    def _open(self) -> None:
        """Open the entries of new requests. Whatever but CREATED they are born with is somebody else's."""
        if not self._new:
            return
        now = time.monotonic()
        self._own.follow(job.room for job in self._new)
        for job, outcome in self._writer.open([job for job in self._new if job.room not in self._running]).items():
            del self._new[job]
            self._running[job.room] = HANDSHAKES[self._side](job, self._plan.speed, now)
            self._known[job.request] = job.room
            self._events.append(Opened(job.request, outcome, now))
        for job in [job for job, since in self._new.items() if now - since > timeout_seconds(self._plan.speed)]:
            del self._new[job]  # whoever has its room does not go
            self._events.append(Ended(job.request, "timed out", now))

    def _look(self) -> Turn:
        """Poll every room in flight and let each take its step."""
        turn = Turn()
        rooms = list(self._running)
        if rooms:
            statuses = self._own.poll(rooms)
            now = time.monotonic()
            for room, status in zip(rooms, statuses, strict=True):
                handshake = self._running[room]
                handshake.look(self._writer.is_there(handshake.job) if status is None else status, now, turn)
        return turn

    def _answer_announcements(self, turn: Turn) -> None:
        """Prefill's part: when decode is ready, and when the table says so."""
        early = []
        for request in self._announced:
            room = self._known.get(request)
            if room is None:
                early.append(request)  # decode was faster than the router's word to us
                continue
            handshake = self._running.get(room)
            if isinstance(handshake, Prefill) and handshake.job.request == request:
                self._writer.set_prefix(handshake.job)
                handshake.announced(turn)
        self._announced = early
        for handshake in self._running.values():
            if isinstance(handshake, Prefill) and handshake.waits_for_start:
                handshake.start(self._writer.take_prefix(handshake.job), time.monotonic())

    def _write(self, turn: Turn) -> None:
        self._events += (Announced(request) for request in turn.announced)
        for table, write, statuses in (
            (self._writer.own, self._writer.write, turn.own),
            (self._writer.peer, self._writer.tell, turn.peer),
        ):
            words = {self._running[room].job: status for room, status in statuses.items()}
            for job, update in (write(words) if words else {}).items():
                if update.outcome is Outcome.CREATED:  # it came after the clear
                    self._arrived(job.request, table.side, words[job], update, planned=False)
        for room, reason, tell in turn.aborts:
            self._writer.abort(self._running[room].job, reason, tell)

    def _conclude(self, turn: Turn) -> None:
        """Clear what has ended, and tell the router."""
        if not turn.done:
            return
        done = {self._running[room].job: self._running.pop(room) for room in turn.done}
        failed = [job for job, handshake in done.items() if handshake.status is KVPoll.Failed]
        reasons = self._writer.end(done, failed)
        for job, handshake in done.items():
            result: Result = "success" if handshake.status is KVPoll.Success else "failed"
            if job in reasons:
                result = handshake.result(reasons[job])
            now = time.monotonic()
            self._events.append(Ended(job.request, result, now))
            self._own.forget([job.room])
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
        if measured := self._meter.take():
            self._events.append(measured)
        for event in self._events:
            self._pipe.send(event)
        self._events.clear()
