"""How far a replay is, while it runs: a bar and live counts on a terminal, nothing into a pipe."""

from __future__ import annotations

from typing import Self

from rich import progress
from rich.console import Console
from rich.table import Column

from redis_kvpoll.replay.router import Snapshot

WIDE = 100
"""Columns, from which on there is room for a long bar."""


class Progress:
    """A context manager; ``show`` takes the replay's snapshots."""

    def __init__(self, console: Console, total: int) -> None:
        self._bar = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(bar_width=24 if console.width >= WIDE else 8),
            progress.MofNCompleteColumn(table_column=Column(no_wrap=True, min_width=2 * len(str(total)) + 1)),
            progress.TimeElapsedColumn(table_column=Column(no_wrap=True, min_width=len("0:00:00"))),
            progress.TextColumn("{task.fields[counts]}", table_column=Column(no_wrap=True, overflow="ellipsis")),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("starting workers", total=total, counts="")

    def show(self, snapshot: Snapshot) -> None:
        parts = [f"{count:,} {result}" for result, count in sorted(snapshot.results.items())]
        if flight := snapshot.arrived - snapshot.over:
            parts.insert(0, f"{flight:,} in flight")
        if snapshot.late_skipped:
            parts.append(f"{snapshot.late_skipped:,} late skipped")
        if snapshot.crashes:
            parts.append(f"{snapshot.crashes:,} workers killed")
        self._bar.update(
            self._task, description=snapshot.phase, completed=snapshot.over, counts="[dim]" + ", ".join(parts)
        )

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
