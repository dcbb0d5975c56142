"""Charts as paths of SVG, and the same numbers as rows of a table. Pure.

A drawing is WIDTH by HEIGHT units, which the page stretches to its own size; so it has no text and no circles. Labels
are beside it. A value of None is a time that was not seen: the line has a gap there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

WIDTH, HEIGHT = 600, 120

Values = Sequence[float | None]
Show = Callable[[float], str]


@dataclass(frozen=True, slots=True)
class Drawing:
    """One chart: the path of each series, what the top means, and each series' latest value."""

    paths: tuple[str, ...]
    top: str
    latest: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...] = ()
    """Time and values, the newest first, for the table behind the chart."""

    def encoded(self) -> list[Any]:
        return [list(self.paths), self.top, list(self.latest), [list(row) for row in self.rows]]


def ceiling(values: Values, least: float) -> float:
    """Return a round number that is at least every value, and ``least``."""
    largest = max((value for value in values if value is not None), default=0.0)
    if largest <= least:
        return least
    unit = 10.0 ** (len(str(int(largest))) - 1) if largest >= 1 else 10.0 ** -(len(f"{1 / largest:.0f}"))
    return next(step * unit for step in (1, 1.5, 2, 3, 4, 5, 6, 8, 10, 12) if step * unit >= largest)


def line(values: Values, top: float) -> str:
    """Return the path of a line through the values, whose last one is at the right edge."""
    parts = []
    is_down = False
    for number, value in enumerate(values):
        if value is None:
            is_down = False
            continue
        parts.append(f"{'L' if is_down else 'M'}{_x(number, values)} {_y(value, top)}")
        if not is_down and (number + 1 == len(values) or values[number + 1] is None):
            parts.append("h1")  # a single value is a dot
        is_down = True
    return "".join(parts)


def stack(series: Sequence[Values], top: float) -> tuple[str, ...]:
    """Return the path of each series as an area that stands on the one before it."""
    floor = [0.0] * len(series[0])
    paths = []
    for values in series:
        roof = [low + (value or 0.0) for low, value in zip(floor, values, strict=True)]
        paths.append("".join(_areas(values, floor, roof, top)))
        floor = roof
    return tuple(paths)


def _areas(values: Values, floor: list[float], roof: list[float], top: float) -> list[str]:
    """The area over each run of values that were seen."""
    areas: list[str] = []
    start: int | None = None
    for number in range(len(values) + 1):
        is_seen = number < len(values) and values[number] is not None
        if is_seen and start is None:
            start = number
        elif not is_seen and start is not None:
            over = [f"{_x(at, values)} {_y(roof[at], top)}" for at in range(start, number)]
            under = [f"{_x(at, values)} {_y(floor[at], top)}" for at in range(number - 1, start - 1, -1)]
            areas.append(f"M{'L'.join(over + under)}Z")
            start = None
    return areas


def _x(number: int, values: Values) -> str:
    return f"{WIDTH * number / max(1, len(values) - 1):.4g}"


def _y(value: float, top: float) -> str:
    return f"{HEIGHT - HEIGHT * min(1.0, value / top):.4g}"
