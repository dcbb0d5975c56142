"""What this process knows of its rooms, and what of that has yet to be said to the table. No I/O.

SGLang's threads write here, and never wait for more than a lock. Each time that SGLang opens a room is a use of it,
with a number: a thread that has looked at one use and comes to write when another has begun, or none, changes nothing.
So what SGLang reads and writes in two steps is one, and no late write brings a room back that was cleared in between.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from redis_kvpoll.integrations.sglang.maps import MISSING, FailureRecords, PrefixLengths, StatusMap
from redis_kvpoll.status import KVPoll

FAILED, SUCCESS = int(KVPoll.Failed), int(KVPoll.Success)
OPENING = (int(KVPoll.Bootstrapping), int(KVPoll.WaitingForInput))
"""What may create a room: SGLang's rule since PR 24539, and the policy strict."""
MEMORY = 300.0
"""Seconds for which a room that was cleared is remembered, with its reason: SGLang clears before it asks for that."""
LIMIT = 10_000
"""Uses that have begun and ended while the table could not be told: of more, the oldest are never told."""
GENERIC = "Aborted by AbortReq."
"""What SGLang's abort() records; who knows better may say so after it, as in _fail_prefill_recompute."""


@dataclass(slots=True)
class Use:
    """What is to be said of one use of a room: how far it has got, why it failed, whether it is over."""

    number: int
    is_new: bool = False
    """Whether the table knows nothing of it yet."""
    status: int | None = None
    reason: str = ""
    length: int | None = None
    is_over: bool = False

    def take_in(self, later: Use) -> None:
        """Say also what came later of the same use."""
        self.status = merged(self.status, later.status)
        self.reason = self.reason or later.reason
        self.length = self.length if later.length is None else later.length
        self.is_over = self.is_over or later.is_over


def merged(one: int | None, other: int | None) -> int | None:
    """The rule: Failed stays; else the further one."""
    if one is None or other is None:
        return other if one is None else one
    return FAILED if FAILED in (one, other) else max(one, other)


