"""Ways to share the table between processes: ours, and those that people write.

Every way follows the same rule and says of a merge whether it created the room, of a clear whether it was there.
Text keys hold the status as a number.
"""

from __future__ import annotations

from multiprocessing.managers import DictProxy
from multiprocessing.synchronize import Lock
from typing import ClassVar, NamedTuple, Protocol

import redis

from bench.ground import TTL
from redis_kvpoll import Outcome, StatusStore


class Shared(NamedTuple):
    """What the processes have in common."""

    url: str
    namespace: str
    table: DictProxy[int, int]
    """Of a multiprocessing.Manager."""
    lock: Lock


class Way(Protocol):
    shown: ClassVar[str]

    def __init__(self, shared: Shared) -> None: ...
    def merge(self, room: int, status: int) -> bool: ...
    def clear(self, room: int) -> bool: ...
    def left(self, rooms: list[int]) -> list[int]: ...
    def close(self) -> None: ...


def merged(current: int | None, incoming: int) -> int | None:
    """The rule (compat), in the process."""
    if incoming == 0:
        return None if current is None else 0
    return incoming if current is None else max(current, incoming)


class Ours:
    shown: ClassVar[str] = "redis_kvpoll (ours)"

    def __init__(self, shared: Shared) -> None:
        self._store = StatusStore(redis.Redis.from_url(shared.url, protocol=3), namespace=shared.namespace)

    def merge(self, room: int, status: int) -> bool:
        return self._store.update_status(room, status).outcome is Outcome.CREATED

    def clear(self, room: int) -> bool:
        return self._store.clear(room) is not None

    def left(self, rooms: list[int]) -> list[int]:
        return [room for room, status in zip(rooms, self._store.poll(rooms), strict=True) if status is not None]

    def close(self) -> None:
        self._store.close()


class Naive:
    """GET, then SET: what a first version does."""

    shown: ClassVar[str] = "GET then SET, unguarded"

    def __init__(self, shared: Shared) -> None:
        self._client: redis.Redis = redis.Redis.from_url(shared.url, protocol=3)
        self._prefix = f"kvpoll:{{{shared.namespace}}}:text:"

    def merge(self, room: int, status: int) -> bool:
        key = f"{self._prefix}{room}"
        current = _number(self._client.get(key))
        new = merged(current, status)
        if new != current:
            self._client.set(key, str(new), ex=TTL)
        return current is None and new is not None

    def clear(self, room: int) -> bool:
        return self._client.delete(f"{self._prefix}{room}") == 1

    def left(self, rooms: list[int]) -> list[int]:
        values = self._client.mget([f"{self._prefix}{room}" for room in rooms])
        return [room for room, value in zip(rooms, values, strict=True) if value is not None]

    def close(self) -> None:
        self._client.close()


class Watch(Naive):
    """Read under WATCH, write in MULTI/EXEC, and begin again when somebody was faster."""

    shown: ClassVar[str] = "WATCH/MULTI/EXEC loop"

    def merge(self, room: int, status: int) -> bool:
        key = f"{self._prefix}{room}"
        with self._client.pipeline() as pipe:
            while True:
                try:
                    pipe.watch(key)
                    current = _number(pipe.get(key))
                    new = merged(current, status)
                    if new == current:
                        return False
                    pipe.multi()
                    pipe.set(key, str(new), ex=TTL)
                    pipe.execute()
                    return current is None
                except redis.WatchError:
                    continue


class Locked(Naive):
    """GET and SET under redis-py's lock, one a room. Tried again after 1 ms, where redis-py's default is 100 ms."""

    shown: ClassVar[str] = "redis.lock.Lock, GET, SET"

    def merge(self, room: int, status: int) -> bool:
        with self._lock(room):
            return super().merge(room, status)

    def clear(self, room: int) -> bool:
        with self._lock(room):
            return super().clear(room)

    def _lock(self, room: int) -> redis.lock.Lock:
        lock: redis.lock.Lock = self._client.lock(f"{self._prefix}{room}:lock", timeout=10, sleep=0.001)
        return lock


class Manager:
    """A dict of a multiprocessing.Manager under a lock: on one host only, with no TTL and no look from outside."""

    shown: ClassVar[str] = "Manager dict under a lock"

    def __init__(self, shared: Shared) -> None:
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

    def left(self, rooms: list[int]) -> list[int]:
        return [room for room in rooms if room in self._table]

    def close(self) -> None:
        pass


def _number(value: bytes | str | None) -> int | None:
    return None if value is None else int(value)


WAYS: dict[str, type[Way]] = {"ours": Ours, "watch": Watch, "lock": Locked, "manager": Manager, "naive": Naive}
