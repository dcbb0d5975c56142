"""Tells the session each change of its rooms, in one order. No I/O of its own.

The caller holds the lock of the rooms, and lets nothing interrupt a call. While the channel takes messages, a change is
sent by the thread that makes it. Else the changes of a life are merged until the channel takes them again. Each life is
kept until the session has said that the table has it to its end: after a reconnect it is told once more.

Invariant: changes of a room are sent in the order of its lives, whichever thread sends. Nothing raises. A life that is
open here, or that the table has, is never dropped. Of lives that are over, and that the table may not have, the oldest
are dropped beyond MAX_ENDED_LIVES.
"""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from typing import Protocol

from redis_kvpoll.agent.life import HAS_LENGTH, HAS_REASON, HAS_STATUS, IS_NEW, IS_OVER, Life
from redis_kvpoll.agent.merge import FAILED
from redis_kvpoll.agent.messages import CHANGE, OVER_ALONE, STATUS_ALONE, encode_change, encode_life
from redis_kvpoll.agent.outbox import MAX_ENDED_LIVES

logger = logging.getLogger("redis_kvpoll")


class MessageChannel(Protocol):
    """What messages are sent by."""

    def send(self, kind: int, payload: bytes) -> bool:
        """Send a message; return False if it cannot be sent now."""


class NoChannel:
    """The channel before there is one."""

    def send(self, kind: int, payload: bytes) -> bool:
        return False


