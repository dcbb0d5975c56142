"""Canonical states: values are kept once, under small numbers, and generations are renamed by their order.

Generations, incarnations and epochs are made of the server's time and are only compared. So their numbers do not
matter, only their order: among all that a state names, on the server and in processes, the lowest is
called 1, the next 2, and so on. The clock is far above the highest, unless a test sets it below the lowest.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

BASE = 1_700_000_000_000_000
STEP = 1_000_000
"""The distance of two renamed generations, so that one made by adding 1 to another keeps its place in the order."""
MOST = 60
"""Generations in one state."""
NOW_US = 1_800_000_000_000_000
BEHIND_US = 1_600_000_000_000_000
"""The clock of a server that is behind all generations that were ever given."""

_GENERATION = re.compile(rb"(?<!\d)1[678]\d{14}(?!\d)")


def short(text: str) -> str:
    """With g0, g1 ... in the place of the generations, and new for one that the clock has just given, for people."""

    def name(match: re.Match[bytes]) -> bytes:
        order, rest = divmod(int(match[0]) - BASE, STEP)
        return b"g%d" % order + b"+" * (rest > 0) if 0 <= order < MOST else b"new"

    return _GENERATION.sub(name, text.encode()).decode()


def _walk(value: Any, found: set[int]) -> None:
    if isinstance(value, bytes):
        found.update(int(match) for match in _GENERATION.findall(value))
    elif isinstance(value, float):
        found.add(int(value))
    elif isinstance(value, tuple):
        for item in value:
            _walk(item, found)


def _renamed(value: Any, names: dict[int, int]) -> Any:
    if isinstance(value, bytes):
        return _GENERATION.sub(lambda match: b"%d" % names[int(match[0])], value)
    if isinstance(value, float):
        return float(names[int(value)])
    if isinstance(value, tuple):
        items = [_renamed(item, names) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    return value


class Values:
    """Immutable values of one kind, each under a number, with the generations that each names."""

    def __init__(self) -> None:
        self._numbers: dict[Any, int] = {}
        self.values: list[Any] = []
        self.masks: list[int] = []
        """A bit for each generation in its renamed form; -1 when it names one that is not."""
        self._renamed: dict[tuple[int, tuple[int, ...]], int] = {}
        self._generations: list[tuple[int, ...]] = []

    def __getitem__(self, number: int) -> Any:
        return self.values[number]

    def number(self, value: Any) -> int:
        there = self._numbers.get(value)
        if there is None:
            there = self._numbers[value] = len(self.values)
            self.values.append(value)
            found: set[int] = set()
            _walk(value, found)
            self._generations.append(tuple(found))
            orders = [divmod(generation - BASE, STEP) for generation in found]
            is_renamed = all(rest == 0 and 0 <= order < MOST for order, rest in orders)
            self.masks.append(sum(1 << order for order, _ in orders) if is_renamed else -1)
        return there

    def generations(self, number: int) -> tuple[int, ...]:
        return self._generations[number]

    def renamed(self, number: int, in_order: tuple[int, ...]) -> int:
        """The same value with the generations of the whole state, which are these, renamed."""
        key = number, in_order
        there = self._renamed.get(key)
        if there is None:
            names = {generation: BASE + at * STEP for at, generation in enumerate(in_order)}
            there = self._renamed[key] = self.number(_renamed(self.values[number], names))
        return there


def is_canonical(masks: Iterable[int]) -> bool:
    """Whether these parts of one state together name the generations 0, 1, 2 ... without a gap."""
    all_ = 0
    for mask in masks:
        all_ |= mask
    return all_ >= 0 and all_ & (all_ + 1) == 0
