"""What the holder of a lease knows of it, and does: take it, keep it and its rooms alive, give it up. No I/O."""

from __future__ import annotations

import contextlib
import logging
import time
from typing import Any

from redis_kvpoll.engine.effects import Board, Flow, Rider
from redis_kvpoll.engine.executor import Delivery
from redis_kvpoll.engine.reaper import reap_lost, rooms_of
from redis_kvpoll.errors import KVPollError, LeaseLostError
from redis_kvpoll.protocol import keys, lease_commands, room_commands
from redis_kvpoll.protocol.lease_commands import Action, Findings, Terms
from redis_kvpoll.protocol.script_call import MAX_BATCH, Call, Layout

OPERATION = "lease"
TRIES = 3
"""To take a lease, while others take its name at the same time."""

logger = logging.getLogger("redis_kvpoll.leases")


class Holding:
    """One lease of one store, in all shards under one incarnation."""

    def __init__(self, delivery: Delivery, terms: Terms) -> None:
        self.terms = terms
        self.incarnation = ""
        """Empty before it was taken."""
        self.lost = False
        self._delivery = delivery
        self._layout: Layout | None = None
        self._epochs: dict[str, str] = {}
        self._next_beat = 0.0
        self._next_touch = 0.0
        self._to_touch: list[list[int]] = []
        self._complained = False

    @property
    def name(self) -> str:
        return self.terms.name

    def take(self) -> Flow[None]:
        """Take the lease, and fail what a former incarnation has left. From now on the store works under it."""
        layout = self._layout = yield from self._delivery.agreed(OPERATION)
        self._delivery.check_free()
        self.lost, self._epochs, seen = False, {}, ""
        for _ in range(TRIES):
            found = yield from self._take(layout, seen)
            seen = max(one.incarnation for one in found.values())
            if seen == self.incarnation:
                break
        else:
            yield from self._drop()
            raise LeaseLostError(OPERATION, self.name)
        now = time.monotonic()
        self._next_beat, self._next_touch = now + self._interval, now + self._touch_after
        self._delivery.hold(self, self.name, self.incarnation)
        with contextlib.suppress(KVPollError):  # what fails here, the heartbeat does
            for tag, findings in found.items():
                yield from reap_lost(self._delivery, layout, tag, findings.lost, self._next_beat)

    def _take(self, layout: Layout, seen: str) -> Flow[dict[str, Findings]]:
        """An incarnation from the first shard, brought to the others; what each of them says."""
        first, *others = self._tags
        replies = yield from self._delivery.send(OPERATION, [self.terms.call(layout, first, "take", seen)])
        self.incarnation = lease_commands.findings(replies[0]).incarnation
        calls = [self.terms.call(layout, tag, "bring", self.incarnation) for tag in others]
        if calls:
            replies += yield from self._delivery.send(OPERATION, calls)
        found = dict(zip(self._tags, map(lease_commands.findings, replies), strict=True))
        self._epochs = {tag: findings.epoch for tag, findings in found.items()}
        return found

    # Renewing: by the heartbeat, and by the store before it says again what a shard has lost

    def renewal(self, tag: str) -> Call:
        """What keeps the lease alive in a shard, or takes it again there when all data was lost."""
        action: Action = "look" if self.lost else "renew"  # or it would live again where the data was lost
        return self.terms.call(self._agreed, tag, action, self.incarnation, self._epochs.get(tag, ""))

    def heard(self, tag: str, reply: list[Any]) -> None:
        """The reply to that."""
        findings = lease_commands.findings(reply)
        if findings.verdict == "held":
            self._epochs[tag] = findings.epoch
        else:
            self.lose()

    def lose(self) -> None:
        """Somebody took this process for dead. The rooms are failed, or will be."""
        if not self.lost:
            self.lost = True
            self._delivery.held.forget()
            logger.error("%s", LeaseLostError(f"namespace {self._delivery.namespace!r}", self.name))

    def check(self, operation: str) -> None:
        """Raise LeaseLostError if it is known to be lost."""
        if self.lost:
            raise LeaseLostError(operation, self.name)

    # The heartbeat

    def pause(self) -> float:
        """Seconds until the next heartbeat is due."""
        return max(0.0, self._next_beat - time.monotonic())

    def beat(self) -> Flow[None]:
        """Renew the lease everywhere, look at the others', and keep the own rooms alive, as far as there is time."""
        now = time.monotonic()
        until = self._next_beat = now + self._interval
        riders = yield from self._renew(now)
        if self.lost:
            return (yield from self._drop())
        for rider in riders:
            if rider.reply is not None:
                tag, lost = rider.call.tag, lease_commands.findings(rider.reply).lost
                yield from reap_lost(self._delivery, self._agreed, tag, lost, until)
        self._delivery.arrived(OPERATION, riders)
        yield from self._touch(now, until)
        if self._complained:
            self._complained = False
            logger.info("%s is renewed again", self)

    def failed(self, error: KVPollError) -> None:
        """A heartbeat could not be sent, or was refused. The next tries again."""
        if not self._complained:
            self._complained = True
            logger.warning("%s was not renewed: %s", self, error)

    def _renew(self, now: float) -> Flow[list[Rider]]:
        """Renew the lease in all shards, as far as they are there."""
        seconds = self._delivery.deadline
        if len(self._tags) > 1 and (self._complained or seconds > self.terms.ttl):
            seconds = min(seconds, self.terms.ttl / 3)  # a shard that is away must not keep the others waiting
        riders = [Rider(self.renewal(tag), now + seconds) for tag in self._tags]
        yield Board(riders)
        known = dict(self._epochs)
        for rider in riders:
            if rider.reply is not None:
                self.heard(rider.call.tag, rider.reply)
        if again := [tag for tag in self._tags if self._epochs[tag] != known[tag]]:
            # Data was lost, and the connection was not: what the store holds there is said again before the next call.
            self._delivery.suspect(again)
            yield Board([Rider(self.renewal(tag), now + seconds) for tag in again])
        return riders

    def _touch(self, now: float, until: float) -> Flow[None]:
        """Keep the own rooms alive, as many as there is time for; with the next heartbeat, the others."""
        if now >= self._next_touch:
            self._to_touch = []
            for tag in self._tags:
                rooms = yield from rooms_of(self._delivery, self._agreed, tag, self.incarnation)
                self._to_touch += [rooms[at : at + MAX_BATCH] for at in range(0, len(rooms), MAX_BATCH)]
            self._next_touch = now + self._touch_after
        while self._to_touch:
            yield from self._delivery.run(room_commands.touch(self._to_touch.pop()), [])
            if time.monotonic() >= until:
                return

    # The end

    def give_up(self) -> Flow[None]:
        """Leave; the live rooms fail. What cannot be said now, the others find out when the lease lapses."""
        self._delivery.release(self)
        if self._layout is None or self.lost:
            return
        try:
            calls = [self.terms.call(self._agreed, tag, "leave", self.incarnation) for tag in self._tags]
            replies = yield from self._delivery.send(OPERATION, calls)
            for tag, reply in zip(self._tags, replies, strict=True):
                yield from reap_lost(self._delivery, self._agreed, tag, lease_commands.findings(reply).lost)
        except KVPollError as error:
            logger.warning("%s was not given up, and will lapse: %s", self, error)

    def _drop(self) -> Flow[None]:
        """Lost in one shard, it must not live on in others: it is never half alive."""
        self._to_touch = []
        if len(self._tags) > 1:
            with contextlib.suppress(KVPollError):
                calls = [self.terms.call(self._agreed, tag, "drop", self.incarnation) for tag in self._tags]
                yield from self._delivery.send(OPERATION, calls)

    @property
    def _agreed(self) -> Layout:
        assert self._layout is not None  # noqa: S101 - it was taken
        return self._layout

    @property
    def _tags(self) -> list[str]:
        return keys.tags(self._agreed.namespace, self._agreed.shards)

    @property
    def _interval(self) -> float:
        """Seconds between heartbeats."""
        return min(self.terms.heartbeat, self._touch_after)

    @property
    def _touch_after(self) -> float:
        """Seconds. A live room is touched twice before its TTL is over."""
        return int(self._agreed.ttl_ms) / 1000 / 3

    def __str__(self) -> str:
        return f"the lease of owner {self.name!r} of namespace {self._delivery.namespace!r}"
