"""What a follower asks of others: of its host, and of the store. And what its driver needs of it."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, TypeVar

from redis_kvpoll.engine.effects import Effect, Flow
from redis_kvpoll.protocol.settings import ExpectedSettings
from redis_kvpoll.replica.health import FollowerHealth
from redis_kvpoll.replica.replica import Replica

T = TypeVar("T")


class OrphanedError(Exception):
    """The host of a follower was dropped without ``close``, and collected."""


@dataclass(slots=True)
class AskStore:
    """Ask the store by its own connections for a room that it holds. It replays what the server has lost.

    The result is whether the room is there, or the KVPollError that the store's call raised.
    """

    host: Host
    room: int


FollowerEffect: TypeAlias = Effect | AskStore
FollowerFlow: TypeAlias = Generator[FollowerEffect, Any, T]


class AnyFollower(Protocol):
    """What a driver runs: sessions, one after the other."""

    health: FollowerHealth

    def session(self) -> FollowerFlow[float | None]:
        """Follow until an error; return the seconds to wait before the next session, or None when it may end.

        It needs a new connection and its own transport, whose slot map it updates.
        """


class Host(Protocol):
    """Whom a follower works for. Everything here raises OrphanedError once that was collected."""

    @property
    def expected_settings(self) -> ExpectedSettings:
        """The store's settings, which each new connection is checked for."""

    def notify(self) -> object:
        """There may be changes to report. The lock is free."""

    def progressed(self) -> object:
        """The follower has synced for the first time, or has failed."""

    def may_end(self, replica: Replica, tags: Sequence[str]) -> bool:
        """Whether the follower is no longer needed; if so, its shards are marked unsynced by now."""

    def is_held(self, tag: str, room: int) -> bool:
        """Whether the store holds this room, so that it restores it after a loss of data."""

    def ask_store(self, room: int) -> Flow[bool]:
        """Ask the store: see AskStore."""
