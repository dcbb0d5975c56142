"""What is printed of the runs."""

from __future__ import annotations

from collections.abc import Iterable

from chaos.history import OBSERVER, CallRecord, FaultEvent
from chaos.run import RunResult

SHOWN = 5
"""Violations of a run that are printed in full; the others are counted."""


def story(result: RunResult, room: int | None) -> list[str]:
    """The calls on a room and the faults meanwhile, in seconds since the first call."""
    calls = [record for record in result.history.calls if record.room == room and record.name != "mirror"]
    if not calls:
        return []
    first = min(record.began for record in calls)
    events: list[CallRecord | FaultEvent] = [
        *calls,
        *(fault for fault in result.history.faults if fault.ended > first),
    ]
    events.sort(key=lambda event: event.began)
    return [f"  {event.began - first:8.3f} to {event.ended - first:8.3f}  {_described(event)}" for event in events]


def _described(event: CallRecord | FaultEvent) -> str:
    if isinstance(event, FaultEvent):
        return f"FAULT {event.name}" + (f" {event.worker}" if event.worker is not None else "")
    caller = "observer" if event.worker == OBSERVER else f"worker {event.worker}"
    return f"{caller}: {event.name} {event.argument} through {event.generation or '-'}: {event.error or event.answer}"


def report(results: Iterable[RunResult]) -> str:
    """A table of all runs, then the faults, the errors and the violations of each."""
    results = list(results)
    lines = [f"{'scenario':<12}{'seconds':>9}{'faults':>9}{'operations':>12}{'violations':>12}{'longest wait':>15}"]
    lines += [
        f"{one.name:<12}{one.seconds:>9.1f}{one.faults.total():>9}{one.operations:>12,}"
        f"{len(one.violations):>12}{one.longest_wait:>13.2f} s"
        for one in results
    ]
    lines += ["", "faults injected"]
    for one in results:
        counts = ", ".join(f"{count} x {name}" for name, count in sorted(one.faults.items()))
        lines.append(f"  {one.name:<10}{counts}")
    if any(one.errors for one in results):
        lines += ["", "errors that callers got; a fault explains each, unless a violation is listed"]
        for one in results:
            if counts := ", ".join(f"{count:,} x {name}" for name, count in sorted(one.errors.items())):
                lines.append(f"  {one.name:<10}{counts}")
    for one in results:
        if plain := one.history.plain:
            ours, theirs = one.errors["StoreUnavailableError"], sum(bool(call.error) for call in plain)
            beside = f"of a plain client's beside them: {theirs:,} of {len(plain):,}"
            lines += ["", f"calls of {one.name} that gave up: {ours:,} of {one.operations:,}; {beside}"]
    for one in results:
        for violation in one.violations[:SHOWN]:
            lines.append(f"VIOLATION in {one.name}, seed {one.seed}: {violation.rule}: {violation.detail}")
            lines += story(one, violation.room)
        if len(one.violations) > SHOWN:
            lines.append(f"VIOLATION in {one.name}, seed {one.seed}: and {len(one.violations) - SHOWN} more")
    lines.append("")
    lines.append(
        f"{sum(one.faults.total() for one in results)} faults injected, "
        f"{sum(one.operations for one in results):,} operations, "
        f"{sum(len(one.violations) for one in results)} violations; "
        f"longest wait of a caller: {max((one.longest_wait for one in results), default=0.0):.2f} s"
    )
    return "\n".join(lines)
