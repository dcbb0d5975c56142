"""The rooms of one process: their current statuses, and the changes that the table does not have yet. No I/O.

SGLang's threads call it. They wait only for a lock and, for a bounded time, for another rank's failure reason.

Each opening of a room begins a life with a new number. SGLang's ``update_status`` reads a status, and writes the next
one in a separate step. It runs in a scope: its write applies only to the life that the room had when it began. So a
late write neither changes a room's next life nor re-creates a cleared room.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from redis_kvpoll.agent.client.sender import ChangeSender
from redis_kvpoll.agent.life import HAS_REASON, HAS_STATUS, Life
from redis_kvpoll.agent.merge import FAILED, SUCCESS
from redis_kvpoll.agent.tombstones import Tombstones
from redis_kvpoll.integrations.sglang.changes import Changes, change
from redis_kvpoll.integrations.sglang.lives import RoomLives
from redis_kvpoll.integrations.sglang.maps import FailureRecords, PrefixLengths, StatusMap
from redis_kvpoll.integrations.sglang.reason_wait import ReasonWait
from redis_kvpoll.integrations.sglang.scope import Scopes
from redis_kvpoll.integrations.sglang.unclaimed import Unclaimed

GENERIC_REASON = "Aborted by AbortReq."
"""What SGLang's abort() records. A more specific reason may replace it, as in _fail_prefill_recompute."""


