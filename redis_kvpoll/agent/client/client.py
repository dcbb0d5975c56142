"""A client's side: it tells its session each change of its rooms, and hands on what it is told.

No event loop and no Redis client run here. Whatever happens to the session or to Redis, the client's threads go on.

To serve another program: give it a ``ClientRooms`` and ``Handlers``. To add a message: its kind in messages, and its
handler in ``_handle``.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Protocol

from redis_kvpoll.agent import messages
from redis_kvpoll.agent.client import open_channel
from redis_kvpoll.agent.client.open_channel import ClientChannel
from redis_kvpoll.agent.client.sender import ChangeSender
from redis_kvpoll.agent.messages import ClientHello
from redis_kvpoll.agent.session_state import SessionState
from redis_kvpoll.model import KVPoll

CLOSE_SECONDS = 3.0
"""The longest that a client waits at its end for what is pending to be in the table."""
START_SECONDS = 10.0
"""How much longer than its session a client waits for joining: an agent may have to start first."""

logger = logging.getLogger("redis_kvpoll")


class RefusedError(Exception):
    """The client cannot join the table; ``setting`` names the namespace's setting that differs, if it is that."""

    def __init__(self, reason: str, setting: str = "") -> None:
        super().__init__(reason)
        self.setting = setting


class ClientRooms(Protocol):
    """The rooms of a client."""

    sender: ChangeSender

    def change(self, call: Callable[[], object]) -> None:
        """Make a call with the rooms' lock, which no other change interrupts."""

    def held(self) -> Iterable[tuple[int, int, float]]:
        """Return the open rooms that are not to be in the table, with their lives, and since when."""


class Handlers(Protocol):
    """What the session tells. A thread of the channel calls it; nothing may wait."""

    def fail_own(self, room: int, number: int, reason: str, by_hand: bool) -> None: ...
    def note_other_failure(self, room: int, number: int) -> None: ...
    def decide_other_failure(
        self, room: int, number: int, failed_by: str | None, owner: str | None, reason: str | None, owners: list[str]
    ) -> None: ...
    def deliver_reason(self, room: int, reason: str) -> None: ...
    def state_changed(self) -> None: ...
    def tick(self) -> None: ...
    def went_on_alone(self) -> None: ...


