"""What is printed of the runs."""

from __future__ import annotations

from collections.abc import Iterable

from chaos.history import JUDGE, Done, Fault
from chaos.run import Verdict

SHOWN = 5
"""Violations of a run in full; of more, how many there are."""


def story(verdict: Verdict, room: int | None) -> list[str]:
    """What happened to a room, and meanwhile to all: seconds since the first call on it."""
    calls = [done for done in verdict.history.calls if done.room == room and done.name != "mirror"]
    if not calls:
        return []
    first = min(done.began for done in calls)
    happened: list[Done | Fault] = [*calls, *(fault for fault in verdict.history.faults if fault.ended > first)]
    happened.sort(key=lambda one: one.began)
    return [f"  {one.began - first:8.3f} to {one.ended - first:8.3f}  {_told(one)}" for one in happened]


def _told(one: Done | Fault) -> str:
    if isinstance(one, Fault):
        return f"FAULT {one.name}" + (f" {one.worker}" if one.worker is not None else "")
    who = "judge" if one.worker == JUDGE else f"worker {one.worker}"
    return f"{who}: {one.name} {one.argument} through {one.generation or '-'}: {one.error or one.answer}"


def report(verdicts: Iterable[Verdict]) -> str:
    """A table of all runs, and then what was done in each, and what was wrong."""
    verdicts = list(verdicts)
    lines = [f"{'scenario':<12}{'seconds':>9}{'faults':>9}{'operations':>12}{'violations':>12}{'longest wait':>15}"]
    lines += [
        f"{one.name:<12}{one.seconds:>9.1f}{one.faults.total():>9}{one.operations:>12,}"
        f"{len(one.violations):>12}{one.longest_wait:>13.2f} s"
        for one in verdicts
    ]
    lines += ["", "faults injected"]
    for one in verdicts:
        told = ", ".join(f"{count} x {name}" for name, count in sorted(one.faults.items()))
        lines.append(f"  {one.name:<10}{told}")
    if any(one.errors for one in verdicts):
        lines += ["", "errors told to callers, all of them explained by a fault unless a violation says otherwise"]
        for one in verdicts:
            if told := ", ".join(f"{count:,} x {name}" for name, count in sorted(one.errors.items())):
                lines.append(f"  {one.name:<10}{told}")
    for one in verdicts:
        for violation in one.violations[:SHOWN]:
            lines.append(f"VIOLATION in {one.name}: {violation.rule}: {violation.what}")
            lines += story(one, violation.room)
        if len(one.violations) > SHOWN:
            lines.append(f"VIOLATION in {one.name}: and {len(one.violations) - SHOWN} more")
    lines.append("")
    lines.append(
        f"{sum(one.faults.total() for one in verdicts)} faults injected, "
        f"{sum(one.operations for one in verdicts):,} operations, "
        f"{sum(len(one.violations) for one in verdicts)} violations; "
        f"the longest that any caller waited: {max((one.longest_wait for one in verdicts), default=0.0):.2f} s"
    )
    return "\n".join(lines)
