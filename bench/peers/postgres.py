"""PostgreSQL: the merge rule in one INSERT ... ON CONFLICT."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from bench.peers.way import GIVE_UP_SECONDS, Shared, Way

_TABLE = """
CREATE UNLOGGED TABLE rooms (
    namespace text NOT NULL, room bigint NOT NULL, status smallint NOT NULL, PRIMARY KEY (namespace, room)
) WITH (fillfactor = 50)"""

# xmax is 0 in a row that an insert made, and not 0 in an updated one. A merge without a change writes nothing.
_MERGE = """
INSERT INTO rooms AS r (namespace, room, status) VALUES (%s, %s, %s)
ON CONFLICT (namespace, room) DO UPDATE SET status = greatest(r.status, excluded.status)
WHERE r.status < excluded.status
RETURNING xmax = 0"""

_MERGE_AND_NOTIFY = f"WITH done AS ({_MERGE}) SELECT pg_notify('rooms', %s) FROM done"  # noqa: S608 - our own text

_FAIL = "UPDATE rooms SET status = 0 WHERE namespace = %s AND room = %s AND status <> 0 RETURNING false"

_CLEAR = "DELETE FROM rooms WHERE namespace = %s AND room = %s"

_READ = "SELECT room, status FROM rooms WHERE namespace = %s AND room = ANY(%s)"


class Postgres(Way):
    shown: ClassVar[str] = "PostgreSQL ON CONFLICT"
    service: ClassVar[str] = "postgres"
    learns: ClassVar[str] = "LISTEN/NOTIFY"
    lacks: ClassVar[str] = (
        "a TTL (a job must sweep); a notification without a further statement (rates are without one)"
    )

    @classmethod
    def set_up(cls, address: str) -> None:
        import psycopg

        with psycopg.connect(address, autocommit=True) as connection:
            connection.execute(_TABLE)

    def __init__(self, shared: Shared) -> None:
        import psycopg

        self._namespace = shared.namespace
        self._connection = psycopg.connect(shared.address, autocommit=True, prepare_threshold=0)
        self._cursor = self._connection.cursor()

    def merge(self, room: int, status: int) -> bool:
        if status == 0:
            self._cursor.execute(_FAIL, (self._namespace, room))
            return False
        row = self._cursor.execute(_MERGE, (self._namespace, room, status)).fetchone()
        return row is not None and bool(row[0])

    def clear(self, room: int) -> bool:
        return bool(self._cursor.execute(_CLEAR, (self._namespace, room)).rowcount)

    def read(self, rooms: Sequence[int]) -> list[int | None]:
        found: dict[int, int] = dict(self._cursor.execute(_READ, (self._namespace, list(rooms))).fetchall())
        return [found.get(room) for room in rooms]

    def announce(self, room: int, status: int) -> None:
        self._cursor.execute(_MERGE_AND_NOTIFY, (self._namespace, room, status, f"{room} {status}"))

    def listen(self, rooms: Sequence[int]) -> None:
        self._cursor.execute("LISTEN rooms")

    def until(self, room: int, status: int) -> None:
        for notice in self._connection.notifies(timeout=GIVE_UP_SECONDS):
            if notice.payload == f"{room} {status}":
                return
        raise TimeoutError(f"{self.shown}: nothing arrived")

    def close(self) -> None:
        self._connection.close()
