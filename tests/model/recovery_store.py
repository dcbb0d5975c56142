"""A store of the model of data loss: the real Recovery, frozen between two steps."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple
from unittest import mock

from redis_kvpoll.engine.effects import Send
from redis_kvpoll.engine.recovery import data_loss, members, recovery, tracked_rooms, tracking
from redis_kvpoll.engine.recovery.recovery import Recovery
from redis_kvpoll.protocol import lease_commands
from redis_kvpoll.protocol.script_call import Call, CallContext, Command
from tests.model.operations import context
from tests.model.table import NAMESPACE
from tests.support.internals import state_of_recovery, verification_of

RETRY_AT = 0.06
"""Seconds after which rooms that await their creator are replayed again."""


class StubSession:
    """What Recovery needs of a session: settings that are always verified."""

    is_verified, read_only = True, False
    observers = ()
    namespace = NAMESPACE

    def __init__(self, feed_length: str, rank: str = "", world_size: str = "") -> None:
        of_rank = {"rank": rank, "world_size": world_size}
        self.context = self.identity = replace(context("compat"), feed_length=feed_length, **of_rank)
        self.observers: dict[Any, None] = {}

    def server_changed(self) -> None:
        """The settings are not checked again."""

    def sync_tokens(self) -> tuple[Any, ...]:
        return ()


class StubLease:
    """A lease that is renewed by a sweep, whose reply has the end of the feed, as a renewal's."""

    lost = False
    retry_interval = math.inf
    """A replay takes no time here."""

    def __init__(self, session: StubSession) -> None:
        self._context = session.context

    def renewal(self, tag: str, _: str) -> Call:
        return lease_commands.sweep(self._context, tag)

    def observe_renewal(self, reply: list[Any]) -> None:
        """It is never lost."""

    def check(self, operation: str) -> None:
        """It is never lost."""


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
        mock.patch.object(members, "time", CLOCK),
        mock.patch.object(data_loss, "time", CLOCK),
        mock.patch.object(data_loss, "logger"),
        mock.patch.object(tracked_rooms, "MAX_REPLAYED", 1),
    ):
        yield


class Facts(NamedTuple):
    """What the explorer asks of a Recovery most often."""

    is_unverified: bool
    has_called: bool
    has_awaiting: bool
    awaiting: frozenset[int]
    """The rooms that await their creator."""
    highest_generation: int


class Recoveries:
    """Recoveries by their numbers: two that behave the same have one number."""

    def __init__(self, facts: Callable[[Recovery], Facts] | None = None) -> None:
        self._facts_of = facts or facts_of
        self.facts: list[Facts] = []
        self._frozen: list[bytes] = []
        self._numbers: dict[str, int] = {}

    def number(self, store: Recovery) -> int:
        number = self._numbers.setdefault(state_of_recovery(store), len(self._frozen))
        if number == len(self._frozen):
            self._frozen.append(pickle.dumps(store))
            self.facts.append(self._facts_of(store))
        return number

    def thaw(self, number: int) -> Recovery:
        CLOCK.now = 0.0
        store: Recovery = pickle.loads(self._frozen[number])
        return store


def facts_of(store: Recovery) -> Facts:
    rooms = store.tracked_rooms
    awaiting = frozenset(room for room in rooms.in_shard(NAMESPACE) if rooms.awaits_creator(room))
    is_unverified, has_called = verification_of(store, NAMESPACE)
    return Facts(is_unverified, has_called, bool(rooms.awaiting_shards), awaiting, rooms.highest_generation)


def sent(recovery: Recovery, command: Command[Any, Any], context: CallContext) -> Call:
    """The only call of a command, as it is sent."""
    (call,) = recovery.build_calls(command, context)
    if call.spec in tracking.CLEARING:
        recovery.members.mark_clearing(call)
    return call


class Told(NamedTuple):
    """What the user of a store was told of a room that he holds."""

    generation: int
    status: int
    creator: bool
    """Whether he opened it. Who has attached it does not create it again."""
