"""A store of the model of data loss: the real Recovery, taken apart and put together for each step."""

from __future__ import annotations

import pickle
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from unittest import mock

from redis_kvpoll.engine import data_loss, recovery, tracked_rooms
from redis_kvpoll.engine.effects import Send
from redis_kvpoll.engine.recovery import Recovery
from redis_kvpoll.protocol.script_call import Call
from tests.model.operations import context
from tests.model.table import NAMESPACE
from tests.support.internals import state_of_recovery

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


@contextmanager
def model_clock() -> Iterator[None]:
    """Recovery uses CLOCK, and replays one room per call."""
    with (
        mock.patch.object(recovery, "time", CLOCK),
        mock.patch.object(data_loss, "time", CLOCK),
        mock.patch.object(data_loss, "logger"),
        mock.patch.object(tracked_rooms, "MAX_BATCH", 1),
    ):
        yield


class Frozen(NamedTuple):
    """A Recovery between two steps."""

    text: str
    """All of its state: two with the same text behave the same."""
    data: bytes


def new() -> Recovery:
    return Recovery(StubSession())  # type: ignore[arg-type]


def freeze(store: Recovery) -> Frozen:
    return Frozen(state_of_recovery(store), pickle.dumps(store))


def thaw(frozen: Frozen) -> Recovery:
    store: Recovery = pickle.loads(frozen.data)
    return store
