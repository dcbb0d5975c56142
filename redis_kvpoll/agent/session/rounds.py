"""The rounds of a table: its clients publish at the same moments, and what ranks say of open rooms is one call.

Invariant: whoever joins or says something is in the next round. Each answer is told once, in its round's order.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from redis_kvpoll.aio.rank_group import AsyncRankGroup
from redis_kvpoll.errors import KVPollError
from redis_kvpoll.protocol.rank_commands import RankChange

ROUND_SECONDS = 0.004
"""Between two rounds: what comes meanwhile is sent together."""

OnAnswer = Callable[[Exception | None], object]

logger = logging.getLogger("redis_kvpoll")


class Rounds:
    """The rounds of a table. ``group`` writes what its ranks say; without it, nobody says anything."""

    def __init__(self, group: AsyncRankGroup | None) -> None:
        self._group = group
        self._publishers: dict[Callable[[], object], None] = {}
        self._said: list[tuple[Sequence[RankChange], OnAnswer]] = []
        self._next: asyncio.TimerHandle | None = None
        self._begins_at = 0.0
        self._writing: set[asyncio.Task[None]] = set()

    def join(self, publish: Callable[[], object]) -> None:
        """Have a function called when the next round begins."""
        self._publishers[publish] = None
        self._schedule()

    def say(self, changes: Sequence[RankChange], on_answer: OnAnswer) -> None:
        """Write what a rank says of a room, a clear last. ``on_answer`` is called with the error, if there is one."""
        self._said.append((changes, on_answer))
        self._schedule()

    def _schedule(self) -> None:
        if self._next is None:
            loop = asyncio.get_running_loop()
            self._next = loop.call_at(max(self._begins_at, loop.time()), self._begin)

    def _begin(self) -> None:
        self._begins_at = asyncio.get_running_loop().time() + ROUND_SECONDS
        publishers, self._publishers = self._publishers, {}
        for publish in publishers:
            _call(publish)
        said, self._said, self._next = self._said, [], None
        if self._publishers:  # they joined while these published, when no round could be scheduled
            self._schedule()
        if said:
            self._writing.add(task := asyncio.create_task(self._write(said)))
            task.add_done_callback(self._writing.discard)

    async def _write(self, said: list[tuple[Sequence[RankChange], OnAnswer]]) -> None:
        assert self._group is not None  # noqa: S101 - its members alone say something
        order = [(at, number) for number, (changes, _) in enumerate(said) for at in range(len(changes))]
        order.sort()  # the clears of all ranks after what they said before
        errors: dict[int, Exception] = {}
        try:
            answers = await self._group.write_together([said[number][0][at] for at, number in order])
        except Exception as error:  # each caller sees to it, and a bug is logged there
            errors = dict.fromkeys(range(len(said)), error)
        else:
            for (_, number), answer in zip(order, answers, strict=True):
                if isinstance(answer, KVPollError):
                    errors.setdefault(number, answer)
        for number, (_, on_answer) in enumerate(said):
            _call(on_answer, errors.get(number))


def _call(function: Callable[..., object], *arguments: object) -> None:
    """Call one client's function, which must not keep the others from their round."""
    try:
        function(*arguments)
    except Exception:
        logger.exception("redis_kvpoll: a client's changes were not published because of a bug; report this traceback")
