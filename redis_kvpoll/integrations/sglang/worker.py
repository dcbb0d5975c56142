"""One process of SGLang on the table, as its threads see it: the registry, and a client of a session.

No event loop and no Redis client run here. Whatever happens to the session or to Redis, SGLang's threads continue
with the registry.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from redis_kvpoll._process import this_process
from redis_kvpoll.agent import messages
from redis_kvpoll.agent.client.client import TableClient
from redis_kvpoll.agent.messages import ClientHello
from redis_kvpoll.integrations.sglang.compat import ProcessIdentity
from redis_kvpoll.integrations.sglang.metrics import LinkMetrics
from redis_kvpoll.integrations.sglang.peer_failures import PeerFailures, for_people
from redis_kvpoll.integrations.sglang.peers import Address, servers_of
from redis_kvpoll.integrations.sglang.registry import RoomRegistry
from redis_kvpoll.integrations.sglang.settings import PluginSettings
from redis_kvpoll.model import KVPoll

REASON_WAIT_SECONDS = 0.25
"""The longest that SGLang's thread waits for another rank's reason, at the end of a request that failed without one
here. Such a reason arrives within milliseconds, or there is none."""

MAX_LISTED = 10
"""The most rooms that one log line lists."""

logger = logging.getLogger("redis_kvpoll")


class RoleHooks(NamedTuple):
    """What a process does in its role's way. ``install`` makes it, for the process's manager."""

    on_failure: Callable[[int, int, str, bool], object]
    """Called with a life that has failed in the table: room, life, reason, and whether in the other role's table."""
    receivers_of: Callable[[int], frozenset[Address] | None] = lambda _: None
    """Prefill: who has asked for a room's pages."""
    end_orphans: Callable[[], list[int]] = list
    """Prefill: ends rooms that have had no sender for too long, and returns them."""
    end_background: Callable[[], object] = lambda: None
    """Prefill: ends the thread of ``on_failure``, if it has one."""
    on_abort: Callable[[int, int, str], object] | None = None
    """Decode: called with a life that an operator has aborted in its table; else that is a failure."""