class ChangeSender:
    """Sends the changes of lives. The channel may be replaced while there is no connection."""

    def __init__(self) -> None:
        self.channel: MessageChannel = NoChannel()
        self.is_online = False
        self.sent = 0
        """How many changes were sent on this connection."""
        self.dropped = 0
        """How many lives never reached the table."""
        self.withheld: list[int] = []
        """Rooms whose failures stay here for now, and what follows them: each as often as it is withheld."""
        self._is_open = False
        """Whether a change can be sent at once: nothing waits for the channel."""
        self._is_closed = False
        self._lives: dict[int, Life] = {}
        """By number: the lives that the table is to have, until it has them to their end."""
        self._ended: OrderedDict[int, Life] = OrderedDict()
        """Those that are over and have no generation, the oldest first. A dict's front is slow to reach once much was
        deleted there."""
        self._unsent: OrderedDict[int, Life] = OrderedDict()
        """Those with something to send, in the order in which they changed."""
        self.kept_back: dict[int, dict[int, Life]] = {}
        """By room whose changes are kept back: the same."""
        self._others: deque[tuple[int, bytes]] = deque()
        """Messages that are no changes, to be sent before what waits."""
        self._forgotten = 0
        """How many lives of this connection were forgotten before the session had seen to them."""
        self._last: tuple[int, bytes] | None = None
        """A message behind all changes, on each connection."""
        self._is_last_sent = False

    def __len__(self) -> int:
        """Return how many lives have something unsent."""
        return len(self._unsent) + sum(map(len, self.kept_back.values()))

    @property
    def is_behind(self) -> bool:
        """Whether there is something to send, and a connection."""
        has_last = self._last is not None and not self._is_last_sent
        return self.is_online and bool(self._unsent or self._others or has_last)

    # Changes of lives

    def begin(self, life: Life) -> None:
        """Tell that the table is to have a life, with its status, from now on."""
        if not self._is_closed:
            self._lives[life.number] = life
        self.tell(life, IS_NEW | HAS_STATUS | HAS_REASON if life.reason else IS_NEW | HAS_STATUS)

    def end(self, life: Life) -> None:
        """Tell that a life is over."""
        life.is_over = True
        self.tell(life, IS_OVER)
        if not life.generation and not self._is_closed:
            self._ended[life.number] = life
            if len(self._ended) > MAX_ENDED_LIVES:
                self._drop_oldest()

    def tell(self, life: Life, changed: int) -> None:
        """Send what has changed of a life, as parts of it, or keep it until it can be sent. A new length goes along."""
        length = life.length
        life.unsent |= changed if length == life.told_length else changed | HAS_LENGTH
        if not self._is_open or (life.room in self.withheld and (life.status == FAILED or life.room in self.kept_back)):
            self._keep(life)
            return
        try:
            if life.unsent == HAS_STATUS:  # as encode_change, without a call: SGLang's thread sends several a request
                payload = life.head + STATUS_ALONE[life.status]
            elif life.unsent == IS_OVER:
                payload = life.head + OVER_ALONE
            else:
                payload = encode_change(life)
        except Exception:
            logger.exception("redis_kvpoll: a change of room %r cannot be told to the table", life.room)
            self._lives.pop(life.number, None)
        else:
            if not self.channel.send(CHANGE, payload):
                self._is_open = False  # what changes now waits, too
                self._keep(life)
                return
            self.sent += 1
        life.unsent, life.told_length = 0, length
        if self._unsent:
            self._unsent.pop(life.number, None)

    def release(self, room: int) -> None:
        """Send what was kept back while a room was withheld, unless it is withheld still."""
        self.withheld.remove(room)
        if room not in self.withheld:
            kept = self.kept_back.pop(room, {})
            for number in sorted(kept):  # one that had waited for the channel before came behind a later one
                self.tell(kept[number], 0)
            if self._last is not None:
                self.send_changes()

    # Other messages

    def post(self, kind: int, payload: bytes) -> None:
        """Send a message that is no change, now or before all that waits. It is dropped without a connection."""
        if self.is_online and not (self._is_open and self.channel.send(kind, payload)):
            self._is_open = False
            self._others.append((kind, payload))

    def post_life(self, kind: int, room: int, number: int, flag: bool = False, moment: float = 0.0) -> None:
        """Post a message that names one life. A room that cannot be written is logged, and not raised."""
        try:
            payload = encode_life(room, number, flag, moment)
        except Exception:
            logger.exception("redis_kvpoll: a change of room %r cannot be told to the table", room)
        else:
            self.post(kind, payload)

    def post_last(self, kind: int, payload: bytes) -> None:
        """Let ``send_changes`` send a message once all changes are sent. An agent that dies may not have read it: each
        later connection sends it again."""
        self._last, self._is_last_sent = (kind, payload), False

    # The connection

    def send_changes(self) -> None:
        """Send what waits, as far as the channel takes it."""
        if not self.is_online:
            return
        self._is_open = False
        while self._others:
            if not self.channel.send(*self._others[0]):
                return
            self._others.popleft()
        self._is_open = True
        while self._unsent and self._is_open:
            self.tell(next(iter(self._unsent.values())), 0)
        if self._is_open and self._last is not None and not self._is_last_sent and not len(self):
            self._is_last_sent = self.channel.send(*self._last)

    def connected(self) -> None:
        """Tell everything once more, to a session that knows nothing."""
        self.sent, self._is_last_sent = 0, False
        self._others.clear()
        self.dropped += self._forgotten  # only the former session knew them
        self._forgotten = 0
        for life in self._lives.values():
            life.unsent = life.parts()
        self.kept_back.clear()
        self._unsent = OrderedDict(self._lives)
        self.is_online = True

    def disconnected(self) -> None:
        """Keep what changes, until there is a connection again."""
        self.is_online = self._is_open = False

    def close(self) -> None:
        """Drop everything, also from now on, because there is no session any more."""
        self.disconnected()
        self._is_closed = True
        for lives in (self._lives, self._ended, self._unsent, self.kept_back):
            lives.clear()

    # What the session says

    def opened(self, number: int, generation: int) -> None:
        """Take note of the generation that a life has in the table."""
        life = self._lives.get(number)
        if life is not None:
            life.generation = generation
            self._ended.pop(number, None)  # It is live there, so its end must not be forgotten.

    def ended(self, number: int) -> None:
        """Forget a life: the table has all of it, or the session has dropped it, and counts that."""
        life = self._lives.get(number)
        if life is None:
            self._forgotten = max(0, self._forgotten - 1)
        elif life.is_over and not life.unsent:
            del self._lives[number]
            self._ended.pop(number, None)

    def _keep(self, life: Life) -> None:
        if self._is_closed:
            return
        if life.room in self.withheld:
            self._unsent.pop(life.number, None)
            self.kept_back.setdefault(life.room, {})[life.number] = life
        else:
            self._unsent.setdefault(life.number, life)

    def _drop_oldest(self) -> None:
        """Drop the oldest life that is over, and that the table may not have."""
        number, life = self._ended.popitem(last=False)
        self._lives.pop(number, None)
        if life.unsent:
            self._unsent.pop(number, None)
            if life.room in self.kept_back:
                self.kept_back[life.room].pop(number, None)
            self.dropped += 1
        else:
            self._forgotten += 1
