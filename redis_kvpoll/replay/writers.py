"""How a worker writes: by plain calls, or through room handles under a lease.

Both have the same interface, Writer. Only FencedWriter may find a room of the other side absent for a while, so it
keeps the write and retries it.
"""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from redis_kvpoll.errors import KVTransferError, RoomBusyError, RoomNotFoundError
from redis_kvpoll.model import KVPoll, Outcome, Update
from redis_kvpoll.replay.messages import Job, Write
from redis_kvpoll.replay.side_table import SideTable
from redis_kvpoll.sync.room import Room

RETRY_SECONDS = 0.05
"""The time between two attempts to write into a room of the other side."""
CHECK_PEER_SECONDS = 0.5
"""The time between two calls to the other side's table, if nothing else is to be written: a heartbeat."""
KEEP_SECONDS = 5.0
"""How long a write for an absent room of the other side is kept: far longer than a room is absent during recovery."""


class Writer(ABC):
    """A worker's writes. ``own`` is the table of its side, ``peer`` the other side's."""

    def __init__(self, own: SideTable, peer: SideTable) -> None:
        self.own = own
        self.peer = peer
        self._writes: list[Write] = []
        self._peer_wrote: list[int] = []

    @abstractmethod
    @contextmanager
    def session(self) -> Iterator[None]:
        """The block in which a worker writes."""

    @abstractmethod
    def open(self, jobs: list[Job]) -> dict[Job, Outcome]:
        """Open the rooms of new requests; those missing from the result must be tried again."""

    @abstractmethod
    def write(self, statuses: Mapping[Job, KVPoll]) -> dict[Job, Update]:
        """Write into this side's table."""

    @abstractmethod
    def write_peer(self, statuses: Mapping[Job, KVPoll]) -> dict[Job, Update]:
        """Write into the other side's table."""

    @abstractmethod
    def abort(self, job: Job, reason: str, both: bool) -> None:
        """Fail a room, on both sides if asked to."""

    @abstractmethod
    def end(self, jobs: Iterable[Job], failed: Iterable[Job]) -> dict[Job, str]:
        """Clear rooms; returns the reasons of the failed ones."""

    @abstractmethod
    def write_late(self, job: Job, status: KVPoll) -> Update:
        """Write a status after the clear."""

    @abstractmethod
    def set_prefix(self, job: Job) -> None:
        """Record the length of the prefix that decode has."""

    @abstractmethod
    def take_prefix(self, job: Job) -> int:
        """The recorded prefix length."""

    def current_status(self, job: Job) -> KVPoll | None:
        """The status of a room that a poll found absent."""
        return None

    def retry_pending(self) -> None:
        """Repeat the writes that found a room of the other side absent, or that the server has lost since."""
        return

    def take_peer_wrote(self) -> list[int]:
        """The requests with a status that reached the other side's table since the last call of this."""
        taken, self._peer_wrote = self._peer_wrote, []
        return taken

    def take_writes(self) -> list[Write]:
        """The writes through handles since the last call of this, late messages excepted."""
        taken, self._writes = self._writes, []
        return taken


class PlainWriter(Writer):
    """Writes by room id alone, as SGLang does. A late message changes whichever request has the room then."""

    @contextmanager
    def session(self) -> Iterator[None]:
        yield

    def open(self, jobs: list[Job]) -> dict[Job, Outcome]:
        updates = self.own.update({job.room: KVPoll.Bootstrapping for job in jobs})
        return {job: updates[job.room].outcome for job in jobs}

    def write(self, statuses: Mapping[Job, KVPoll]) -> dict[Job, Update]:
        return _by_job(self.own, statuses)

    def write_peer(self, statuses: Mapping[Job, KVPoll]) -> dict[Job, Update]:
        self._peer_wrote += [job.request for job in statuses]
        return _by_job(self.peer, statuses)

    def abort(self, job: Job, reason: str, both: bool) -> None:
        for table in (self.own, self.peer) if both else (self.own,):
            with table.timed() as updates:
                updates.append(table.store.abort(job.room, reason))
            table.learn(job.room, updates[0])

    def end(self, jobs: Iterable[Job], failed: Iterable[Job]) -> dict[Job, str]:
        failed = list(failed)
        self.own.store.clear_many(job.room for job in jobs if job not in failed)
        reasons = {}
        for job in failed:
            try:
                self.own.store.failure_exception(job.room)
            except KVTransferError as error:
                reasons[job] = error.reason
        return reasons

    def write_late(self, job: Job, status: KVPoll) -> Update:
        return self.own.update({job.room: status})[job.room]

    def set_prefix(self, job: Job) -> None:
        self.own.store.set_decode_prefix_len(job.room, job.prefix_length)

    def take_prefix(self, job: Job) -> int:
        return self.own.store.pop_decode_prefix_len(job.room)


def _by_job(table: SideTable, statuses: Mapping[Job, KVPoll]) -> dict[Job, Update]:
    updates = table.update({job.room: status for job, status in statuses.items()})
    return {job: updates[job.room] for job in statuses}


