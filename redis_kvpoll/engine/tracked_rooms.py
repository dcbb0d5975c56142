"""What a store holds of rooms: their generations, as it last knew them, to be said again when the server has lost them.

No I/O. Times are seconds of a clock that does not go back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from redis_kvpoll.model import KVPoll, Outcome, Refusal
from redis_kvpoll.protocol.replies import known
from redis_kvpoll.protocol.script_call import MAX_BATCH, Call, Layout
from redis_kvpoll.protocol.script_specs import (
    ABORT,
    ATTACH,
    CLEAR,
    CLEAR_FENCED,
    OPEN,
    REAP,
    RESTATE,
    SET_PREFIX,
    TOUCH,
    UPDATE,
    WRITE,
)

PATIENCE = 10.0
"""Seconds that a guest waits for the opener of its room, after a loss: that has to notice, too, and to come back."""
RETRY = 0.05
"""Seconds between its looks."""
PACE = 10_000
"""Rooms a second, at most, that are said again in vain, so that nobody waits long behind them."""
SWEEP = 1000
"""Claims between two looks for those that nobody ends."""

Role = Literal["opener", "guest", "cleared"]


@dataclass(slots=True)
class Claim:
    """One room in one generation."""

    generation: int
    request: str
    role: Role
    """An opener creates the room again when it is lost; a guest only adds what it knows. One of several ranks that
    has cleared is a guest whose last status still counts."""
    status: KVPoll | None
    until: float
    """When its TTL is over, as far as this store knows: what has expired is not brought back."""
    reason: str = ""
    length: str = ""
    is_ending: bool = False
    """Whether a clear is under way."""
    waits_since: float | None = None
    """Restated, but the room is not there: its opener has not come back yet."""


class Held:
    """The claims of one store, by shard and room. ``ttl`` and ``terminal_ttl`` are seconds."""

    def __init__(self, ttl: float, terminal_ttl: float, has_rank: bool) -> None:
        self._ttl = ttl
        self._terminal_ttl = terminal_ttl
        self._has_rank = has_rank
        self._shards: dict[str, dict[int, Claim]] = {}
        self._sweep_at = SWEEP
        self._unsaid: dict[str, dict[int, None]] = {}
        self._in_vain: dict[str, dict[int, None]] = {}
        """What is still to be said of lost shards; and what was said, but waits for its opener."""
        self.waiting: dict[str, float] = {}
        """The shards with guests whose opener has not come back, and when to look for it again."""
        self.seen = 0  # the highest generation that this store knows of

    def __bool__(self) -> bool:
        return bool(self._shards)

    def __len__(self) -> int:
        return sum(map(len, self._shards.values()))

    @property
    def tags(self) -> Iterable[str]:
        return self._shards.keys()

    def claims(self, tag: str) -> dict[int, Claim]:
        """What is held of a shard."""
        return self._shards.get(tag, {})

    def waits(self, room: int) -> bool:
        """Whether a room is to come back by its opener."""
        return bool(self.waiting) and any(
            claim.waits_since is not None for claims in list(self._shards.values()) if (claim := claims.get(room))
        )

    # What to say

    def lose(self, tag: str, now: float) -> None:
        """A shard may have lost what is held of it: all of that is to be said."""
        claims = self.claims(tag)
        for room in self._in_vain.pop(tag, ()):
            if (claim := claims.get(room)) and claim.waits_since is not None:
                claim.waits_since = now
        self._unsaid[tag] = dict.fromkeys(claims)

    def restating(self, tag: str, layout: Layout, now: float) -> Iterator[Call]:
        """The calls that say what is still to be said of a shard, and again what was said in vain.

        Who is stopped in the midst of it goes on, the next time, with what was not answered.
        """
        claims, unsaid, said = self.claims(tag), self._unsaid.get(tag, {}), {}
        for room in {**unsaid, **self._in_vain.get(tag, {})}:
            claim = claims.get(room)
            waits = claim is not None and claim.waits_since is not None
            if claim and (claim.until <= now or now - (claim.waits_since or now) > PATIENCE):
                del claims[room]
                waits = False
            elif claim and claim.status is not None and not claim.is_ending and (waits or room in unsaid):
                said[room] = claim
                continue
            self._heard_of(tag, room, waits)
        self._look_again(tag, now)
        rooms = list(said)
        for at in range(0, len(rooms), MAX_BATCH):
            some = rooms[at : at + MAX_BATCH]
            items = [word for room in some for word in _words(said[room])]
            yield RESTATE.call(layout, tag, some, items, ())

    def _heard_of(self, tag: str, room: int, is_waiting: bool) -> None:
        """A room has been said; it is to be said again if it waits for its opener."""
        self._unsaid.get(tag, {}).pop(room, None)
        if is_waiting:
            self._in_vain.setdefault(tag, {})[room] = None
        else:
            self._in_vain.get(tag, {}).pop(room, None)

    def _look_again(self, tag: str, now: float) -> None:
        if in_vain := self._in_vain.get(tag):
            self.waiting[tag] = now + max(RETRY, len(in_vain) / PACE)
        else:
            self.waiting.pop(tag, None)

    def end(self, call: Call) -> None:
        """These rooms are being cleared: whatever becomes of that, they are not to be brought back any more."""
        claims = self._shards.get(call.tag)
        if claims:
            for room, fence in zip(call.rooms, call.items, strict=True):
                claim = claims.get(room)
                if claim and fence in ("", str(claim.generation)):  # through an old handle it ends no later generation
                    claim.is_ending = True

    def forget(self) -> None:
        """Whoever was taken for dead brings nothing back: the rooms were failed."""
        self._shards, self.waiting, self._unsaid, self._in_vain = {}, {}, {}, {}

    # What is heard

    def hear(self, call: Call, reply: Sequence[Any], now: float) -> None:
        """The reply to a call of this store; it must be of the server that is known, with its data."""
        listener = _LISTENERS.get(call.shape.script.name)
        if listener is not None:
            listener(self, call, reply, now)

    def _opened(self, call: Call, reply: Sequence[Any], now: float) -> None:
        for room, at in zip(call.rooms, range(0, len(reply), 6), strict=True):
            code, status, generation, request = reply[at], reply[at + 1], reply[at + 2], reply[at + 5]
            if code > 0 and generation:
                self._claim(call.tag, room, Claim(int(generation), request.decode(), "opener", known(status), now), now)

    def _attached(self, call: Call, reply: Sequence[Any], now: float) -> None:
        claims = self.claims(call.tag)
        for room, at in zip(call.rooms, range(0, len(reply), 4), strict=True):
            status, generation, request = reply[at], int(reply[at + 1] or 0), reply[at + 2]
            claim = claims.get(room)
            if claim and claim.generation > generation and claim.waits_since is None:
                del claims[room]  # it was cleared, or has expired
            elif generation and (claim is None or claim.generation < generation) and known(status) is not None:
                request = request.decode() if request else ""
                self._claim(call.tag, room, Claim(generation, request, "guest", known(status), now), now)
            elif claim and claim.generation == generation:
                self._take(claim, known(status), now)

    def _written(self, call: Call, reply: Sequence[Any], now: float) -> None:
        """Also of plain writes to rooms that are held: they are not fenced, but say how the rooms are."""
        claims = self.claims(call.tag)
        width = len(call.shape.item)
        for number, room in enumerate(call.rooms):
            code, status = reply[number * 2], reply[number * 2 + 1]
            words = call.items[number * width : (number + 1) * width]
            generation = int(words[1] or 0) if call.shape is WRITE else 0
            claim = claims.get(room)
            if claim is None:
                if generation and code in _DONE and known(status) is not None:
                    self._claim(call.tag, room, Claim(generation, "", "guest", known(status), now), now)
            elif generation and generation != claim.generation:
                continue
            elif code == Refusal.LEASE.value or (generation and code == Outcome.STALE.value):
                if claim.waits_since is None:
                    del claims[room]
            elif code in _DONE:
                self._take(claim, known(status), now)
                if code == Outcome.FAILED.value and call.shape is not UPDATE:
                    claim.reason = claim.reason or words[-1]

    def _restated(self, call: Call, reply: Sequence[Any], now: float) -> None:
        claims = self.claims(call.tag)
        for room, code, status in zip(call.rooms, reply[::2], reply[1::2], strict=True):
            claim = claims.get(room)
            is_waiting = False
            if claim is None:
                pass
            elif code == Outcome.SKIPPED.value:
                is_waiting = True
                claim.waits_since = now if claim.waits_since is None else claim.waits_since
            elif code in _DONE:
                claim.waits_since = None
                self._take(claim, known(status), now)
            else:
                del claims[room]
            self._heard_of(call.tag, room, is_waiting)
        self._look_again(call.tag, now)

    def _cleared(self, call: Call, reply: Sequence[Any], now: float) -> None:
        claims = self.claims(call.tag)
        for room, code, fence in zip(call.rooms, reply[::3], call.items, strict=True):
            claim = claims.get(room)
            if claim is None or (fence and int(fence) != claim.generation):
                continue
            if self._has_rank and code == Outcome.CLEARED.value and claim.status is not None:
                # The others still agree with what this rank had; if they have all cleared, too, it will not be heard.
                claim.role, claim.is_ending, claim.until = "cleared", False, now + self._ttl
            elif claim.waits_since is None:
                del claims[room]

    def _touched(self, call: Call, reply: Sequence[Any], now: float) -> None:
        claims = self.claims(call.tag)
        for room, kept in zip(call.rooms, reply, strict=True):
            if kept == 1 and (claim := claims.get(room)):
                claim.until = now + self._ttl

    def _bound(self, call: Call, reply: Sequence[Any], now: float) -> None:
        claims = self.claims(call.tag)
        for number, room in enumerate(call.rooms):
            length, generation = call.items[number * 2 : number * 2 + 2]
            claim = claims.get(room)
            if claim and generation and int(generation) == claim.generation and reply[number] == 1:
                claim.length = length

    def _claim(self, tag: str, room: int, claim: Claim, now: float) -> None:
        """Hold a room. What is already known of this generation stays known."""
        self.seen = max(self.seen, claim.generation)
        claims = self._shards.setdefault(tag, {})
        old = claims.get(room)
        if old and old.generation == claim.generation and not old.is_ending:
            old.role = "opener" if claim.role == "opener" else old.role
            self._take(old, claim.status, now)
            return
        claims[room] = claim
        self._take(claim, claim.status, now)
        if len(claims) > self._sweep_at:
            for expired in [one for one, there in list(claims.items()) if there.until <= now]:
                del claims[expired]
            self._sweep_at = len(claims) * 2 + SWEEP

    def _take(self, claim: Claim, status: KVPoll | None, now: float) -> None:
        if status is None:
            return
        if claim.waits_since is None or claim.status is None:
            claim.status = status
        elif KVPoll.Failed in (claim.status, status):
            claim.status = KVPoll.Failed
        else:  # what this store knows has yet to be said, and is not to be forgotten for what is there now
            claim.status = max(claim.status, status)
        claim.until = now + (self._terminal_ttl if claim.status.is_terminal else self._ttl)


_DONE = frozenset(outcome.value for outcome in Outcome) - {Outcome.SKIPPED.value, Outcome.STALE.value}
_LISTENERS: dict[str, Callable[[Held, Call, Sequence[Any], float], None]] = {
    OPEN.script.name: Held._opened,
    ATTACH.script.name: Held._attached,
    UPDATE.script.name: Held._written,
    WRITE.script.name: Held._written,
    ABORT.script.name: Held._written,
    REAP.script.name: Held._written,
    RESTATE.script.name: Held._restated,
    CLEAR.script.name: Held._cleared,
    TOUCH.script.name: Held._touched,
    SET_PREFIX.script.name: Held._bound,
}
CLEARING = (CLEAR, CLEAR_FENCED)


def _words(claim: Claim) -> tuple[str, ...]:
    """What RESTATE says of a room."""
    status = claim.status.name if claim.status is not None else ""
    reason = claim.reason if claim.status is KVPoll.Failed else ""
    return str(claim.generation), claim.request, status, reason, claim.length, claim.role
