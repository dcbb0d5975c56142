"""Batches of one thread to several shards at once: all are sent before the first reply is read, up to MAX_IDLE to each
server. A store keeps no more connections to one: each further one would be opened for this call, and closed after it.

Invariant: a shard that is down delays no other, but for those of its server beyond that number. Replies are read as
they arrive, not in the order of the shards: an unread reply blocks its shard's queue for other callers.

Its limit: a shard that pauses between two tries may wait until connecting to one that hangs has failed. If pauses went
first, a shard that is refused again and again would keep the other from its only try.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from redis_kvpoll.engine.classify import NotSent
from redis_kvpoll.engine.effects import Flow, Send, Sleep
from redis_kvpoll.sync.transport import InFlight, Transport
from redis_kvpoll.transport.connection_options import MAX_IDLE

REPLY_GRACE = 0.01
"""Seconds to wait for replies in flight before trying a server whose last try failed: connecting may take long."""


class ShardFanOut:
    """Runs flows concurrently. ``completed`` is called with the number of each flow when it returns."""

    def __init__(
        self, transport: Transport, flows: Sequence[Flow[None]], deadline: float, completed: Callable[[int], None]
    ) -> None:
        self._transport = transport
        self._deadline = deadline
        self._flows = flows
        self._completed = completed
        self._unsent: dict[int, tuple[Send, float]] = {}
        """By flow: the effect, and since when it waits to be sent."""
        self._in_flight: dict[int, tuple[InFlight, float]] = {}
        """By flow: the call, and when its timeout ends."""
        self._sleeping: dict[int, float] = {}

    def run(self) -> None:
        try:
            for number in range(len(self._flows)):
                self._resume(number, None)
            while self._unsent or self._in_flight or self._sleeping:
                self._send()
                self._receive()
                now = time.monotonic()
                for number in [number for number, until in self._sleeping.items() if until <= now]:
                    del self._sleeping[number]
                    self._resume(number, None)
        finally:
            for call, _ in self._in_flight.values():
                self._transport.abandon(*call)

    def _resume(self, number: int, result: Any) -> None:
        """Resume a flow with the result of its effect, and schedule its next effect."""
        flow = self._flows[number]
        try:
            while True:
                effect = flow.throw(result) if isinstance(result, BaseException) else flow.send(result)
                if isinstance(effect, Send):
                    self._unsent[number] = effect, time.monotonic()
                    return
                if isinstance(effect, Sleep):
                    self._sleeping[number] = time.monotonic() + effect.seconds
                    return
                result = self._transport.perform(effect)  # it does not wait
        except StopIteration:
            self._completed(number)

    def _send(self) -> None:
        """Send what can be sent at once; of what may take long, the least risky effect, when nothing else is due."""
        slow = []
        for number, (effect, _) in list(self._unsent.items()):
            if self._is_server_full(effect):
                continue
            if risk := self._transport.risk(effect):
                slow.append((risk, number))
            else:
                self._begin(number)
        if slow and not (self._in_flight and self._transport.readable(self._calls, REPLY_GRACE)):
            _, number = min(slow)
            self._begin(number)

    def _is_server_full(self, effect: Send) -> bool:
        """Whether so many calls to its server are in flight that it waits for the reply to one of them."""
        if len(self._in_flight) < MAX_IDLE:
            return False
        pool = self._transport.pool_for(effect)
        return sum(call[0] is pool for call in self._calls) >= MAX_IDLE

    def _begin(self, number: int) -> None:
        effect, since = self._unsent.pop(number)
        waited = time.monotonic() - since
        if waited > REPLY_GRACE * 2:  # it counts towards the timeout
            effect.timeout = max(0.001, (effect.timeout or self._deadline) - waited)
        try:
            call = self._transport.begin(effect)
        except (NotSent, RedisError, OSError) as error:
            self._resume(number, error)
        else:
            limit = call[1].socket_timeout if effect.timeout is None else min(effect.timeout, call[1].socket_timeout)
            self._in_flight[number] = call, time.monotonic() + limit

    @property
    def _calls(self) -> list[InFlight]:
        return [call for call, _ in self._in_flight.values()]

    def _receive(self) -> None:
        """Read the replies that have come; wait for one if nothing else is due."""
        now = time.monotonic()
        times = [*self._sleeping.values(), *(until for _, until in self._in_flight.values())]
        if not times:
            return
        is_more_to_send = not all(self._is_server_full(effect) for effect, _ in self._unsent.values())
        seconds = 0.0 if is_more_to_send else max(0.0, min(times) - now)
        if not self._in_flight:
            time.sleep(seconds)
            return
        readable = self._transport.readable(self._calls, seconds)
        now = time.monotonic()
        for number, (call, until) in list(self._in_flight.items()):
            if call[1] in readable:
                del self._in_flight[number]
                self._finish(number, call)
            elif until <= now:
                del self._in_flight[number]
                self._transport.time_out(*call)
                self._resume(number, RedisTimeoutError("Timeout reading from socket"))

    def _finish(self, number: int, call: InFlight) -> None:
        try:
            result = self._transport.finish(*call)
        except (NotSent, RedisError, OSError) as error:
            result = error
        self._resume(number, result)