class TableClient:
    """One client's connection to its session. ``agent`` says where that is: see open_channel."""

    def __init__(self, hello: ClientHello, agent: str, rooms: ClientRooms, handlers: Handlers) -> None:
        self.state = SessionState()
        """As the session has told it last."""
        self.channel: ClientChannel | None = None
        self.ranks: dict[int, tuple[int, dict[int, KVPoll]]] = {}
        """By room: a life, and what each rank has in the table."""
        self._hello = hello
        self._agent = agent
        self._rooms = rooms
        self._handlers = handlers
        self._sender = rooms.sender
        self._joined = threading.Event()
        self._left = threading.Event()
        """Set once there is no session any more to wait for."""
        self._refusal: RefusedError | None = None
        self._had_agent = False
        self._dropped_before = 0
        """How many lives former connections' sessions have dropped."""

    # Called by the client's threads

    def join(self) -> None:
        """Return once the session has joined the table; RefusedError says what prevents that."""
        self.channel = open_channel.open_channel(
            self._agent,
            self._hello,
            self._on_message,
            self._on_connected,
            self._on_away,
            on_writable=lambda: self._rooms.change(self._sender.send_changes),
            on_tick=self._on_tick,
        )
        self._sender.channel = self.channel
        self.channel.start()
        if not self._joined.wait(self._hello.join + START_SECONDS):
            what = "no answer within KVPOLL_JOIN" if self._had_agent else "there is no agent (the lines before say why)"
            self._refusal = RefusedError(what)
        if self._refusal is not None:
            self.channel.close(CLOSE_SECONDS)
            raise self._refusal

    def close(self) -> None:
        """Have what is pending published, and leave the table. Waits for that for CLOSE_SECONDS, and once more at most.

        While the agent is away, that is for the next one to come. A goodbye, which the channel sends at its end, means
        the same to the agent as LEAVE.
        """
        if self.channel is not None:
            self._rooms.change(self._send_last)
            self._left.wait(CLOSE_SECONDS)
            self.channel.close(CLOSE_SECONDS)
        self._rooms.change(self._sender.disconnected)

    def go_on_alone(self) -> None:
        """Leave without waiting, and for good: the next agent must not be told of rooms that nobody here follows.

        What could not be sent is dropped.
        """
        self._rooms.change(self._leave_at_once)
        self._left.set()
        if self.channel is not None:
            self.channel.close(0.0)
        self._handlers.went_on_alone()

    @property
    def is_joined(self) -> bool:
        """Whether it has joined, and was not refused."""
        return self._joined.is_set() and self._refusal is None

    @property
    def sent(self) -> int:
        """How many changes were sent on this connection."""
        return self._sender.sent

    @property
    def is_told(self) -> bool:
        """Whether the table has every change that was sent."""
        return self._sender.is_online and self.state.is_idle and self.state.received == self._sender.sent

    def poll(self) -> None:
        """Take what the session has told of its progress, without waiting; the rest goes to the channel's thread."""
        if self.channel is not None:
            self.channel.poll()

    def post_life(self, kind: int, room: int, number: int) -> None:
        """Send a message that names a life."""
        self._rooms.change(lambda: self._sender.post_life(kind, room, number))

    # Called by the channel

    def _send_last(self) -> None:
        self._sender.post_last(messages.LEAVE, b"")
        self._sender.send_changes()

    def _leave_at_once(self) -> None:
        self._sender.post(messages.LEAVE, b"")
        self._sender.send_changes()
        self._sender.disconnected()

    def _on_connected(self, _: bytes) -> None:
        self._had_agent = True
        self._rooms.change(self._tell_all)

    def _tell_all(self) -> None:
        self.state = self.state._replace(received=0, is_idle=False)
        self._sender.connected()
        for room, number, since in self._rooms.held():
            self._sender.post_life(messages.HOLD, room, number, False, since)
        self._sender.send_changes()

    def _on_away(self) -> None:
        self._rooms.change(self._sender.disconnected)
        self._dropped_before = self.state.dropped
        self.state = SessionState(is_reachable=False, dropped=self._dropped_before)
        self._guard(self._handlers.state_changed)

    def _on_tick(self) -> None:
        if self._sender.is_behind:  # what was not urgent
            self._rooms.change(self._sender.send_changes)
        self._guard(self._handlers.tick)

    def _on_message(self, kind: int, payload: bytes) -> None:
        self._guard(self._handle, kind, payload)

    def _guard(self, call: Callable[..., object], *arguments: Any) -> None:
        """Call a handler; one that raises ends the link, and not a thread of the client's."""
        try:
            call(*arguments)
        except Exception:
            text = "redis_kvpoll: %s left the status table because of a bug; report this traceback"
            logger.exception(text, self._hello.name)
            self.go_on_alone()

    def _handle(self, kind: int, payload: bytes) -> None:
        if kind == messages.NEWS:
            for part, contents in messages.decode_news(payload):
                self._handle(part, contents)
        elif kind in (messages.OPENED, messages.ENDED):
            self._rooms.change(lambda: self._note(kind, payload))
        elif kind == messages.RANKS:
            for room, number, ranks in messages.decode_ranks(payload):
                self.ranks[room] = number, ranks
        elif kind == messages.FAILURE_WAITS:
            room, number, *_ = messages.decode_life(payload)
            self._handlers.note_other_failure(room, number)
        elif kind == messages.JOINED:
            self._joined.set()
        elif kind == messages.LEFT:
            self._left.set()
        else:
            self._handle_words(kind, messages.decode_words(payload))

    def _handle_words(self, kind: int, words: list[Any]) -> None:
        if kind == messages.STATE:
            state = SessionState(*words)
            self.state = state._replace(dropped=self._dropped_before + state.dropped)
            self._handlers.state_changed()
        elif kind == messages.FAILED:
            self._handlers.fail_own(*words)
        elif kind == messages.FAILURE_READ:
            self._handlers.decide_other_failure(*words)
        elif kind == messages.REASON:
            self._handlers.deliver_reason(*words)
        elif kind == messages.LOG:
            logger.log(*words)
        elif kind == messages.LEASE and self.channel is not None:
            self.channel.hello = replace(self._hello, former=words).encode()
        elif kind == messages.REFUSED and self._joined.is_set():
            text = "redis_kvpoll: %s has left the status table until it is restarted: %s"
            logger.error(text, self._hello.name, words[0])
            self.go_on_alone()
        elif kind == messages.REFUSED:
            self._refusal = RefusedError(*words)
            self._joined.set()
        elif kind == messages.BROKEN:
            text = "redis_kvpoll: %s left the status table because of a bug; report this traceback\n%s"
            logger.error(text, self._hello.name, *words)
            self.go_on_alone()

    def _note(self, kind: int, payload: bytes) -> None:
        for _, number, generation in messages.decode_lives(payload):
            if kind == messages.OPENED:
                self._sender.opened(number, generation)
            else:
                self._sender.ended(number)
