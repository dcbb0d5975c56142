"""The progress of a running replay: a bar and live counts on a terminal, nothing into a pipe."""

from __future__ import annotations

from typing import Self

from rich import progress
from rich.console import Console
from rich.table import Column

from redis_kvpoll.replay.router import ReplayProgress

WIDE = 120
"""The width from which on there is space for a bar."""
BAR = 24
RESULTS = ("success", "failed", "aborted", "timed out", "crashed")
LONGEST_PHASE = "expiring orphans"


class Progress:
    """A context manager; ``show`` prints the replay's snapshots."""

    def __init__(self, console: Console, total: int) -> None:
        bar = [progress.BarColumn(bar_width=BAR)] if console.width >= WIDE else []
        taken = (len(LONGEST_PHASE), *(BAR for _ in bar), 2 * len(str(total)) + 1, len("0:00:00"))
        self._counts_width = console.width - sum(taken) - len(taken)
        self._bar = progress.Progress(
            progress.TextColumn("{task.description}"),
            *bar,
            progress.MofNCompleteColumn(table_column=Column(no_wrap=True, min_width=2 * len(str(total)) + 1)),
            progress.TimeElapsedColumn(table_column=Column(no_wrap=True, min_width=len("0:00:00"))),
            progress.TextColumn("{task.fields[counts]}", table_column=Column(no_wrap=True, overflow="ellipsis")),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("starting workers", total=total, counts="")

    def show(self, snapshot: ReplayProgress) -> None:
        counts = [(snapshot.results.get(result, 0), result) for result in RESULTS]
        parts = [f"{count:,} {result}" for count, result in counts if count]
        if running := snapshot.dispatched - snapshot.ended:
            parts.insert(0, f"{running:,} running")
        if snapshot.crashes:
            parts.append(f"{snapshot.crashes:,} workers killed")
        if snapshot.late_skipped:
            parts.append(f"{snapshot.late_skipped:,} late skipped")
        while len(", ".join(parts)) > self._counts_width and len(parts) > 1:
            parts.pop()  # no part is cut
        self._bar.update(
            self._task, description=snapshot.phase, completed=snapshot.ended, counts="[dim]" + ", ".join(parts)
        )

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
