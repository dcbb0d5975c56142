"""How a worker writes: by plain calls, or through the generations of its rooms, under a lease."""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from redis_kvpoll.errors import KVTransferError, RoomBusyError, RoomNotFoundError
from redis_kvpoll.model import KVPoll, Outcome, Update
from redis_kvpoll.replay.messages import Job
from redis_kvpoll.replay.tables import Table
from redis_kvpoll.sync.room import Room

RETRY_SECONDS = 0.05
"""Between two looks for a room of the other side."""
OWED_SECONDS = 5.0
"""How long a word to the other side is kept for it, when it is not there: far longer than anybody is away."""


class Writer(ABC):
    """What a worker does to rooms. ``own`` is the table of its side, ``peer`` the other's."""

    def __init__(self, own: Table, peer: Table) -> None:
        self.own = own
        self.peer = peer

    @abstractmethod
    @contextmanager
    def at_work(self) -> Iterator[None]:
        """The block in which a worker works."""

    @abstractmethod
    def open(self, jobs: list[Job]) -> dict[Job, Outcome]:
        """Open the entries of new requests; those that are not in the answer are to be tried again."""

    @abstractmethod
    def write(self, statuses: Mapping[Job, KVPoll]) -> dict[Job, Update]:
        """Write into the own table."""

    @abstractmethod
    def tell(self, statuses: Mapping[Job, KVPoll]) -> dict[Job, Update]:
        """Write into the other side's table."""

    @abstractmethod
    def abort(self, job: Job, reason: str, tell: bool) -> None:
        """Fail a room, for both sides if the other is to be told."""

    @abstractmethod
    def end(self, jobs: Iterable[Job], failed: Iterable[Job]) -> dict[Job, str]:
        """Clear rooms; why those that failed did."""

    @abstractmethod
    def write_late(self, job: Job, status: KVPoll) -> Update:
        """A message that comes after the clear."""

    @abstractmethod
    def set_prefix(self, job: Job) -> None:
        """Note how much decode holds already."""

    @abstractmethod
    def take_prefix(self, job: Job) -> int:
        """What was noted."""

    def is_there(self, job: Job) -> KVPoll | None:
        """The status of a room that seems to be gone."""
        return None

    def go_on(self) -> None:
        """Do what could not be done before, if there can be such."""
        return


class PlainWriter(Writer):
    """By room alone, as SGLang does. A late message is taken for whoever has the room then."""

    @contextmanager
    def at_work(self) -> Iterator[None]:
        yield

    def open(self, jobs: list[Job]) -> dict[Job, Outcome]:
        updates = self.own.update({job.room: KVPoll.Bootstrapping for job in jobs})
        return {job: updates[job.room].outcome for job in jobs}

    def write(self, statuses: Mapping[Job, KVPoll]) -> dict[Job, Update]:
        return _by_job(self.own, statuses)

    def tell(self, statuses: Mapping[Job, KVPoll]) -> dict[Job, Update]:
        return _by_job(self.peer, statuses)

    def abort(self, job: Job, reason: str, tell: bool) -> None:
        for table in (self.own, self.peer) if tell else (self.own,):
            with table.timed() as updates:
                updates.append(table.store.abort(job.room, reason))

    def end(self, jobs: Iterable[Job], failed: Iterable[Job]) -> dict[Job, str]:
        ended = list(failed)
        self.own.store.clear_many(job.room for job in jobs if job not in ended)
        reasons = {}
        for job in ended:
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


def _by_job(table: Table, statuses: Mapping[Job, KVPoll]) -> dict[Job, Update]:
    updates = table.update({job.room: status for job, status in statuses.items()})
    return {job: updates[job.room] for job in statuses}


class FencedWriter(Writer):
    """Through the generation of each room, which the request's name finds in the other side's table, too."""

    def __init__(self, own: Table, peer: Table, lease: float) -> None:
        super().__init__(own, peer)
        self._lease = lease
        self._rooms: dict[Job, Room] = {}
        self._peers: dict[Job, Room] = {}
        self._owed: dict[Job, tuple[KVPoll | str, float]] = {}
        """A status for the other side, or the reason for its failure; and until when it is of use."""
        self._retry_at = 0.0

    @contextmanager
    def at_work(self) -> Iterator[None]:
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
            opened[job] = Outcome.CREATED
        return opened

    def write(self, statuses: Mapping[Job, KVPoll]) -> dict[Job, Update]:
        return {job: self._update(self.own, self._rooms[job], status) for job, status in statuses.items()}

    def tell(self, statuses: Mapping[Job, KVPoll]) -> dict[Job, Update]:
        self._owe(statuses)
        return {}

    def abort(self, job: Job, reason: str, tell: bool) -> None:
        with self.own.timed() as updates:
            updates.append(self._rooms[job].fail(reason))
        if tell:
            self._owe({job: reason})

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

    def is_there(self, job: Job) -> KVPoll | None:
        """After a loss of the server's data a room is gone only until this store has said it again."""
        return self._rooms[job].status()

    def go_on(self) -> None:
        now = time.monotonic()
        if self._owed and now >= self._retry_at:
            self._retry_at = now + RETRY_SECONDS
            still = ((job, owed) for job, owed in self._owed.items() if owed[1] > now)
            self._owed = {job: owed for job, owed in still if not self._pay(job, owed[0])}

    def _owe(self, words: Mapping[Job, KVPoll | str]) -> None:
        until = time.monotonic() + OWED_SECONDS
        self._owed |= {job: (word, until) for job, word in words.items() if not self._pay(job, word)}

    def _pay(self, job: Job, word: KVPoll | str) -> bool:
        """Tell the other side, if its room is there."""
        try:
            room = self._peers.get(job) or self.peer.store.attach(job.room)
        except RoomNotFoundError:
            return False
        if room.request != _name(job):
            return False
        self._peers[job] = room
        if isinstance(word, str):
            with self.peer.timed() as updates:
                updates.append(room.fail(word))
        else:
            self._update(self.peer, room, word)
        return True

    def _update(self, table: Table, room: Room, status: KVPoll) -> Update:
        with table.timed() as updates:
            updates.append(room.update(status))
        return updates[0]


def _name(job: Job) -> str:
    return f"request {job.request}"
