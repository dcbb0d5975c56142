"""Durations as people read them, the same in the commands, on the pages and in what the doctor says. Pure."""

from __future__ import annotations

import math

_LARGE = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))


def human(seconds: float) -> str:
    """A duration in at most ten characters: 2.5 ms, 0.9 s, 44 s, 4 min 57 s, 12 h."""
    if seconds < 0.00005:
        return "0 ms"
    if seconds < 0.0995:
        ms = seconds * 1000
        return f"{round(ms, 1 if ms < 9.95 else None):g} ms"
    if seconds < 99.95:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    if math.isinf(seconds):
        return "never"
    whole = round(seconds)
    for at, (unit, size) in enumerate(_LARGE):
        if whole >= size:
            rest = whole % size // _LARGE[at + 1][1] if at + 1 < len(_LARGE) and whole < 10 * size else 0
            return f"{whole // size} {unit}" + (f" {rest} {_LARGE[at + 1][0]}" if rest else "")
    return "0 s"
