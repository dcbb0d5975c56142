"""A replay's report for a person, and for a program."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from redis_kvpoll.replay.report import Latency, Report

RESULTS = ("success", "failed", "aborted", "timed out", "crashed")
ANSWERS = {
    "SKIPPED": "skipped",
    "STALE": "stale",
    "UNCHANGED": "no effect",
    "CREATED": "revived",
    "ADVANCED": "hit next",
    "FAILED": "failed next",
}


def as_json(report: Report) -> dict[str, Any]:
    """All fields, with the rates and the verdict."""
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
        f"{_manner(report)}, seed {report.seed}\n"
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
    yield _promises(report)
    yield ""
    yield from _explanations(report)
    if violations := report.violations():
        yield Text("Promises broken:", "bold red")
        yield from (Text(f"  {violation}", "red") for violation in violations)
    else:
        what = f"policy {report.policy} promises" if report.lease is None else "generations and leases promise"
        yield Text(f"All that {what} holds.", "bold green")


def _manner(report: Report) -> str:
    """How the workers wrote."""
    if report.lease is None:
        return f"plain writes, policy {report.policy}"
    times = "once" if report.server_kills == 1 else f"{report.server_kills} times"
    kills = f", the server killed {times}" if report.server_kills else ""
    return f"through generations, leases of {report.lease:g} s{kills}"


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
        ("poll, mirror", report.looks, report.rooms_polled, report.polls_per_second),
        ("poll, by call", report.polls, report.rooms_polled, report.polls_per_second),
    )
    for name, latency, rooms, rate in rows:
        times = map(_milliseconds, (latency.p50, latency.p90, latency.p99, latency.max))
        table.add_row(name, f"{latency.calls:,}", f"{rooms:,}", f"{rate:,.0f}", *times)
    return table


def _milliseconds(value: float) -> str:
    return f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"  # a look at a mirror takes microseconds


def _mirror(report: Report) -> Text:
    """How the two ways of polling compare in what they said."""
    behind = f"{report.behind:,} of {report.rooms_polled:,} rooms had changed between a mirror and the call right after"
    unsynced = f"; {report.unsynced:,} times a mirror said it was not current" if report.unsynced else ""
    return Text(f"{behind}{unsynced}", "dim")


def _outcomes(report: Report) -> Table:
    table = _table("outcomes", *report.outcomes)
    table.add_row("of updates", *(f"{count:,}" for count in report.outcomes.values()))
    return table


def _late(report: Report) -> Table:
    table = _table("late messages", "sent", *ANSWERS.values())
    for status, answers in sorted(report.late.items()):
        counts = (answers.get(answer, 0) for answer in ANSWERS)
        table.add_row(status, f"{sum(answers.values()):,}", *(f"{count:,}" if count else "·" for count in counts))
    return table


def _promises(report: Report) -> Table:
    table = _table("rooms and requests", "", "")
    table.columns[2].justify = "left"
    leaked = sum(report.leaked.values())
    how = ", ".join(f"{count:,} by a late {status}" for status, count in report.leaked.items())
    by_count = sorted(report.cross_contamination.items(), key=lambda kind: -kind[1])
    kinds = "\n".join(f"{count:,} {kind}" for kind, count in by_count)
    table.add_row("lost", f"{report.lost:,}", "requests without an end")
    orphans = f"rooms of {report.crashes:,} killed workers; {report.orphans_past_ttl:,} of them outlived their TTL"
    if report.lease is not None:
        orphans = f"rooms of {report.crashes:,} killed workers; alive for {report.oldest_orphan:.1f} s at most"
    table.add_row("orphaned", f"{report.orphaned:,}", orphans)
    table.add_row("leaked", f"{leaked:,}", how or "rooms alive past their clear")
    table.add_row(
        "cross_contaminated", f"{report.cross_contaminated:,}", kinds or "requests touched by another's message"
    )
    return table


def _explanations(report: Report) -> Iterator[Text]:
    if report.cross_contaminated and report.lease is None:
        yield Text(
            f"Polluted: {report.reused:,} requests got a room that another had before, and a late message of that one "
            "cannot be told from their own: the id is the same. Only generations can; no policy promises it.\n",
            "yellow",
        )
    if report.leaked and report.policy == "compat" and report.lease is None:
        yield Text(
            "Leaked: compat creates an absent room for any status but Failed, as SGLang's dict does, so a late Success "
            "or Transferring brings a cleared room back until its TTL. Policy strict skips them.\n",
            "yellow",
        )


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(first, min_width=12)
    for name in others:
        table.add_column(name, justify="right")
    return table
