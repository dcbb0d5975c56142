"""Tells the session each change of a client's rooms: at once, or from the outbox, in one order. No I/O of its own.

The caller holds the lock of the rooms, and lets nothing interrupt a call. While the channel takes messages, a change is
sent by the thread that makes it. Else changes are merged in the outbox until it takes them again. What was sent is kept
until the session has said that the table has it to its end: after a reconnect it is told once more.

Invariant: changes of a room are sent in the order of its lives, whichever thread sends. Nothing raises.
"""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from collections.abc import Callable

from redis_kvpoll.agent import messages
from redis_kvpoll.agent.outbox import MAX_ENDED_LIVES, Outbox, RoomLife

logger = logging.getLogger("redis_kvpoll")


class ChangeSender:
    """Sends what is in an outbox. ``send`` sends a message, and returns False if it cannot be sent now.

    It may be replaced while there is no connection.
    """

    def __init__(self, outbox: Outbox, send: Callable[[int, bytes], bool]) -> None:
        self.is_online = False
        self.sent = 0
        """How many changes were sent on this connection."""
        self._outbox = outbox
        self.send = send
        self._others: deque[tuple[int, bytes]] = deque()
        """Messages that are no changes, to be sent before what changes next."""
        self._told: dict[tuple[int, int], RoomLife] = {}
        """By room and life: all that was told of it. The oldest first."""
        self._told_ends: dict[tuple[int, int], None] = {}
        """Those of ``_told`` that are over and have no generation, the oldest first; at most MAX_ENDED_LIVES."""
        self._forgotten = 0
        """How many lives of this connection were forgotten before the session had seen to them."""
        self._unsent: OrderedDict[int, None] = OrderedDict()
        """Rooms that were taken from the outbox's changes, and could not be sent. A dict's front is slow to reach once
        much was deleted there."""
        self._last: tuple[int, bytes] | None = None
        """A message behind all changes, on each connection."""
        self._is_last_sent = False
        outbox.on_dropped = self._note_dropped

    @property
    def is_behind(self) -> bool:
        """Whether there is something to send, and a connection."""
        has_last = self._last is not None and not self._is_last_sent
        waits = self._unsent or self._others or has_last or self._outbox.has_changes
        return self.is_online and bool(waits)

    def post(self, kind: int, payload: bytes) -> None:
        """Let ``send_changes`` send a message that is no change. It is dropped while there is no connection."""
        if self.is_online:
            self._others.append((kind, payload))

    def post_life(self, kind: int, room: int, number: int, flag: bool = False, moment: float = 0.0) -> None:
        """Post a message that names one life. A room that cannot be written is logged, and not raised."""
        try:
            payload = messages.encode_life(room, number, flag, moment)
        except Exception:
            logger.exception("redis_kvpoll: a change of room %r cannot be told to the table", room)
        else:
            self.post(kind, payload)

    def post_last(self, kind: int, payload: bytes) -> None:
        """Let ``send_changes`` send a message once all changes are sent. An agent that dies may not have read it: each
        later connection sends it again."""
        self._last, self._is_last_sent = (kind, payload), False

    def send_changes(self) -> None:
        """Send what there is, as far as the channel takes it."""
        if not self.is_online:
            return
        while self._others:
            if not self.send(*self._others[0]):
                return
            self._others.popleft()
        rooms = self._outbox.take_changed()
        if self._unsent:
            self._unsent.update(dict.fromkeys(rooms))
            self._send_unsent()
        else:
            for room in rooms:
                if not self._send_room(room):
                    self._unsent.update(dict.fromkeys(rooms[rooms.index(room) :]))
                    return
        if self._last is not None and not self._is_last_sent and not len(self._outbox):
            self._is_last_sent = self.send(*self._last)

    def connected(self) -> None:
        """Tell everything once more, to a session that knows nothing."""
        self.sent, self._is_last_sent = 0, False
        self._others.clear()
        self._outbox.dropped += self._forgotten  # only the former session knew them
        self._forgotten = 0
        told, self._told, self._told_ends = self._told, {}, {}
        lives: dict[int, list[RoomLife]] = {}
        for (room, _), life in told.items():
            lives.setdefault(room, []).append(life)
        for room, former in lives.items():
            for life in reversed(former):
                self._outbox.put_back(room, life)
        self._unsent = OrderedDict.fromkeys([*lives, *self._outbox.rooms()])
        self.is_online = True

    def disconnected(self) -> None:
        """Keep what changes, until there is a connection again."""
        self.is_online = False

    def opened(self, room: int, number: int, generation: int) -> None:
        """Take note of the generation that a life has in the table."""
        life = self._told.get((room, number))
        if life is not None:
            life.generation = generation
            self._told_ends.pop((room, number), None)  # It is live there, so its end must not be forgotten.

    def ended(self, room: int, number: int) -> None:
        """Forget a life: the table has all of it, or the session has dropped it, and counts that."""
        key = room, number
        life = self._told.get(key)
        if life is None:
            self._forgotten = max(0, self._forgotten - 1)
        elif life.is_over:
            del self._told[key]
            self._told_ends.pop(key, None)

    def _send_unsent(self) -> None:
        while self._unsent:
            room = next(iter(self._unsent))
            if not self._send_room(room):
                return
            del self._unsent[room]

    def _send_room(self, room: int) -> bool:
        while (life := self._outbox.take(room)) is not None:
            try:
                payload = messages.encode_change(room, life)
            except Exception:
                logger.exception("redis_kvpoll: a change of room %r cannot be told to the table", room)
                continue
            if not self.send(messages.CHANGE, payload):
                self._outbox.put_back(room, life)
                return False
            self.sent += 1
            self._keep(room, life)
            if room not in self._outbox.lives:
                break
        return True

    def _keep(self, room: int, life: RoomLife) -> None:
        """Keep what was told, in case that it must be told once more."""
        key = room, life.number
        told = self._told.get(key)
        if told is None:
            told = self._told[key] = life
        else:
            told.add(life)
        if told.is_over and not told.generation:
            self._told_ends[key] = None
            if len(self._told_ends) > MAX_ENDED_LIVES:
                oldest = next(iter(self._told_ends))
                del self._told_ends[oldest], self._told[oldest]
                self._forgotten += 1

    def _note_dropped(self, room: int, _: int) -> None:
        """Do not look again at a room of which the outbox has nothing any more."""
        if not self._outbox.has(room):
            self._unsent.pop(room, None)
