"""How a worker makes its calls: which rooms they are on, and how they are noted."""

from __future__ import annotations

import inspect
import random
import time
import traceback
from collections.abc import Callable
from typing import Any

from chaos.history import Writer
from redis_kvpoll import KVPoll, KVPollError, Update

ROOMS = 24
"""That are in use at a time."""
LIFETIME = 2.0
"""Seconds after which everybody goes on to other rooms: one of which it is not known whether it was cleared says little
from then on."""

LEASE = 1.5
"""Seconds after which an owner that is not heard of is taken for dead."""


def owner(worker: int) -> str:
    """The name under which a worker owns rooms."""
    return f"worker-{worker}"


def rooms_at(seconds: float) -> list[int]:
    """The rooms that are in use so long after the beginning of a run."""
    first = int(seconds / LIFETIME) * ROOMS
    return list(range(first, first + ROOMS))


def plain(answer: Any) -> Any:
    """An answer in JSON's terms."""
    return [answer.outcome.name, answer.status] if isinstance(answer, Update) else answer


class Notes:
    """Notes calls. In blocking stores nothing is really awaited."""

    def __init__(self, writer: Writer, seed: str, start: float) -> None:
        self.lost = False
        """Whether a call was told that its owner was taken for dead."""
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

    async def _note(
        self,
        name: str,
        arguments: dict[int, Any],
        call: Callable[[], Any],
        answers: Callable[[list[int], Any], dict[int, Any]],
        generation: str = "",
        request: str = "",
        learned: Callable[[Any], str] = lambda answer: "",
    ) -> Any:
        """Make a call. Its answer, or None if it has none; ``learned`` is the generation that it says."""
        number = self._writer.begin(name, arguments, generation, request)
        try:
            answer = call()
            if inspect.isawaitable(answer):
                answer = await answer
        except KVPollError as error:
            self.lost = self.lost or type(error).__name__ == "LeaseLostError"
            self._writer.end(number, {}, f"{type(error).__name__}: {error}")
        except Exception as error:
            self._writer.end(number, {}, f"{type(error).__name__}: {traceback.format_exc()}")
        else:
            told = {room: plain(one) for room, one in answers(list(arguments), answer).items()}
            self._writer.end(number, told, generation=learned(answer))
            return answer
        return None
