"""Flights of one thread to several shards at once: all is sent before the first reply is waited for."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from redis_kvpoll.engine.classify import NotSent
from redis_kvpoll.engine.effects import Flow, Send, Sleep
from redis_kvpoll.sync.transport import Pending, Transport

PATIENCE = 0.01
"""Seconds that the replies on their way have, before a server that failed before is tried: connecting may take long."""


class ShardFanOut:
    """Drives flows beside one another. Each reply is taken as it comes, so none waits for a shard that is down.

    ``ended`` is called with the number of each flow when that is over.
    """

    def __init__(
        self, transport: Transport, flows: Sequence[Flow[None]], deadline: float, ended: Callable[[int], None]
    ) -> None:
        self._transport = transport
        self._deadline = deadline
        self._flows = flows
        self._ended = ended
        self._unsent: dict[int, tuple[Send, float]] = {}
        """What is to be sent, and since when."""
        self._pending: dict[int, tuple[Pending, float]] = {}
        """What was sent, and when its time is up."""
        self._pauses: dict[int, float] = {}

    def run(self) -> None:
        try:
            for number in range(len(self._flows)):
                self._answer(number, None)
            while self._unsent or self._pending or self._pauses:
                self._send()
                self._receive()
                now = time.monotonic()
                for number in [number for number, until in self._pauses.items() if until <= now]:
                    del self._pauses[number]
                    self._answer(number, None)
        finally:
            for pending, _ in self._pending.values():
                self._transport.give_up(*pending)

    def _answer(self, number: int, answer: Any) -> None:
        """Give a flow what it asked for, and take note of what it asks for next."""
        flow = self._flows[number]
        try:
            while True:
                effect = flow.throw(answer) if isinstance(answer, BaseException) else flow.send(answer)
                if isinstance(effect, Send):
                    self._unsent[number] = effect, time.monotonic()
                    return
                if isinstance(effect, Sleep):
                    self._pauses[number] = time.monotonic() + effect.seconds
                    return
                answer = self._transport.take(effect)  # at once
        except StopIteration:
            self._ended(number)

    def _send(self) -> None:
        """Send what can be sent; to a server that has failed before, one at a time, when nothing else is left."""
        doubtful = []
        for number, (effect, since) in list(self._unsent.items()):
            if self._transport.doubts(effect):
                doubtful.append((number, effect, since))
            else:
                self._begin(number, effect)
        if doubtful and not (self._pending and self._transport.ready(self._sent, PATIENCE)):
            number, effect, since = doubtful[0]
            waited = time.monotonic() - since
            if waited > PATIENCE * 2:  # it counts
                effect.timeout = max(0.001, (effect.timeout or self._deadline) - waited)
            self._begin(number, effect)

    def _begin(self, number: int, effect: Send) -> None:
        del self._unsent[number]
        try:
            pending = self._transport.begin(effect)
        except (NotSent, RedisError, OSError) as error:
            self._answer(number, error)
        else:
            self._pending[number] = pending, time.monotonic() + pending[1].socket_timeout

    @property
    def _sent(self) -> list[Pending]:
        return [pending for pending, _ in self._pending.values()]

    def _receive(self) -> None:
        """Take the replies that have come; wait for one if there is nothing else to do."""
        now = time.monotonic()
        times = [*self._pauses.values(), *(until for _, until in self._pending.values())]
        if not times:
            return
        seconds = 0.0 if self._unsent else max(0.0, min(times) - now)
        if not self._pending:
            time.sleep(seconds)
            return
        ready = self._transport.ready(self._sent, seconds)
        now = time.monotonic()
        for number, (pending, until) in list(self._pending.items()):
            if pending[1] in ready:
                del self._pending[number]
                self._finish(number, pending)
            elif until <= now:
                del self._pending[number]
                self._transport.give_up(*pending)
                self._answer(number, RedisTimeoutError("Timeout reading from socket"))

    def _finish(self, number: int, pending: Pending) -> None:
        try:
            answer = self._transport.finish(*pending)
        except (NotSent, RedisError, OSError) as error:
            answer = error
        self._answer(number, answer)
