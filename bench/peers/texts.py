"""On the same Redis: our ways, and common ones over plain keys that hold the status as a number."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import ClassVar

import redis

from bench.ground import TTL
from bench.peers.way import GIVE_UP_SECONDS, Shared, Way, merged, wait_until
from redis_kvpoll import KVPoll, Outcome, StatusStore


class Ours(Way):
    shown: ClassVar[str] = "redis_kvpoll (ours)"
    learns: ClassVar[str] = "store.wait"
    lacks: ClassVar[str] = ""

    def __init__(self, shared: Shared) -> None:
        self._store = StatusStore(redis.Redis.from_url(shared.url, protocol=3), namespace=shared.namespace)

    def merge(self, room: int, status: int) -> bool:
        return self._store.update_status(room, status).outcome is Outcome.CREATED

    def clear(self, room: int) -> bool:
        return self._store.clear(room) is not None

    def read(self, rooms: Sequence[int]) -> list[int | None]:
        return list(self._store.poll(rooms))

    def until(self, room: int, status: int) -> None:
        self._store.wait(room, KVPoll(status), timeout=GIVE_UP_SECONDS)

    def close(self) -> None:
        self._store.close()


class Mirrored(Ours):
    """Reads from a local copy that follows the change feed."""

    shown: ClassVar[str] = "redis_kvpoll mirror (ours)"
    learns: ClassVar[str] = "mirror.wait"

    def __init__(self, shared: Shared) -> None:
        super().__init__(shared)
        self._closing = contextlib.ExitStack()
        self._mirror = self._closing.enter_context(self._store.mirror())
        wait_until(lambda: self._mirror.synced)

    def read(self, rooms: Sequence[int]) -> list[int | None]:
        return list(self._mirror.poll(rooms))

    def until(self, room: int, status: int) -> None:
        # A room that another process has just created is absent here for a moment.
        wait_until(lambda: self._mirror.get(room) is not None)
        self._mirror.wait(room, KVPoll(status), timeout=GIVE_UP_SECONDS)

    def close(self) -> None:
        self._closing.close()
        super().close()


class Naive(Way):
    """GET, then SET: a naive first version."""

    shown: ClassVar[str] = "GET then SET, unguarded"
    lacks: ClassVar[str] = "any guard: it shows that the sum finds lost writes"

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

    def read(self, rooms: Sequence[int]) -> list[int | None]:
        return [_number(value) for value in self._client.mget([f"{self._prefix}{room}" for room in rooms])]

    def close(self) -> None:
        self._client.close()


class Watch(Naive):
    """Read under WATCH, write in MULTI/EXEC, and start again if another client was faster."""

    shown: ClassVar[str] = "WATCH/MULTI/EXEC loop"
    lacks: ClassVar[str] = "a wake-up on a change; ranks; reasons"

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
    """GET and SET under redis-py's lock, one per room, with retries after 1 ms instead of redis-py's 100 ms."""

    shown: ClassVar[str] = "redis.lock.Lock, GET, SET"
    lacks: ClassVar[str] = "a wake-up on a change; a holder that dies blocks its room until the lock expires"

    def merge(self, room: int, status: int) -> bool:
        with self._lock(room):
            return super().merge(room, status)

    def clear(self, room: int) -> bool:
        with self._lock(room):
            return super().clear(room)

    def _lock(self, room: int) -> redis.lock.Lock:
        lock: redis.lock.Lock = self._client.lock(f"{self._prefix}{room}:lock", timeout=10, sleep=0.001)
        return lock


def _number(value: bytes | str | None) -> int | None:
    return None if value is None else int(value)
