"""NATS: a JetStream key-value bucket in memory; each write depends on the key's revision."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, ClassVar

from bench.peers.way import GIVE_UP_SECONDS, Shared, Way, merged

_BUCKET = "rooms"
_OTHER_REVISION = 10071


class Nats(Way):
    shown: ClassVar[str] = "NATS KV compare-and-set"
    service: ClassVar[str] = "nats"
    learns: ClassVar[str] = "NATS KV watch"
    lacks: ClassVar[str] = "a TTL a room (the bucket has one for all); a cleared room leaves a tombstone"

    @classmethod
    def set_up(cls, address: str) -> None:
        import nats
        from nats.js import api

        async def make() -> None:
            client = await nats.connect(address)
            config = api.KeyValueConfig(bucket=_BUCKET, storage=api.StorageType.MEMORY, direct=True)
            await client.jetstream().create_key_value(config)
            await client.close()

        asyncio.run(make())

    def __init__(self, shared: Shared) -> None:
        self._runner = asyncio.Runner()
        self._prefix = f"{shared.namespace}."
        self._runner.run(self._connect(shared.address))
        self._watcher: Any = None

    async def _connect(self, address: str) -> None:
        import nats
        from nats.js import errors

        self._errors = errors
        self._client = await nats.connect(address, connect_timeout=int(GIVE_UP_SECONDS))
        self._bucket = await self._client.jetstream(timeout=GIVE_UP_SECONDS).key_value(_BUCKET)

    def merge(self, room: int, status: int) -> bool:
        return self._runner.run(self._merge(f"{self._prefix}{room}", status))

    async def _merge(self, key: str, status: int) -> bool:
        while True:
            current, revision = await self._get(key)
            new = merged(current, status)
            if new is None or new == current:
                return False
            try:
                await self._bucket.update(key, str(new).encode(), last=revision)
            except self._errors.KeyWrongLastSequenceError:
                continue
            return current is None

    def clear(self, room: int) -> bool:
        return self._runner.run(self._clear(f"{self._prefix}{room}"))

    async def _clear(self, key: str) -> bool:
        while True:
            current, revision = await self._get(key)
            if current is None:
                return False
            try:
                await self._bucket.delete(key, last=revision)
            except self._errors.APIError as error:
                if error.err_code != _OTHER_REVISION:
                    raise
                continue
            return True

    def read(self, rooms: Sequence[int]) -> list[int | None]:
        return self._runner.run(self._read(rooms))

    async def _read(self, rooms: Sequence[int]) -> list[int | None]:
        found = await asyncio.gather(*(self._get(f"{self._prefix}{room}") for room in rooms))
        return [status for status, _ in found]

    async def _get(self, key: str) -> tuple[int | None, int]:
        """A key's value and revision; a cleared key still has a revision."""
        try:
            entry = await self._bucket.get(key)
        except self._errors.KeyNotFoundError as missing:
            return None, missing.entry.revision if missing.entry else 0
        return int(entry.value or b""), entry.revision or 0

    def listen(self, rooms: Sequence[int]) -> None:
        async def begin() -> None:
            self._watcher = await self._bucket.watch(f"{self._prefix}>", include_history=False)
            while await self._watcher.updates(GIVE_UP_SECONDS) is not None:
                pass  # skip what exists already

        self._runner.run(begin())

    def until(self, room: int, status: int) -> None:
        async def arrive() -> None:
            while True:
                update = await self._watcher.updates(GIVE_UP_SECONDS)
                if (
                    update is not None
                    and update.key == f"{self._prefix}{room}"
                    and update.value == str(status).encode()
                ):
                    return

        self._runner.run(arrive())

    def close(self) -> None:
        self._runner.run(self._client.close())
        self._runner.close()
