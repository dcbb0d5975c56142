"""A breadth-first search over all worlds that a start leads to. The shortest path to a violation is found first."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator
from typing import NamedTuple, TypeVar

from tests.model.steps import BrokenError

World = TypeVar("World", bound=Hashable)


class Report(NamedTuple):
    """The result of a search."""

    worlds: int
    steps: int
    seconds: float
    """Of CPU time."""
    path: tuple[str, ...] = ()
    violation: str | None = None

    def __str__(self) -> str:
        text = f"{self.worlds:,} worlds, {self.steps:,} steps, {self.seconds:.1f} s"
        if self.violation:
            text += "".join(f"\n  {number}. {line}" for number, line in enumerate(self.path, 1))
            text += f"\n  => {self.violation}"
        return text


def search(
    start: World,
    steps: Callable[[World], Iterator[tuple[World, str]]],
    check: Callable[[World], None],
    most: int | None = None,
) -> Report:
    """All worlds, or the first so many. ``steps`` and ``check`` raise BrokenError."""
    began, count, at = time.process_time(), 0, 0
    parents: dict[World, tuple[World, str] | None] = {start: None}
    queue, violation, path = [start], None, []
    while at < min(len(queue), most or len(queue)) and violation is None:
        world = queue[at]
        at += 1
        text = ""
        try:
            for after, text in steps(world):
                count += 1
                if after not in parents:
                    parents[after] = world, text
                    queue.append(after)
                    check(after)
        except BrokenError as error:
            violation, path = str(error), _path(parents, world)
    return Report(len(queue), count, time.process_time() - began, tuple(path), violation)


def _path(parents: dict[World, tuple[World, str] | None], world: World) -> list[str]:
    path: list[str] = []
    while (parent := parents[world]) is not None:
        world, text = parent
        path.insert(0, text)
    return path
