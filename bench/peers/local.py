"""Without a status server: a dict in another process, and replicas that push changes to each other."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, ClassVar

from bench.peers.way import GIVE_UP_SECONDS, Shared, Way, merged


class Manager(Way):
    """A dict of a multiprocessing.Manager under a lock."""

    shown: ClassVar[str] = "Manager dict under a lock"
    lacks: ClassVar[str] = "other hosts; a TTL; inspection from outside; a wake-up; a holder that dies blocks all"

    def __init__(self, shared: Shared) -> None:
        assert shared.lock is not None  # noqa: S101 - every process gets it
        self._table, self._lock = shared.table, shared.lock

    def merge(self, room: int, status: int) -> bool:
        with self._lock:
            current = self._table.get(room)
            new = merged(current, status)
            if new is None or new == current:
                return False
            self._table[room] = new
            return current is None

    def clear(self, room: int) -> bool:
        with self._lock:
            return self._table.pop(room, None) is not None

    def read(self, rooms: Sequence[int]) -> list[int | None]:
        if len(rooms) == 1:
            return [self._table.get(rooms[0])]
        table = self._table.copy()  # one round trip for all
        return [table.get(room) for room in rooms]


_GONE, _END = "gone", "end"


class Replica(Way):
    """A dict per process; each change is merged locally, then pushed to all others, as PPConsensusStore does.

    Reads are local, and see the changes that have arrived so far.
    """

    shown: ClassVar[str] = "ZMQ PUSH/PULL replicas"
    service: ClassVar[str] = "zmq"
    learns: ClassVar[str] = "ZMQ PULL"
    lacks: ClassVar[str] = (
        "one order of changes, so whether this call created the room, and one table at the end; a TTL; "
        "inspection from outside; the past for a process that joins late"
    )

    def __init__(self, shared: Shared) -> None:
        import zmq

        self._again = zmq.Again
        self._nowait = zmq.NOBLOCK
        self._context = zmq.Context()
        self._table: dict[int, int] = {}
        self._ended = 0
        self._in = self._socket(zmq.PULL)
        self._in.bind(f"tcp://127.0.0.1:{shared.ports[shared.number]}")
        self._out = []
        for number, port in enumerate(shared.ports):
            if number != shared.number:
                self._out.append(self._socket(zmq.PUSH))
                self._out[-1].connect(f"tcp://127.0.0.1:{port}")

    def _socket(self, kind: int) -> Any:
        made = self._context.socket(kind)
        made.set_hwm(0)  # lose nothing, and never block
        made.linger = 0
        made.reconnect_ivl = 5  # another process may bind later than this one connects
        made.rcvtimeo = int(GIVE_UP_SECONDS * 1000)
        return made

    def merge(self, room: int, status: int) -> bool:
        self._apply_arrived()
        current = self._table.get(room)
        new = merged(current, status)
        if new is None or new == current:
            return False
        self._table[room] = new
        self._push(f"{room} {status}")
        return current is None

    def clear(self, room: int) -> bool:
        self._apply_arrived()
        there = self._table.pop(room, None) is not None
        if there:
            self._push(f"{room} {_GONE}")
        return there

    def read(self, rooms: Sequence[int]) -> list[int | None]:
        self._apply_arrived()
        return [self._table.get(room) for room in rooms]

    def settle(self) -> None:
        self._push(f"0 {_END}")
        while self._ended < len(self._out):
            self._apply(self._in.recv())

    def listen(self, rooms: Sequence[int]) -> None:
        while not self._table:  # the first message shows that the other is connected
            self._apply(self._in.recv())

    def until(self, room: int, status: int) -> None:
        give_up_at = time.monotonic() + GIVE_UP_SECONDS
        while self._table.get(room) != status:
            if time.monotonic() > give_up_at:
                raise TimeoutError(f"{self.shown}: nothing arrived")
            self._apply(self._in.recv())

    def close(self) -> None:
        self._context.destroy(linger=0)

    def _push(self, message: str) -> None:
        for out in self._out:
            out.send(message.encode())

    def _apply_arrived(self) -> None:
        try:
            while True:
                self._apply(self._in.recv(self._nowait))
        except self._again:
            pass

    def _apply(self, message: bytes) -> None:
        room, what = message.decode().split()
        if what == _END:
            self._ended += 1
        elif what == _GONE:
            self._table.pop(int(room), None)
        else:
            new = merged(self._table.get(int(room)), int(what))
            if new is not None:
                self._table[int(room)] = new