class Book:
    """The rooms of one process. ``wake`` is called when there is something to say; ``clock`` gives seconds."""

    def __init__(self, wake: Callable[[], object], clock: Callable[[], float] = time.monotonic) -> None:
        self.statuses = StatusMap(self)
        self.reasons = FailureRecords(self)
        self.lengths = PrefixLengths(self)
        self.reason_seconds = 0.0
        """How long to wait for another rank's reason; 0 while there is nobody to wait for."""
        self.awaited: set[int] = set()
        """The rooms for whose reason somebody waits."""
        self.untold = 0
        """Uses that the table will never hear of."""
        self.wake = wake
        self._clock = clock
        self._lock = threading.Lock()
        self._heard = threading.Condition(self._lock)
        self._numbers: dict[int, int] = {}
        self._last_number = 0
        self._graves: dict[int, tuple[int | None, float]] = {}
        self._looked = threading.local()
        self._unsaid: dict[int, list[Use]] = {}
        self._whole: dict[tuple[int, int], None] = {}
        self._news: dict[int, None] = {}

    def __len__(self) -> int:
        """How many rooms have something that is still to be said."""
        return len(self._unsaid)

    # Statuses, as SGLang reads and writes them

    def look(self, room: int, default: Any) -> Any:
        """The status of a room, to decide what to write: the write that follows is for the use that was seen."""
        with self._lock:
            self._looked.at = room, self._numbers.get(room)
            return dict.get(self.statuses, room, default)

    def last_status(self, room: int) -> int:
        """The status of a room that was cleared a moment ago; KeyError if it was not."""
        with self._lock:  # the look-up that found nothing took none: by now the room may even be there again
            status: int | None = dict.get(self.statuses, room, self._graves.get(room, (None, 0.0))[0])
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
            status = dict.pop(self.statuses, room)
            dict.pop(self.lengths, room, None)
            use = self._to_say(room, number)
            use.is_over = True
            if use.is_new:
                self._whole[room, number] = None
                self._bound()
            self._bury(room, status)
            return status

    def _open(self, room: int, status: int) -> None:
        self._last_number += 1
        self._numbers[room] = self._last_number
        self._graves.pop(room, None)
        dict.pop(self.reasons, room, None)  # of the use before; what fails this one is recorded after its opening
        dict.__setitem__(self.statuses, room, status)
        use = self._to_say(room, self._last_number)
        use.is_new, use.status, use.length = True, status, dict.get(self.lengths, room)

    def _advance(self, room: int, number: int, status: int) -> None:
        was = dict.__getitem__(self.statuses, room)
        now = merged(was, status)
        if now != was:
            dict.__setitem__(self.statuses, room, now)
            use = self._to_say(room, number)
            use.status = now
            if now == FAILED:
                use.reason = dict.get(self.reasons, room, "")

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
                self._to_say(room, number).reason = reason
            self._heard.notify_all()

    def take_reason(self, room: int, default: Any) -> Any:
        """The reason, which is then forgotten. Waits a moment for one that another rank may have given."""
        with self._lock:
            if room not in self.reasons and self.reason_seconds and room in self._graves:
                self.awaited.add(room)
                self._say(room)
                self._heard.wait_for(lambda: room in self.reasons, self.reason_seconds)
                self.awaited.discard(room)
            reason = dict.pop(self.reasons, room, default)
        if reason is MISSING:
            raise KeyError(room)
        return reason

    def measure(self, room: int, length: int) -> None:
        """Record how much of a room's prefix the decode side has."""
        with self._lock:
            dict.__setitem__(self.lengths, room, length)
            number = self._numbers.get(room)
            if number is None:
                self._remember(room)
            else:
                self._to_say(room, number).length = length

    def take_length(self, room: int, default: Any) -> Any:
        """The length, which is then forgotten; the table keeps it until the room is cleared."""
        with self._lock:
            length = dict.pop(self.lengths, room, default)
        if length is MISSING:
            raise KeyError(room)
        return length

    # What is heard of the table

    def number_of(self, room: int) -> int | None:
        """The use of a room that is under way."""
        return self._numbers.get(room)

    def follows(self, room: int) -> bool:
        """Whether news of a room are of interest: also that other ranks have cleared it, after us."""
        return room in self._numbers or room in self._graves

    def hear_failed(self, room: int, number: int, reason: str, is_to_be_said: bool) -> None:
        """A use has failed elsewhere. ``is_to_be_said``: in another table than ours."""
        with self._lock:
            if self._numbers.get(room) != number or dict.__getitem__(self.statuses, room) == FAILED:
                return
            if reason and room not in self.reasons:
                dict.__setitem__(self.reasons, room, reason)
            if is_to_be_said:
                self._advance(room, number, FAILED)
            else:
                dict.__setitem__(self.statuses, room, FAILED)

    def hear_reason(self, room: int, reason: str) -> None:
        """Another rank's reason, for who waits for it."""
        with self._lock:
            if room in self.awaited and room not in self.reasons:
                dict.__setitem__(self.reasons, room, reason)
                self._heard.notify_all()

    # What is to be said

    def news(self) -> list[int]:
        """The rooms of which there has come to be something to say since the last call."""
        with self._lock:
            rooms, self._news = list(self._news), {}
        return rooms

    def take(self, room: int) -> Use | None:
        """What is to be said next of a room. What comes from now on is said after it."""
        with self._lock:
            uses = self._unsaid.get(room)
            if not uses:
                return None
            use = uses.pop(0)
            if not uses:
                del self._unsaid[room]
            self._whole.pop((room, use.number), None)
        return use

    def put_back(self, room: int, use: Use) -> None:
        """It could not be said now."""
        with self._lock:
            uses = self._unsaid.setdefault(room, [])
            if uses and uses[0].number == use.number:
                use.take_in(uses.pop(0))
            uses.insert(0, use)
            if use.is_new and use.is_over:
                self._whole[room, use.number] = None
                self._bound()

    def _to_say(self, room: int, number: int) -> Use:
        uses = self._unsaid.setdefault(room, [])
        if not uses or uses[-1].number != number:
            uses.append(Use(number))
        self._say(room)
        return uses[-1]

    def _say(self, room: int) -> None:
        if not self._news:
            self.wake()
        self._news[room] = None

    def _bound(self) -> None:
        if len(self._whole) > LIMIT:
            room, number = next(iter(self._whole))
            del self._whole[room, number]
            left = [use for use in self._unsaid.get(room, ()) if use.number != number]
            if left:
                self._unsaid[room] = left
            else:
                self._unsaid.pop(room, None)
            self.untold += 1

    # Rooms that were

    def _bury(self, room: int, status: int | None) -> None:
        now = self._clock()
        self._graves.pop(room, None)
        self._graves[room] = status, now + MEMORY
        while True:
            oldest = next(iter(self._graves))
            if self._graves[oldest][1] > now and len(self._graves) <= LIMIT:
                return
            del self._graves[oldest]
            if oldest not in self._numbers:
                dict.pop(self.reasons, oldest, None)
                dict.pop(self.lengths, oldest, None)

    def _remember(self, room: int) -> None:
        """What was recorded of a room that is not there is forgotten in time."""
        if room not in self._graves:
            self._bury(room, None)