class TableWorker:
    """The registry of one process, and its client, which keeps it and the table in sync."""

    def __init__(self, settings: PluginSettings, identity: ProcessIdentity) -> None:
        self.identity = identity
        self.settings = settings
        self.registry = RoomRegistry()
        self.role_hooks = RoleHooks(self.registry.fail_from_table)
        self.client = TableClient(hello_of(settings, identity), settings.agent, self.registry, self)
        self.registry.on_hold = self._tell_hold
        self.registry.waiting.on_waiting = self._tell_waiting
        self._peer_failures = PeerFailures(
            _other_role(identity), self.registry, self._peers_of, self._read_failure, self._fail_for_peers
        )
        self._metrics = LinkMetrics(identity.role, identity.name)
        self._servers: dict[int, tuple[int, frozenset[Address]]] = {}
        """By room of decode's: its life, and the processes of prefill that serve it."""
        self._servers_lock = threading.RLock()
        self._is_alone = False
        self._ended_orphans = 0
        self._closing = threading.RLock()
        self._is_closed = False
        self._process = os.getpid()
        """A child that it forks has no part in the table."""

    # Called by SGLang's threads

    def join(self) -> None:
        """Return once this process has joined the table; RefusedError says what prevents that."""
        self.client.join()
        atexit.register(self.close)

    def close(self) -> None:
        """Have what is pending published, and leave the table. It waits seconds for Redis. Further calls do nothing."""
        if self._process != os.getpid():
            return  # A thread that is not here may have had any lock.
        with self._closing:
            if not self._is_closed:
                self.client.close()
                self.went_on_alone()
                self._is_closed = True
        atexit.unregister(self.close)

    def leave(self) -> None:
        """Close in a thread, and return at once; the end of the process waits for it. It raises nothing."""
        try:
            threading.Thread(target=self.close, name="kvpoll-leave", daemon=True).start()
        except RuntimeError as error:  # there are too many threads, or the interpreter ends
            logger.warning("redis_kvpoll: %s leaves the table without waiting for it: %s", self.identity.name, error)
            self.client.go_on_alone()

    @property
    def is_idle(self) -> bool:
        """Whether every change is in the table."""
        with self.registry.changes.lock:
            return not len(self.registry.sender) and self.client.is_told

    @property
    def dropped(self) -> int:
        """How many lives never reached the table."""
        return self.registry.sender.dropped + self.client.state.dropped

    def statuses_of(self, room: int) -> dict[int, KVPoll]:
        """Return the table's statuses of a room by rank; empty until it knows the current life."""
        self.client.poll()
        number, statuses = self.client.ranks.get(room, (None, {}))
        return statuses if number is not None and number == self.registry.lives.number(room) else {}

    def learn_servers(self, room: int, bootstrap_infos: Iterable[Any]) -> None:
        """Take note of the processes of prefill that serve a room of decode's."""
        if (number := self.registry.lives.number(room)) is not None:
            with self._servers_lock:
                if self._is_alone:
                    return
                self._servers[room] = number, servers_of(bootstrap_infos)
            self._peer_failures.check(room)

    def _peers_of(self, room: int) -> frozenset[Address] | None:
        """Return the addresses of the other role's processes that serve a room; None if they are not known."""
        return self._servers_of(room) if self.identity.role == "decode" else self.role_hooks.receivers_of(room)

    def _servers_of(self, room: int) -> frozenset[Address] | None:
        number, servers = self._servers.get(room, (None, None))
        return servers if number is not None and number == self.registry.lives.number(room) else None

    def _tell_hold(self, room: int, number: int, is_over: bool, moment: float) -> None:
        self.registry.sender.post_life(messages.HOLD, room, number, is_over, moment)

    def _tell_waiting(self, room: int, is_waiting: bool) -> None:
        self.registry.sender.post_life(messages.WANT_REASON, room, 0, is_waiting)

    # Called by the client, in its channel's thread

    def state_changed(self) -> None:
        """Wait for other ranks' reasons only while they can come."""
        has_peers = self.client.state.is_up and self.identity.world_size > 1
        self.registry.waiting.longest = REASON_WAIT_SECONDS if has_peers else 0.0

    def tick(self) -> None:
        """Do what is due several times a second."""
        state = self.client.state
        self.registry.abandon()
        self._peer_failures.check_all()
        self._forget()
        self._end_orphans()
        with self.registry.changes.lock:
            unsent = len(self.registry.sender)
        is_up = self.client.is_joined and state.is_reachable
        self._metrics.update(is_up, unsent + state.pending, self.dropped, self._ended_orphans)

    def went_on_alone(self) -> None:
        """Go on without the table, and keep nothing for it."""
        self.registry.detach()
        self.role_hooks.end_background()
        with self._servers_lock:
            self._is_alone = True
            self._servers.clear()
        self.client.ranks.clear()
        self._metrics.update(False, 0, self.dropped, self._ended_orphans)

    def fail_own(self, room: int, number: int, reason: str, by_hand: bool) -> None:
        """Fail a life that has failed in this role's table."""
        if not self.registry.is_undecided(room, number):
            return
        if by_hand and self.role_hooks.on_abort is not None:
            self.role_hooks.on_abort(room, number, for_people(reason))
        else:
            self.role_hooks.on_failure(room, number, for_people(reason), False)

    def note_other_failure(self, room: int, number: int) -> None:
        """See to a failure in the other role's table."""
        self._peer_failures.on_failure(room, number)

    def decide_other_failure(
        self, room: int, number: int, failed_by: str | None, owner: str | None, reason: str | None, owners: list[str]
    ) -> None:
        """Fail a life if that failure, which was read, concerns who serves its room."""
        self._peer_failures.decide(room, number, failed_by, owner, reason, owners)

    def deliver_reason(self, room: int, reason: str) -> None:
        """Give another rank's reason to the thread that waits for it."""
        self.registry.deliver_reason(room, reason)

    def _fail_for_peers(self, room: int, number: int, reason: str) -> None:
        self.role_hooks.on_failure(room, number, reason, True)

    def _read_failure(self, room: int, number: int) -> None:
        self.client.post_life(messages.READ_FAILURE, room, number)

    def _forget(self) -> None:
        """Forget what is known of rooms that are over."""
        with self._servers_lock:
            for room in [room for room in list(self._servers) if self._servers_of(room) is None]:
                self._servers.pop(room, None)
        for room in list(self.client.ranks):  # items() makes a tuple each, for which Python may let a thread add a room
            number, _ = self.client.ranks.get(room, (None, None))
            if self.registry.lives.number(room) != number:
                self.client.ranks.pop(room, None)

    def _end_orphans(self) -> None:
        if ended := self.role_hooks.end_orphans():
            self._ended_orphans += len(ended)
            logger.info(
                "redis_kvpoll: %s: ended %d rooms that had no sender for longer than decode waits: %s",
                self.identity.name,
                len(ended),
                ", ".join(map(str, ended[:MAX_LISTED])),
            )


def hello_of(settings: PluginSettings, identity: ProcessIdentity) -> ClientHello:
    """Return what a process tells its agent of itself."""
    return ClientHello(
        settings.url,
        {**settings.options(identity.role), **identity.rank_options},
        identity.owner,
        identity.name,
        identity.instance,
        settings.lease,
        settings.join,
        other=f"{settings.namespace}-{_other_role(identity)}",
        # The first stage collects from SGLang's own store, and decode does not collect.
        collects=identity.role == "prefill" and identity.rank in identity.stages[1:],
        process=this_process(),
    )


def _other_role(identity: ProcessIdentity) -> str:
    return "prefill" if identity.role == "decode" else "decode"
