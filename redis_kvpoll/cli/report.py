"""A replay's report, as text and as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from redis_kvpoll.replay.report import Latency, Report

RESULTS = ("success", "failed", "aborted", "timed out", "crashed")
OUTCOMES = {
    "SKIPPED": "skipped",
    "STALE": "stale",
    "UNCHANGED": "no effect",
    "CREATED": "created\nthe room\nagain",
    "ADVANCED": "advanced\na later\nrequest",
    "FAILED": "failed\na later\nrequest",
}
"""The effect of a late message, by the table's outcome."""


def as_json(report: Report) -> dict[str, Any]:
    """All fields, with the rates and the violations."""
    return dataclasses.asdict(report) | {
        "updates_per_second": round(report.updates_per_second, 1),
        "polls_per_second": round(report.polls_per_second, 1),
        "late_failed_skipped": report.late_failed_skipped,
        "violations": report.violations(),
    }


def render(report: Report) -> Iterator[RenderableType]:
    """The parts of the report, from top to bottom."""
    yield Text(
        f"{report.requests:,} requests ({report.input_tokens:,} input tokens) in {report.seconds:.1f} s, "
        f"{report.speed:g} times the trace's speed, by {report.prefill} prefill and {report.decode} decode workers; "
        f"{_mode(report)}, seed {report.seed}\n"
    )
    yield _results(report)
    yield ""
    yield _calls(report)
    yield _mirror(report)
    yield ""
    yield _outcomes(report)
    yield ""
    if report.late:
        yield _late(report)
        yield ""
    yield _rooms(report)
    yield ""
    yield from _explanations(report)
    if violations := report.violations():
        yield Text("Guarantees violated:", "bold red")
        yield from (Text(f"  {violation}", "red") for violation in violations)
    else:
        source = f"policy {report.policy}" if report.lease is None else "generations and leases"
        yield Text(f"All guarantees of {source} held.", "bold green")


def _mode(report: Report) -> str:
    """How the workers wrote."""
    if report.lease is None:
        return f"plain writes, policy {report.policy}"
    times = "once" if report.server_kills == 1 else f"{report.server_kills} times"
    kills = f", server killed {times}" if report.server_kills else ""
    return f"fenced writes, leases of {report.lease:g} s{kills}"


def _results(report: Report) -> Table:
    table = _table("requests", "", "share")
    for result in RESULTS:
        count = report.results.get(result, 0)
        table.add_row(result, f"{count:,}", f"{count / report.requests:.1%}")
    return table


def _calls(report: Report) -> Table:
    table = _table("table calls", "calls", "rooms", "rooms/s", "p50 ms", "p90 ms", "p99 ms", "max ms")
    rows: tuple[tuple[str, Latency, int, float], ...] = (
        ("update", report.updates, report.rooms_updated, report.updates_per_second),
        ("poll, mirror", report.mirror_polls, report.rooms_polled, report.polls_per_second),
        ("poll, server", report.polls, report.rooms_polled, report.polls_per_second),
    )
    for name, latency, rooms, rate in rows:
        times = map(_milliseconds, (latency.p50, latency.p90, latency.p99, latency.max))
        table.add_row(name, f"{latency.calls:,}", f"{rooms:,}", f"{rate:,.0f}", *times)
    return table


def _milliseconds(value: float) -> str:
    return f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"  # a mirror answers within microseconds


def _mirror(report: Report) -> Text:
    """How the statuses of mirrors and of calls differed."""
    behind = f"{report.mirror_behind:,} of {report.rooms_polled:,} rooms changed between the mirror poll and the call"
    unsynced = f"; {report.mirror_unsynced:,} polls of an unsynced mirror" if report.mirror_unsynced else ""
    return Text(f"{behind}{unsynced}", "dim")


def _outcomes(report: Report) -> Table:
    table = _table("outcomes", *report.outcomes)
    table.add_row("of updates", *(f"{count:,}" for count in report.outcomes.values()))
    return table


def _late(report: Report) -> Table:
    table = _table("late messages", "sent", *OUTCOMES.values())
    for status, outcomes in sorted(report.late.items()):
        counts = (outcomes.get(outcome, 0) for outcome in OUTCOMES)
        table.add_row(status, f"{sum(outcomes.values()):,}", *(f"{count:,}" if count else "·" for count in counts))
    return table


def _rooms(report: Report) -> Table:
    table = _table("rooms and requests", "", "")
    table.columns[2].justify = "left"
    leaked = sum(report.leaked.values())
    how = ", ".join(f"{count:,} by a late {status}" for status, count in report.leaked.items())
    by_count = sorted(report.cross_contamination.items(), key=lambda kind: -kind[1])
    kinds = "\n".join(f"{count:,} {kind}" for kind, count in by_count)
    table.add_row("unfinished", f"{report.unfinished:,}", "requests without a result")
    orphans = f"rooms of {report.crashes:,} killed workers; {report.orphans_past_ttl:,} of them outlived their TTL"
    if report.lease is not None:
        orphans = f"rooms of {report.crashes:,} killed workers; live for at most {report.oldest_orphan:.1f} s"
    table.add_row("orphaned", f"{report.orphaned:,}", orphans)
    table.add_row("leaked", f"{leaked:,}", how or "rooms that exist after their clear")
    table.add_row(
        "cross-contaminated", f"{report.cross_contaminated:,}", kinds or "requests affected by another's message"
    )
    return table


def _explanations(report: Report) -> Iterator[Text]:
    if report.cross_contaminated and report.lease is None:
        yield Text(
            f"Cross-contaminated: {report.reused:,} requests got the room of an earlier request. A late message of "
            "that one has the same id, so it changes the new request. No policy prevents it; generations do.\n",
            "yellow",
        )
    if report.leaked and report.policy == "compat" and report.lease is None:
        yield Text(
            "Leaked: compat creates an absent room for any status but Failed, as SGLang's dict does, so a late Success "
            "or Transferring creates a cleared room again, until its TTL. Policy strict skips them.\n",
            "yellow",
        )


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(first, min_width=12, vertical="bottom")
    for name in others:
        table.add_column(name, justify="right", vertical="bottom")
    return table
