"""One process of SGLang on the table, as its threads see it: the registry, and a channel to its table part.

No event loop and no Redis client run here. Whatever happens to the table part or to Redis, SGLang's threads continue
with the registry.
"""

from __future__ import annotations

import atexit
import logging
import threading
from collections.abc import Callable, Iterable
from typing import Any

from redis_kvpoll.agent import messages
from redis_kvpoll.agent.channels import Channel, open_channel
from redis_kvpoll.agent.merge import FAILED
from redis_kvpoll.agent.messages import Hello
from redis_kvpoll.agent.sender import ChangeSender
from redis_kvpoll.integrations.sglang.compat import ProcessIdentity
from redis_kvpoll.integrations.sglang.metrics import LinkMetrics
from redis_kvpoll.integrations.sglang.peer_failures import PeerFailures, for_people
from redis_kvpoll.integrations.sglang.peers import Address, servers_of
from redis_kvpoll.integrations.sglang.registry import RoomRegistry
from redis_kvpoll.integrations.sglang.settings import PluginSettings
from redis_kvpoll.model import KVPoll

SHUTDOWN_SECONDS = 3.0
"""The longest that a process waits at its end for what is pending to be in the table."""
JOIN_MARGIN_SECONDS = 5.0
"""How much longer than the table part this waits for it to join."""
REASON_WAIT_SECONDS = 0.25
"""The longest that SGLang's thread waits for another rank's reason, at the end of a request that failed without one
here. Such a reason arrives within milliseconds, or there is none."""

MAX_LISTED = 10
"""The most rooms that one log line lists."""

logger = logging.getLogger("redis_kvpoll")


class RefusedError(Exception):
    """The process cannot join the table; ``setting`` names the namespace's setting that differs, if it is that."""

    def __init__(self, reason: str, setting: str = "") -> None:
        super().__init__(reason)
        self.setting = setting