class RoomRegistry:
    """The rooms of one process. ``clock`` gives seconds, and ``sender`` tells their changes."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.lives = RoomLives()
        self.scopes = Scopes(self.lives)
        self.changes = Changes(self.scopes)
        self.change = self.changes.do
        self.statuses = StatusMap(self)
        self.reasons = FailureRecords(self)
        self.lengths = PrefixLengths(self)
        self.update_status: Callable[[int, int], Any] = self.statuses.__setitem__
        """SGLang's own, once it is scoped."""
        self.sender = ChangeSender()
        self.waiting = ReasonWait(self.changes, clock)
        self._tombstones: Tombstones[int | None] = Tombstones(clock)
        """The last status of each room that was cleared a while ago; None if it had none, or is not known."""
        self.on_hold: Callable[[int, int, bool, float], object] = lambda *_: None
        """Called with a room without a sender, its life, whether that is over, and the time; with the lock."""
        self.awaits_claims = False
        """Whether a room is published only when it has a sender or receiver here: each one claims its room."""
        self.unclaimed = Unclaimed(self.lives, clock)
        self.held = self.unclaimed.held

    # Statuses, as SGLang reads and writes them

    def scoped(self, update_status: Callable[..., Any]) -> Callable[..., Any]:
        """Return SGLang's ``update_status`` so that each call is about one life of its room; it also fails rooms."""
        self.update_status = self.scopes.around(update_status)
        return self.update_status

    def last_status(self, room: int) -> int | None:
        """Return the status of a room that was cleared; None if it was not, or is forgotten."""
        with self.changes.lock:  # the dict's look-up took no lock: by now the room may even have been opened again
            status: int | None = dict.get(self.statuses, room, self._tombstones.get(room))
            return status

    # Parts of a change that a map has decided on

    def fail(self, life: Life, before: int) -> None:
        """Fail a life, because SGLang does, perhaps for a failure in a table; ``before``: its status."""
        failure = self.scopes.failure
        if failure is None or failure.life is not life:
            self.set_status(life, FAILED)
        elif before != SUCCESS:  # what the life was for is done: a table's failure does not undo it
            self.set_status(life, FAILED, failure.publish)

    def set_status(self, life: Life, status: int, publish: bool = True) -> None:
        """Set the status of a life."""
        room = life.room
        if status == dict.__getitem__(self.statuses, room):
            return
        self.statuses.store(room, status)
        if publish and life.status is not None:
            changed, life.status = HAS_STATUS, status
            if status == FAILED and (reason := dict.get(self.reasons, room)):
                changed, life.reason = HAS_STATUS | HAS_REASON, reason
            self.sender.tell(life, changed)

    def clear(self, room: int) -> int | None:
        """Clear a room and return its last status; None if it is not open, or this thread acts on a former life."""
        scope, life = self.scopes.current, self.lives.get(room)
        is_late = scope is not None and scope[0] == room and scope[1] not in (None, life)  # as Scopes.is_late
        if life is None or is_late:
            return None
        del self.lives[room]
        status: int = self.statuses.remove(room)
        dict.pop(self.lengths, room, None)
        if self.unclaimed.rooms.pop(room, None) is None:
            self.unclaimed.senders.pop(life.number, None)
            self.sender.end(life)
        else:
            self.on_hold(room, life.number, True, self._clock())
        if forgotten := self._tombstones.add(room, status):
            self._forget(forgotten)
        return status

    def to_clear(self, room: int) -> int | None:
        """Return what ``clear`` would."""
        return None if self.scopes.is_late(room) else self.statuses.get(room)

    def claim_during(self, room: int, request: str, call: Callable[..., Any], /, *arguments: Any, **words: Any) -> Any:
        """Make a call, which makes the sender or receiver of a room, for a request of SGLang's."""
        self.scopes.claim = room, request
        try:
            return call(*arguments, **words)
        finally:
            self.scopes.claim = None
            # Seldom, and so looked at first. A change that this interrupts may be about to open the room.
            if room in self.unclaimed.rooms or self.changes.is_changing:
                self._claim(room, request)

    @change
    def _claim(self, room: int, request: str) -> None:
        if (since := self.unclaimed.pop(room)) is not None:
            self._begin_publishing(self.lives[room], request, since)

    @change
    def abandon(self) -> None:
        """See to the lives whose sender is gone. What is Failed ends for the table, and the room goes on as one without
        a sender: SGLang drops some requests that it aborts, and does not clear their rooms."""
        for life in self.unclaimed.take_dropped():
            room = life.room
            is_left = self.lives.get(room) is life and room not in self.unclaimed.rooms
            if is_left and dict.__getitem__(self.statuses, room) == FAILED:
                self.sender.end(life)
                self.lives[room] = next_life = Life(room, next(self.lives.numbers))
                self._await_claim(next_life)

    def open(self, room: int, status: int) -> None:
        """Begin the next life of a room."""
        self.lives[room] = life = Life(room, next(self.lives.numbers))
        dict.pop(self.reasons, room, None)  # the last life's: this one's reason is recorded after its opening
        self.statuses.store(room, status)
        claim = self.scopes.claim
        if claim is not None and claim[0] == room:
            self._begin_publishing(life, claim[1], self._clock())
        elif self.awaits_claims:
            self._await_claim(life)
        else:
            self._begin_publishing(life, "", self._clock())

    def _await_claim(self, life: Life) -> None:
        self.on_hold(life.room, life.number, False, self.unclaimed.add(life.room))

    def _begin_publishing(self, life: Life, request: str, opened_at: float) -> None:
        room = life.room
        life.request, life.opened_at, life.length = request, opened_at, dict.get(self.lengths, room)
        life.status = dict.__getitem__(self.statuses, room)
        if life.status == FAILED:
            life.reason = dict.get(self.reasons, room, "")
        self.sender.begin(life)

    # Reasons and prefix lengths

    @change
    def record_reason(self, room: int, reason: str) -> None:
        """Record why a room fails. The first reason stays."""
        if self.scopes.is_late(room) or dict.get(self.reasons, room, GENERIC_REASON) != GENERIC_REASON:
            return
        dict.__setitem__(self.reasons, room, reason)
        life = self.lives.get(room)
        if life is None:
            self._remember(room)
        elif dict.__getitem__(self.statuses, room) == FAILED and life.status is not None:
            life.reason = reason
            self.sender.tell(life, HAS_REASON)
        self.waiting.recorded()

    def await_reason(self, room: int) -> None:
        """Return once there is a reason, or none is to come: wait a moment for another rank's."""
        if room not in self.reasons and self.waiting.longest and room not in self.lives and room in self._tombstones:
            self.waiting.wait(room, self.reasons)

    def withhold_during(self, room: int, call: Callable[..., Any], /, *arguments: Any, **words: Any) -> Any:
        """Make a call, and keep a failure of a room, and what follows it, from the table until it has returned."""
        withheld, kept_back = self.sender.withheld, self.sender.kept_back
        with self.changes.lock:
            withheld.append(room)
        try:
            return call(*arguments, **words)
        finally:
            with self.changes.lock:
                if room in kept_back or self.changes.is_changing:
                    self._release(room)
                else:  # as that, without calls: most transfers do not fail
                    withheld.remove(room)

    @change
    def _release(self, room: int) -> None:
        self.sender.release(room)

    @change
    def detach(self) -> None:
        """Stop publishing and waiting, because there is no worker any more. The maps work on as dicts."""
        self.waiting.longest = 0.0
        self.sender.close()

    def is_undecided(self, room: int, number: int) -> bool:
        """Return whether a life is current, and neither Failed nor at Success. Without the lock, to save work only."""
        return self.lives.number(room) == number and dict.get(self.statuses, room) not in (FAILED, SUCCESS)

    def is_claimed(self, room: int) -> bool:
        """Return whether a room is open and has had a sender or receiver."""
        # While a message opens it, or another thread sees to a dropped sender, it looks like one with a sender.
        with self.changes.lock:
            return room in self.lives and room not in self.unclaimed.rooms

    def end_unclaimed(self, room: int, age: float = 0.0) -> bool:
        """Clear one of these rooms, unless a sender has come, or decode has asked anew."""
        is_old = partial(self.unclaimed.is_old, room, age)
        return self.changes.make(lambda: is_old() and self.clear(room) is not None, is_old)

    def fail_from_table(self, room: int, number: int, reason: str, publish: bool) -> None:
        """Fail a life that has failed in the table, by SGLang's own update_status: more may hang on it.

        ``publish``: it failed in the other role's table, so the failure must be written to this role's table too. A
        life that has reached Success stays: what it was for is done.
        """

        def begin() -> Life | None:
            if not self.is_undecided(room, number):
                return None
            if reason:
                dict.setdefault(self.reasons, room, reason)
            return self.lives[room]

        if (life := self.changes.make(begin, lambda: None)) is not None:
            self.scopes.fail(life, publish, self.update_status)

    @change
    def deliver_reason(self, room: int, reason: str) -> None:
        """Give another rank's reason to the thread that waits for it."""
        if room in self.waiting.rooms and room not in self.reasons:
            dict.__setitem__(self.reasons, room, reason)
            self.waiting.recorded()

    @change
    def note_length(self, room: int) -> None:
        """Let a length expire that was recorded for a room that is not open."""
        if room not in self.lives:
            self._remember(room)

    def _remember(self, room: int) -> None:
        """Let the records of a room expire that is not open."""
        if room not in self._tombstones:
            self._forget(self._tombstones.add(room, None))

    def _forget(self, rooms: list[int]) -> None:
        for forgotten in rooms:
            if forgotten not in self.lives:
                dict.pop(self.reasons, forgotten, None)
                dict.pop(self.lengths, forgotten, None)
