"""Who is under a lease: a store, or one of the ranks for which it speaks.

Invariant: it has one lease at a time. A second one is refused before anything is sent: to take it would end the lease
of whoever holds that name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from redis_kvpoll.errors import InvalidInputError
from redis_kvpoll.protocol.script_call import Call


def never() -> bool:
    """Return ``stands_still`` of a process that holds its own lease: it cannot ask while it stands still."""
    return False


class Renewable(Protocol):
    """A lease, as far as recovery needs it: it is renewed before the rooms that it owns are replayed."""

    stands_still: Callable[[], bool]
    """Whether the process stands still for which its holder speaks. Then no heartbeat is sent for it, so its lease
    expires as it would if that process renewed it itself."""
    lost: bool
    """Whether it is known to be lost. A lost lease is not taken again, even if the server has forgotten that."""

    @property
    def retry_interval(self) -> float:
        """Seconds between heartbeats after one has failed."""

    def renewal(self, tag: str, epoch: str) -> Call:
        """Return the call that renews the lease in a shard; a missing lease is lost if the shard has this epoch.

        Once the lease is lost, the call only sweeps: a renewal would create the lease again after a loss of data.
        """

    def observe_renewal(self, reply: list[Any]) -> object:
        """Process the reply to ``renewal``."""

    def check(self, operation: str) -> None:
        """Raise LeaseLostError if it is known to be lost."""


class LeaseHolder:
    """What may be under a lease."""

    _kind = "store"

    def __init__(self) -> None:
        self.lease: Renewable | None = None
        self._reserved_for: Renewable | None = None
        """Its lease, from before that is taken until it is detached; ``lease`` is None until it was taken."""

    def check_no_lease(self) -> None:
        """Raise InvalidInputError if it has a lease, or one is being taken for it."""
        if self._reserved_for is not None:
            held = f"this {self._kind} has {self._reserved_for} already"
            raise InvalidInputError(f"lease: {held}; one {self._kind} holds one lease at a time")

    def reserve(self, lease: Renewable) -> None:
        """Refuse any other lease from now on, until this one is detached; raise InvalidInputError if there is one."""
        self.check_no_lease()
        self._reserved_for = lease  # neither an interrupt nor another thread comes between this and the check

    def detach_lease(self, lease: Renewable) -> None:
        """Take it from under a lease, or end the reservation for it. Does nothing if it has another one, or none."""
        if self._reserved_for is lease:
            self._reserved_for = self.lease = None
