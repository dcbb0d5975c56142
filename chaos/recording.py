"""How a worker makes its calls: on which rooms, and recorded in which form."""

from __future__ import annotations

import inspect
import random
import time
import traceback
from collections.abc import Callable
from typing import Any

from chaos.history import HistoryWriter
from redis_kvpoll import KVPoll, KVPollError, Update

ROOMS = 24
"""Rooms in use at a time."""
LIFETIME = 2.0
"""Seconds after which all workers go on to other rooms. A room that may or may not have been cleared proves little from
then on."""

LEASE = 1.5
"""The TTL of the workers' leases in seconds."""


def owner(worker: int) -> str:
    """The name under which a worker owns rooms."""
    return f"worker-{worker}"


def rooms_at(seconds: float) -> list[int]:
    """The rooms in use this long after the start of a run."""
    first = int(seconds / LIFETIME) * ROOMS
    return list(range(first, first + ROOMS))


def plain(answer: Any) -> Any:
    """An answer as JSON can hold it."""
    return [answer.outcome.name, answer.status] if isinstance(answer, Update) else answer


class Recorder:
    """Makes calls and records them. With a blocking store nothing is awaited."""

    def __init__(self, writer: HistoryWriter, seed: str, start: float) -> None:
        self.lost_lease = False
        """Whether a call raised LeaseLostError."""
        self._writer = writer
        self._chance = random.Random(seed)  # noqa: S311 - chance, not secrets
        self._start = start

    def _rooms(self) -> list[int]:
        return rooms_at(time.monotonic() - self._start)

    def _room(self) -> int:
        return self._chance.choice(self._rooms())

    def _some(self, count: int) -> list[int]:
        return self._chance.sample(self._rooms(), count)

    def _status(self) -> KVPoll:
        return self._chance.choices(list(KVPoll), weights=(1, 6, 5, 5, 3))[0]

    async def _record(
        self,
        name: str,
        arguments: dict[int, Any],
        call: Callable[[], Any],
        answers: Callable[[list[int], Any], dict[int, Any]],
        generation: str = "",
        request: str = "",
        learned: Callable[[Any], str] = lambda answer: "",
    ) -> Any:
        """Make a call; returns its answer, or None after an error.

        Args:
            answers: the answer for each room, from the rooms and the call's result.
            learned: the generation that the result shows.
        """
        number = self._writer.begin(name, arguments, generation, request)
        try:
            answer = call()
            if inspect.isawaitable(answer):
                answer = await answer
        except KVPollError as error:
            self.lost_lease = self.lost_lease or type(error).__name__ == "LeaseLostError"
            self._writer.end(number, {}, f"{type(error).__name__}: {error}")
        except Exception as error:
            self._writer.end(number, {}, f"{type(error).__name__}: {traceback.format_exc()}")
        else:
            by_room = {room: plain(one) for room, one in answers(list(arguments), answer).items()}
            self._writer.end(number, by_room, generation=learned(answer))
            return answer
        return None
