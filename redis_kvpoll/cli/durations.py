"""Durations as people write them, 60s, 5m, 2h, and read them: protocol/durations.py."""

from __future__ import annotations

import re

import click

from redis_kvpoll.protocol import durations

_WRITTEN = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|min|h|d)?")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0, None: 1.0}


def duration(text: str) -> float:
    """The seconds in a command line option: a number of them, or one with ms, s, m, h or d."""
    found = _WRITTEN.fullmatch(text.strip())
    if found is None:
        raise click.BadParameter(f"{text!r} is not a duration: write 90s, 5m, 2h or 1d")
    return float(found[1]) * _SECONDS[found[2]]


def human(seconds: float | None) -> str:
    """A duration in at most ten characters; empty for None."""
    return "" if seconds is None else durations.human(seconds)
