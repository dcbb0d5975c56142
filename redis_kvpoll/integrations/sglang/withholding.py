"""A block of SGLang's code at whose end the table hears what it has changed in a room."""

from __future__ import annotations

from redis_kvpoll.agent.outbox import Outbox
from redis_kvpoll.integrations.sglang.changes import Changes


class Withholding:
    """Keeps a room's changes from the table until the end of the block.

    A class, because a generator with ``contextmanager`` takes three times as long: each request has such a block.
    """

    __slots__ = ("_changes", "_outbox", "_room")

    def __init__(self, outbox: Outbox, changes: Changes, room: int) -> None:
        self._outbox = outbox
        self._changes = changes
        self._room = room

    def __enter__(self) -> None:
        with self._changes.lock:
            self._outbox.withhold(self._room)

    def __exit__(self, *_: object) -> None:
        with self._changes.lock:
            self._outbox.release(self._room)
            self._changes.settle()