class FencedWriter(Writer):
    """Writes through each room's generation. The request's name identifies the room in the other side's table."""

    def __init__(self, own: SideTable, peer: SideTable, lease: float) -> None:
        super().__init__(own, peer)
        self._lease = lease
        self._rooms: dict[Job, Room] = {}
        self._peers: dict[Job, Room] = {}
        self._pending: dict[Job, tuple[KVPoll | str, float]] = {}
        """A status for the other side, or the reason of a failure; and until when to retry it."""
        self._retry_at = 0.0
        self._check_peer_at = 0.0

    @contextmanager
    def session(self) -> Iterator[None]:
        with self.own.store.lease(f"{self.own.side}-{os.getpid()}", ttl=self._lease):
            yield

    def open(self, jobs: list[Job]) -> dict[Job, Outcome]:
        opened = {}
        for job in jobs:
            try:
                with self.own.timed() as updates:
                    self._rooms[job] = self.own.store.open(job.room, request=_name(job))
                    updates.append(Update(Outcome.CREATED, KVPoll.Bootstrapping))
            except RoomBusyError:
                continue
            self.own.learn(job.room, updates[0])
            opened[job] = Outcome.CREATED
        return opened

    def write(self, statuses: Mapping[Job, KVPoll]) -> dict[Job, Update]:
        updates = {job: self._update(self.own, self._rooms[job], status) for job, status in statuses.items()}
        for job, update in updates.items():
            self._note(job, self.own, statuses[job], update)
        return updates

    def write_peer(self, statuses: Mapping[Job, KVPoll]) -> dict[Job, Update]:
        self._write_peer_or_keep(statuses)
        return {}

    def abort(self, job: Job, reason: str, both: bool) -> None:
        self._note(job, self.own, KVPoll.Failed, self._fail(self.own, self._rooms[job], reason))
        if both:
            self._write_peer_or_keep({job: reason})

    def end(self, jobs: Iterable[Job], failed: Iterable[Job]) -> dict[Job, str]:
        reasons = {}
        for job in failed:
            entry = self.own.store.entry(job.room)
            is_ours = entry is not None and entry.generation == self._rooms[job].generation
            reasons[job] = (entry.reason if entry and is_ours else None) or "lost"
        for job in jobs:
            self._rooms[job].clear()
            self._peers.pop(job, None)
            if job.late is None:
                del self._rooms[job]
        return reasons

    def write_late(self, job: Job, status: KVPoll) -> Update:
        return self._update(self.own, self._rooms.pop(job), status)

    def set_prefix(self, job: Job) -> None:
        self._rooms[job].set_decode_prefix_len(job.prefix_length)

    def take_prefix(self, job: Job) -> int:
        return self._rooms[job].decode_prefix_len()

    def current_status(self, job: Job) -> KVPoll | None:
        """After a loss of the server's data a room is absent only until this store has replayed it: ask by handle."""
        return self._rooms[job].status()

    def retry_pending(self) -> None:
        now = time.monotonic()
        if self._pending and now >= self._retry_at:
            self._retry_at = now + RETRY_SECONDS
            kept = ((job, write) for job, write in self._pending.items() if write[1] > now)
            self._pending = {job: write for job, write in kept if not self._try_write_peer(job, write[0])}
        if now >= self._check_peer_at:
            # Without a lease there, that store replays what a killed server has lost only with its next call.
            self._check_peer_at = now + CHECK_PEER_SECONDS
            self.peer.store.get(0)

    def _write_peer_or_keep(self, writes: Mapping[Job, KVPoll | str]) -> None:
        until = time.monotonic() + KEEP_SECONDS
        self._pending |= {job: (what, until) for job, what in writes.items() if not self._try_write_peer(job, what)}

    def _try_write_peer(self, job: Job, what: KVPoll | str) -> bool:
        """Write a status or a failure into the other side's room; returns False if the room is absent."""
        try:
            room = self._peers.get(job) or self.peer.store.attach(job.room)
        except RoomNotFoundError:
            return False
        if room.request != _name(job):
            return False
        self._peers[job] = room
        if isinstance(what, str):
            self._note(job, self.peer, KVPoll.Failed, self._fail(self.peer, room, what))
        else:
            self._note(job, self.peer, what, self._update(self.peer, room, what))
            self._peer_wrote.append(job.request)
        return True

    def _update(self, table: SideTable, room: Room, status: KVPoll) -> Update:
        with table.timed() as updates:
            updates.append(room.update(status))
        table.learn(room.id, updates[0])
        return updates[0]

    def _fail(self, table: SideTable, room: Room, reason: str) -> Update:
        with table.timed() as updates:
            updates.append(room.fail(reason))
        table.learn(room.id, updates[0])
        return updates[0]

    def _note(self, job: Job, table: SideTable, status: KVPoll, update: Update) -> None:
        self._writes.append(Write(job.request, table.side, status, update.outcome, time.monotonic()))


def _name(job: Job) -> str:
    return f"request {job.request}"
