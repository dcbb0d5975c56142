"""A store of the model of data loss: the real Recovery, taken apart and put together for each step."""

from __future__ import annotations

import pickle
from collections.abc import Generator
from typing import Any, NamedTuple
from unittest import mock

from redis_kvpoll.engine import data_loss, recovery
from redis_kvpoll.engine.effects import Send
from redis_kvpoll.engine.recovery import Recovery
from redis_kvpoll.protocol.script_call import Call
from tests.model.operations import context
from tests.model.table import NAMESPACE

CONTEXT = context("compat")


class StubSession:
    """What Recovery needs of a session: settings that are always verified."""

    identity = CONTEXT
    namespace = NAMESPACE
    context = CONTEXT
    is_verified = True

    def server_changed(self) -> None:
        pass

    def observer_epochs(self) -> tuple[Any, ...]:
        return ()


class StubAttempts:
    """Yields a call or a Send, and returns its reply."""

    def send(self, send: Send) -> Generator[Any, Any, Any]:
        return (yield send)

    def send_script(self, call: Call, _: bytes | None) -> Generator[Any, Any, Any]:
        return (yield call)


class Clock:
    """The module ``time``, with a clock that stands still unless it is moved."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


CLOCK = Clock()


def model_clock() -> Any:
    """A context in which Recovery uses CLOCK, and keeps every mark."""
    return mock.patch.multiple("redis_kvpoll.engine", recovery=mock.DEFAULT) if False else _Patches()


class _Patches:
    def __enter__(self) -> None:
        self._patches = [
            mock.patch.object(recovery, "time", CLOCK),
            mock.patch.object(data_loss, "time", CLOCK),
            mock.patch("redis_kvpoll.engine.marks.INTERVAL", 0.0),
            mock.patch("redis_kvpoll.engine.tracked_rooms.MAX_BATCH", 1),
            mock.patch.object(data_loss, "logger"),
        ]
        for patch in self._patches:
            patch.start()

    def __exit__(self, *_: object) -> None:
        for patch in self._patches:
            patch.stop()


class Frozen(NamedTuple):
    """A Recovery between two steps."""

    text: str
    """All of its state: two with the same text behave the same."""
    data: bytes


def new() -> Recovery:
    return Recovery(StubSession())  # type: ignore[arg-type]


def freeze(store: Recovery) -> Frozen:
    rooms = store.tracked_rooms
    for tag in rooms.awaiting_shards:
        rooms.awaiting_shards[tag] = 0.05
    parts = (rooms._shards, rooms._to_replay, rooms._awaiting_creator, rooms._unmarked, rooms.awaiting_shards)
    shards = {tag: (s.server, s.epoch, s.is_verified, s.marks.all()) for tag, s in store._shards.items()}
    return Frozen(f"{parts} {rooms.highest_generation} {shards}", pickle.dumps(store))


def thaw(frozen: Frozen) -> Recovery:
    store: Recovery = pickle.loads(frozen.data)
    return store