class TableWorker:
    """The registry of one process, and its channel to the table part, which keeps it and the table in sync."""

    def __init__(self, settings: PluginSettings, identity: ProcessIdentity) -> None:
        self.identity = identity
        self.settings = settings
        self.registry = RoomRegistry(self._send_changes)
        self.receivers_of: Callable[[int], frozenset[Address] | None] = lambda _: None
        """Prefill: who has asked for a room's pages."""
        self.end_orphans: Callable[[], list[int]] = list
        """Prefill: ends rooms that have had no sender for too long, and returns them."""
        self.fail: Callable[[int, int, str, bool], object] = self.registry.fail_from_table
        """Fails a life as the table says: room, life, reason, and whether it failed in the other role's table."""
        self.end_by_hand: Callable[[int, int, str], object] | None = None
        """Decode: ends a life that an operator has aborted in its table."""
        self.channel: Channel | None = None
        self._sender = ChangeSender(self.registry.outbox, self._send)
        self.registry.on_hold = lambda *life: self._sender.post(messages.HOLD, messages.encode_life(*life))
        self.registry.waiting.on_waiting = lambda room, is_waiting: self._sender.post(
            messages.WANT_REASON, messages.encode_life(room, 0, is_waiting)
        )
        other = "prefill" if identity.role == "decode" else "decode"
        self._peer_failures = PeerFailures(
            other, self.registry, self._peers_of, self._read_failure, self._fail_for_peers
        )
        self._metrics = LinkMetrics(identity.role, identity.name)
        self._joined = threading.Event()
        self._left = threading.Event()
        self._refusal: RefusedError | None = None
        self._received, self._is_table_idle, self._is_up, self._is_reachable = 0, True, False, True
        self._pending, self._dropped = 0, 0
        self._ranks: dict[int, tuple[int, dict[int, KVPoll]]] = {}
        """Of a pipeline, by room: a life, and what each rank has."""
        self._servers: dict[int, tuple[int, frozenset[Address]]] = {}
        """By room of decode's: its life, and the processes of prefill that serve it."""
        self._servers_lock = threading.RLock()
        self._ended_orphans = 0
        self._lease: list[Any] = []
        """Its lease, for another table part."""

    # Called by SGLang's threads

    def join(self) -> None:
        """Return once this process has joined the table; RefusedError says what prevents that."""
        self.channel = open_channel(
            self.settings.agent,
            self._hello(),
            self._on_message,
            self._on_connected,
            self._on_away,
            on_writable=self._on_writable,
            on_tick=self._tick,
        )
        self.channel.start()
        if not self._joined.wait(self.settings.join + JOIN_MARGIN_SECONDS):
            self._refusal = RefusedError("no answer within KVPOLL_JOIN")
        if self._refusal is not None:
            self.channel.close(SHUTDOWN_SECONDS)
            raise self._refusal
        atexit.register(self.close)

    def close(self) -> None:
        """Have what is pending published, and leave the table. Further calls do nothing."""
        atexit.unregister(self.close)
        if self.channel is not None:
            self._post(messages.LEAVE, b"")
            self._left.wait(SHUTDOWN_SECONDS)
            self.channel.close(SHUTDOWN_SECONDS)
            self._detach()

    @property
    def is_idle(self) -> bool:
        """Whether every change is in the table."""
        with self.registry.changes.lock:
            return not len(self.registry) and self._is_table_idle and self._received == self._sender.sent

    @property
    def dropped(self) -> int:
        """How many lives never reached the table."""
        return self.registry.dropped + self._dropped

    def statuses_of(self, room: int) -> dict[int, KVPoll]:
        """Return the table's statuses of a room by rank; empty until it knows the current life."""
        number, statuses = self._ranks.get(room, (None, {}))
        return statuses if number is not None and number == self.registry.current_life(room) else {}

    def learn_servers(self, room: int, bootstrap_infos: Iterable[Any]) -> None:
        """Take note of the processes of prefill that serve a room of decode's."""
        if (number := self.registry.current_life(room)) is not None:
            with self._servers_lock:
                self._servers[room] = number, servers_of(bootstrap_infos)
            self._peer_failures.check(room)

    def _peers_of(self, room: int) -> frozenset[Address] | None:
        """Return the addresses of the other role's processes that serve a room; None if they are not known."""
        return self._servers_of(room) if self.identity.role == "decode" else self.receivers_of(room)

    def _servers_of(self, room: int) -> frozenset[Address] | None:
        number, servers = self._servers.get(room, (None, None))
        return servers if number is not None and number == self.registry.current_life(room) else None

    def _send_changes(self) -> None:
        """Send what has changed, if the channel takes it: a change of the registry's."""
        self._sender.send_changes()

    def _send(self, kind: int, payload: bytes) -> bool:
        return self.channel is not None and self.channel.send(kind, payload)

    def _post(self, kind: int, payload: bytes) -> None:
        def post() -> None:
            self._sender.post(kind, payload)
            self._sender.send_changes()

        self._change(post)

    # Called by the channel

    def _hello(self) -> Hello:
        settings, identity = self.settings, self.identity
        other = "prefill" if identity.role == "decode" else "decode"
        return Hello(
            settings.url,
            {**settings.options(identity.role), **identity.rank_options},
            identity.owner,
            identity.name,
            identity.instance,
            settings.lease,
            settings.join,
            other=f"{settings.namespace}-{other}",
            collects=len(identity.stages) > 1,
            former=self._lease,
        )

    def _on_connected(self, _: bytes) -> None:
        self._change(self._tell_all)

    def _on_away(self) -> None:
        def go_away() -> None:
            self._sender.is_online = self._is_up = self._is_reachable = self._is_table_idle = False
            self.registry.waiting.longest = 0.0

        self._change(go_away)

    def _on_writable(self) -> None:
        self._change(self._sender.send_changes)

    def _tell_all(self) -> None:
        self._is_table_idle, self._received = False, 0
        self._sender.connected()
        for room, number, since in self.registry.held():
            self._sender.post(messages.HOLD, messages.encode_life(room, number, False, since))
        self._sender.send_changes()

    def _on_message(self, kind: int, payload: bytes) -> None:
        try:
            self._handle(kind, payload)
        except Exception:
            self._break("")

    def _change(self, call: Callable[..., object], *arguments: Any) -> None:
        """Call a method of the sender as a change of the registry's, which no other interrupts."""
        self.registry.changes.make(lambda: call(*arguments), _nothing)

    def _handle(self, kind: int, payload: bytes) -> None:
        if kind == messages.OPENED:
            for life in messages.decode_lives(payload):
                self._change(self._sender.opened, *life)
        elif kind == messages.ENDED:
            for room, number, _ in messages.decode_lives(payload):
                self._change(self._sender.ended, room, number)
        elif kind == messages.RANKS:
            room, number, ranks = messages.decode_ranks(payload)
            self._ranks[room] = number, ranks
        elif kind == messages.FAILURE_WAITS:
            room, number, *_ = messages.decode_life(payload)
            self._peer_failures.on_failure(room, number)
        elif kind == messages.JOINED:
            self._joined.set()
        elif kind == messages.LEFT:
            self._left.set()
        else:
            self._handle_words(kind, messages.decode_words(payload))

    def _handle_words(self, kind: int, words: list[Any]) -> None:
        if kind == messages.STATE:
            with self.registry.changes.lock:
                self._received, self._is_table_idle, self._is_up, self._is_reachable, self._pending, dropped = words
                self._dropped = dropped
                has_peers = self._is_up and self.identity.world_size > 1
                self.registry.waiting.longest = REASON_WAIT_SECONDS if has_peers else 0.0
        elif kind == messages.FAILED:
            self._fail_own(*words)
        elif kind == messages.FAILURE_READ:
            self._peer_failures.decide(*words)
        elif kind == messages.REASON:
            self.registry.deliver_reason(*words)
        elif kind == messages.LOG:
            logger.log(*words)
        elif kind == messages.LEASE and self.channel is not None:
            self._lease = words
            self.channel.hello = self._hello().encode()
        elif kind == messages.REFUSED:
            self._refusal = RefusedError(*words)
            self._joined.set()
        elif kind == messages.BROKEN:
            self._break(*words)

    def _tick(self) -> None:
        """Do what is due four times a second."""
        try:
            self._peer_failures.check_all()
            self._forget()
            self._end_orphans()
            pending = len(self.registry) + self._pending
            self._metrics.update(
                self._joined.is_set() and self._is_reachable, pending, self.dropped, self._ended_orphans
            )
        except Exception:
            self._break("")

    def _break(self, trace: str) -> None:
        """Go on without the table, because of a bug."""
        log = logger.error if trace else logger.exception
        log(
            "redis_kvpoll: %s left the status table because of a bug, and SGLang continues without it; report this "
            "traceback%s",
            self.identity.name,
            f"\n{trace}" if trace else "",
        )
        self._post(messages.LEAVE, b"")
        self._detach()

    def _detach(self) -> None:
        self.registry.detach()
        with self.registry.changes.lock:
            self._sender.is_online = False
        self._ranks = {}
        self._metrics.update(False, 0, self.dropped, self._ended_orphans)

    # Other processes' changes

    def _fail_own(self, room: int, number: int, reason: str, by_hand: bool) -> None:
        if self.registry.current_life(room) != number or dict.get(self.registry.statuses, room) == FAILED:
            return
        if by_hand and self.end_by_hand is not None:
            self.end_by_hand(room, number, for_people(reason))
        else:
            self.fail(room, number, for_people(reason), False)

    def _fail_for_peers(self, room: int, number: int, reason: str) -> None:
        self.fail(room, number, reason, True)

    def _read_failure(self, room: int, number: int) -> None:
        self._post(messages.READ_FAILURE, messages.encode_life(room, number))

    def _forget(self) -> None:
        """Forget what is known of rooms that are over."""
        with self._servers_lock:
            for room in [room for room in list(self._servers) if self._servers_of(room) is None]:
                self._servers.pop(room, None)
        for room, (number, _) in list(self._ranks.items()):
            if self.registry.current_life(room) != number:
                self._ranks.pop(room, None)

    def _end_orphans(self) -> None:
        if ended := self.end_orphans():
            self._ended_orphans += len(ended)
            logger.info(
                "redis_kvpoll: %s: ended %d rooms that decode has asked for and that had no sender: %s",
                self.identity.name,
                len(ended),
                ", ".join(map(str, ended[:MAX_LISTED])),
            )


def _nothing() -> None:
    return None
