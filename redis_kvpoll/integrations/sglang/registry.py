"""What this process knows of its rooms, and what of that has yet to be said to the table. No I/O.

SGLang's threads write here, and never wait for more than a lock. Each time that SGLang opens a room is a use of it,
with a number: a thread that has looked at one use and comes to write when another has begun, or none, changes nothing.
So what SGLang reads and writes in two steps is one, and no late write brings a room back that was cleared in between.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Any

from redis_kvpoll.integrations.sglang.dicts import MISSING, FailureRecords, PrefixLengths, StatusMap
from redis_kvpoll.integrations.sglang.merge import FAILED, OPENING, SUCCESS, further
from redis_kvpoll.integrations.sglang.outbox import Outbox, RoomLife

MEMORY = 300.0
"""Seconds for which a room that was cleared is remembered, with its reason: SGLang clears before it asks for that."""
REMEMBERED = 10_000
"""Such rooms at most."""
WAITING = 0.1
"""The part of its time that SGLang's thread may wait for other ranks' reasons, one after the other."""
GENERIC = "Aborted by AbortReq."
"""What SGLang's abort() records; who knows better may say so after it, as in _fail_prefill_recompute."""


class RoomRegistry:
    """The rooms of one process. ``wake`` is called when there is something to say; ``clock`` gives seconds."""

    def __init__(self, wake: Callable[[], object], clock: Callable[[], float] = time.monotonic) -> None:
        self.statuses = StatusMap(self)
        self.reasons = FailureRecords(self)
        self.lengths = PrefixLengths(self)
        self.reason_seconds = 0.0
        """How long to wait for another rank's reason; 0 while there is nobody to wait for."""
        self._rested_since = -math.inf
        self.awaited: set[int] = set()
        """The rooms for whose reason somebody waits."""
        self._outbox = Outbox(wake)
        self._clock = clock
        self._lock = threading.Lock()
        self._heard = threading.Condition(self._lock)
        self._numbers: dict[int, int] = {}
        self._last_number = 0
        self._tombstones: dict[int, tuple[int | None, float]] = {}
        self._looked = threading.local()
        self._is_away = False
        self._outlived: set[int] = set()
        """Rooms from before the table was back: other ranks may have yet to say again where they are."""

    def __len__(self) -> int:
        """How many rooms have something that is still to be said."""
        return len(self._outbox)

    @property
    def dropped(self) -> int:
        """How many lives the table will never hear of."""
        return self._outbox.dropped

    # Statuses, as SGLang reads and writes them

    def look(self, room: int, default: Any) -> Any:
        """The status of a room, to decide what to write: the write that follows is for the use that was seen."""
        with self._lock:
            self._looked.at = room, self._numbers.get(room)
            return dict.get(self.statuses, room, default)

    def last_status(self, room: int) -> int:
        """The status of a room that was cleared a moment ago; KeyError if it was not."""
        with self._lock:  # the look-up that found nothing took none: by now the room may even be there again
            status: int | None = dict.get(self.statuses, room, self._tombstones.get(room, (None, 0.0))[0])
        if status is None:
            raise KeyError(room)
        return status

    def put(self, room: int, status: int) -> None:
        """Merge a status into a room, or open it."""
        with self._lock:
            at, seen = self._looked.__dict__.pop("at", (None, None))
            number = self._numbers.get(room)
            if number is None:
                if status in OPENING and (at != room or seen is None):
                    self._open(room, status)
            elif at != room or seen in (None, number):
                self._advance(room, number, status)

    def end(self, room: int, default: Any) -> Any:
        """Clear a room; what it was."""
        with self._lock:
            number = self._numbers.pop(room, None)
            if number is None:
                if default is MISSING:
                    raise KeyError(room)
                return default
            status = self.statuses.drop(room)
            dict.pop(self.lengths, room, None)
            self._outbox.end(room, number)
            self._outlived.discard(room)
            self._keep_tombstone(room, status)
            return status

    def _open(self, room: int, status: int) -> None:
        self._last_number += 1
        self._numbers[room] = self._last_number
        self._tombstones.pop(room, None)
        dict.pop(self.reasons, room, None)  # of the use before; what fails this one is recorded after its opening
        self.statuses.keep(room, status)
        life = self._outbox.of(room, self._last_number)
        life.is_new, life.status, life.length = True, status, dict.get(self.lengths, room)

    def _advance(self, room: int, number: int, status: int) -> None:
        was = dict.__getitem__(self.statuses, room)
        now = further(was, status)
        if now != was:
            self.statuses.keep(room, now)
            life = self._outbox.of(room, number)
            life.status = now
            if now == FAILED:
                life.reason = dict.get(self.reasons, room, "")

    # Reasons and prefix lengths

    def blame(self, room: int, reason: str) -> None:
        """Record why a room fails. The first cause stays."""
        with self._lock:
            if dict.get(self.reasons, room, GENERIC) != GENERIC:
                return
            dict.__setitem__(self.reasons, room, reason)
            number = self._numbers.get(room)
            if number is None:
                self._remember(room)
            elif dict.__getitem__(self.statuses, room) == FAILED:
                self._outbox.of(room, number).reason = reason
            self._heard.notify_all()

    def take_reason(self, room: int, default: Any) -> Any:
        """The reason, which is then forgotten. WaitRegistry a moment for one that another rank may have given."""
        with self._lock:
            if room not in self.reasons and self.reason_seconds and room in self._tombstones:
                self._await_reason(room)
            reason = dict.pop(self.reasons, room, default)
        if reason is MISSING:
            raise KeyError(room)
        return reason

    def _await_reason(self, room: int) -> None:
        """Wait, but never for more than a tenth of the time: of a hundred that fail at once, SGLang asks in turn."""
        now, longest = self._clock(), self.reason_seconds
        self._rested_since = max(self._rested_since, now - longest / WAITING)
        self.awaited.add(room)
        self._outbox.tell(room)
        self._heard.wait_for(lambda: room in self.reasons, (now - self._rested_since) * WAITING)
        self.awaited.discard(room)
        self._rested_since += (self._clock() - now) / WAITING

    def measure(self, room: int, length: int) -> None:
        """Record how much of a room's prefix the decode side has."""
        with self._lock:
            dict.__setitem__(self.lengths, room, length)
            number = self._numbers.get(room)
            if number is None:
                self._remember(room)
            else:
                self._outbox.of(room, number).length = length

    def take_length(self, room: int, default: Any) -> Any:
        """The length, which is then forgotten; the table keeps it until the room is cleared."""
        with self._lock:
            length = dict.pop(self.lengths, room, default)
        if length is MISSING:
            raise KeyError(room)
        return length

    # What is heard of the table

    def away(self, is_away: bool) -> None:
        """Whether the table can be heard just now."""
        with self._lock:
            if self._is_away and not is_away:
                self._outlived = set(self._numbers)
            self._is_away = is_away

    def part(self) -> None:
        """There is no link any more: nothing will be said or heard, so nothing is kept for it or waited for."""
        with self._lock:
            self._is_away, self.reason_seconds = True, 0.0
            self._outbox.close()

    def is_alone_with(self, room: int) -> bool:
        """Whether the table may know less of the other ranks of a room than they have said."""
        return self._is_away or room in self._outlived

    def number_of(self, room: int) -> int | None:
        """The use of a room that is under way."""
        return self._numbers.get(room)

    def follows(self, room: int) -> bool:
        """Whether news of a room are of interest: also that other ranks have cleared it, after us."""
        return room in self._numbers or room in self._tombstones

    def fail_from_table(self, room: int, number: int, reason: str, is_to_be_said: bool) -> None:
        """A use has failed elsewhere. ``is_to_be_said``: in another table than ours, which Success needs no more."""
        with self._lock:
            if self._numbers.get(room) != number:
                return
            if dict.__getitem__(self.statuses, room) in ((FAILED, SUCCESS) if is_to_be_said else (FAILED,)):
                return
            if reason and room not in self.reasons:
                dict.__setitem__(self.reasons, room, reason)
            if is_to_be_said:
                self._advance(room, number, FAILED)
            else:
                self.statuses.keep(room, FAILED)

    def note_reason(self, room: int, reason: str) -> None:
        """Another rank's reason, for who waits for it."""
        with self._lock:
            if room in self.awaited and room not in self.reasons:
                dict.__setitem__(self.reasons, room, reason)
                self._heard.notify_all()

    # What is to be said

    def news(self) -> list[int]:
        """The rooms of which there has come to be something to say since the last call."""
        with self._lock:
            return self._outbox.news()

    def unsaid(self) -> list[int]:
        """All rooms of which there is something to say."""
        with self._lock:
            return self._outbox.rooms()

    def take(self, room: int) -> RoomLife | None:
        """What is to be said next of a room. What comes from now on is said after it."""
        with self._lock:
            return self._outbox.take(room)

    def put_back(self, room: int, life: RoomLife) -> None:
        """It could not be said now."""
        with self._lock:
            self._outbox.put_back(room, life)

    # Rooms that were

    def _keep_tombstone(self, room: int, status: int | None) -> None:
        now = self._clock()
        self._tombstones.pop(room, None)
        self._tombstones[room] = status, now + MEMORY
        while True:
            oldest = next(iter(self._tombstones))
            if self._tombstones[oldest][1] > now and len(self._tombstones) <= REMEMBERED:
                return
            del self._tombstones[oldest]
            if oldest not in self._numbers:
                dict.pop(self.reasons, oldest, None)
                dict.pop(self.lengths, oldest, None)

    def _remember(self, room: int) -> None:
        """What was recorded of a room that is not there is forgotten in time."""
        if room not in self._tombstones:
            self._keep_tombstone(room, None)
