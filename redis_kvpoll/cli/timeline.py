"""The timeline of one room on a terminal: a line for each status, with how long it lasted."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from rich.console import Console
from rich.text import Text

from redis_kvpoll.cli.durations import human
from redis_kvpoll.cli.other_side import OtherRoom
from redis_kvpoll.cli.rows import local_time
from redis_kvpoll.cli.terminal import STATUS_STYLES
from redis_kvpoll.errors import printable
from redis_kvpoll.model import KVPoll
from redis_kvpoll.protocol.periods import Period

BAR = 20
"""Characters of the longest bar."""
ENDS = ("Success", "Failed", "cleared", "expired", "gone")


def print_timeline(timeline: list[Period], restored_at: float | None = None) -> None:
    """Print the periods of a room, the oldest first; nothing if the feed does not have them.

    The feed of a room that was restored has nothing older than the restore.
    """
    console = Console(highlight=False)
    longest = max((_lasted(period) for period in timeline if _has_bar(period)), default=0.0) or 1.0
    width = console.width - 17 if console.is_terminal else sys.maxsize
    if timeline:
        console.print()
    if timeline and restored_at is not None:
        # Without its time, which would be the only one out of order: a change may be older than the restore.
        console.print(Text(f"{'':17}restored after a loss of data; before: not known", "dim"))
    for at, period in enumerate(timeline):
        mark = "└─" if at == len(timeline) - 1 else "├─"
        line = Text.assemble((f"{_clock(period.since)}  {mark} ", "dim"))
        line.append(f"{period.state:<15}", _style(period.state))
        if _has_bar(period):
            bar = "▇" * max(1, round(BAR * _lasted(period) / longest))
            line.append(f"  {human(_lasted(period)):>10}  ")
            line.append(bar, "dim" if period.state in ENDS else _style(period.state))
            line.append("  until now" if period.is_current else "", "dim")
        line.rstrip()
        console.print(line, soft_wrap=True)
        if period.reason:
            console.print(Text(f"{'':17}{printable(period.reason)}"), soft_wrap=True)
        if period.ranks:
            ranks = [f"rank {change} {_clock(then)[6:]}" for then, change in period.ranks]
            for text in _wrapped(ranks, width):
                console.print(Text(f"{'':17}{text}", "dim"), soft_wrap=True)


def _wrapped(words: list[str], width: int) -> Iterator[str]:
    """Lines of at most ``width`` characters, that break between the words alone."""
    line = ""
    for word in words:
        if line and len(line) + 2 + len(word) > width:
            yield line
            line = word
        else:
            line = f"{line}  {word}" if line else word
    yield line


def print_other_side(other: OtherRoom) -> None:
    """Print the room in the other side's table."""
    line, entry = Text.assemble(("\nother side  ", "dim"), f"{other.namespace}: "), other.entry
    if entry is not None:
        line.append(entry.status.name, STATUS_STYLES[entry.status])
        line.append(f" since {_clock(entry.updated_at)}")
        line.append(f", of {printable(entry.owner)}" if entry.owner else "")
        line.append(f" ({printable(other.process)})" if other.process else "")
        line.append(f", {printable(entry.reason)}" if entry.reason else "")
    else:
        line.append(f"could not be read: {other.error}" if other.error else "has no such room")
    Console(highlight=False).print(line, soft_wrap=True)


def _has_bar(period: Period) -> bool:
    """Whether it is said how long a period lasted: an end lasts until the room goes, which says nothing."""
    return period.until is not None and not (period.state in ENDS and period.is_current)


def _lasted(period: Period) -> float:
    return 0.0 if period.until is None else max(0.0, period.until - period.since)


def _clock(at: float) -> str:
    return local_time(at).partition(" ")[2][:12]


def _style(state: str) -> str:
    return STATUS_STYLES[KVPoll[state]] if state in KVPoll.__members__ else "dim"
