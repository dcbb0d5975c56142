"""A replay's report, as text and as JSON."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from redis_kvpoll.replay.pacing import too_slow
from redis_kvpoll.replay.report import Latency, Report

RESULTS = ("success", "aborted", "crashed", "failed", "timed out")
MEANINGS = {
    "success": "both sides reached Success",
    "aborted": "on purpose: one side gave the request up",
    "crashed": "on purpose: with {crashes}",
    "failed": "by another request's message, or a lost lease",
    "timed out": "{nothing} on a slow machine, {others} by another's message",
}
LATE_MEANINGS = {"SKIPPED": "the room is absent", "STALE": "refused, since its request has cleared the room"}
VERDICTS = {"PASS": "green", "FAIL": "bold red"}
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
        "promises": {promise.words: promise.verdict for promise in report.promises()},
        "violations": report.violations(),
    }


def render(report: Report) -> Iterator[RenderableType]:
    """The parts of the report, from top to bottom: what happened, then what it means."""
    yield from _head(report)
    yield ""
    yield _results(report)
    yield ""
    yield _calls(report)
    yield _mirror(report)
    yield _outcomes(report)
    yield ""
    if report.late:
        yield _late(report)
        yield from _late_legend(report)
        yield ""
    yield _promises(report)
    yield from _legend(report)
    yield ""
    yield from _explanations(report)
    yield from _verdict(report)


def _head(report: Report) -> Iterator[Text]:
    asked = f"{report.speed:g} times the trace's speed"
    yield Text(f"{report.requests:,} requests in {report.seconds:.1f} s" + ("" if report.is_slowed else f", {asked}"))
    if report.is_slowed:
        carried = f"{report.carried_speed:.0f}" if report.carried_speed >= 10 else f"{report.carried_speed:.1g}"
        yield Text(
            f"This machine carried {carried} times the trace's speed, not {report.speed:g}: requests had to wait.",
            "yellow",
        )
    workers = f"{report.prefill} prefill and {report.decode} decode workers"
    yield Text(f"{workers}; {_mode(report)}; seed {report.seed}", "dim")


def _mode(report: Report) -> str:
    """How the workers wrote."""
    if report.lease is None:
        return f"plain writes, policy {report.policy}"
    times = "once" if report.server_kills == 1 else f"{report.server_kills} times"
    kills = f", server killed {times}" if report.server_kills else ""
    return f"fenced writes, leases of {report.lease:g} s{kills}"


def _results(report: Report) -> Table:
    table = _table("requests", "", "share", "")
    table.columns[3].justify = "left"
    meant = {
        "crashes": f"one of the {report.crashes:,} killed workers" if report.crashes != 1 else "the killed worker",
        "nothing": f"{report.timed_out_for_nothing:,}",
        "others": f"{report.results.get('timed out', 0) - report.timed_out_for_nothing:,}",
    }
    for result in RESULTS:
        count = report.results.get(result, 0)
        if count or result == "success":
            meaning = Text(MEANINGS[result].format(**meant), "dim")
            table.add_row(result, f"{count:,}", f"{count / report.requests:.1%}", meaning)
    return table


def _calls(report: Report) -> Table:
    table = _table("table calls", "calls", "rooms", "rooms/s", "p50 ms", "p90 ms", "p99 ms", "max ms")
    rows: tuple[tuple[str, Latency, int, float], ...] = (
        ("update", report.updates, report.rooms_updated, report.updates_per_second),
        ("poll, mirror", report.mirror_polls, report.rooms_mirrored, report.mirror_polls_per_second),
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
    behind = f"{report.mirror_behind:,} of {report.rooms_mirrored:,} rooms changed before the next call"
    unsynced = f"; {report.mirror_unsynced:,} polls of an unsynced one" if report.mirror_unsynced else ""
    return Text(f"mirror: a local copy; {behind}{unsynced}", "dim")


def _outcomes(report: Report) -> Text:
    counts = ", ".join(f"{count:,} {outcome}" for outcome, count in report.outcomes.items())
    return Text(f"updates: {counts or 'none'}", "dim")


def _late(report: Report) -> Table:
    """Late messages by what they did; only what happened has a column."""
    shown = [name for name in OUTCOMES if any(outcomes.get(name) for outcomes in report.late.values())]
    table = _table("late messages", "sent", *(OUTCOMES[name] for name in shown))
    for status, outcomes in sorted(report.late.items()):
        counts = (outcomes.get(name, 0) for name in shown)
        table.add_row(status, f"{sum(outcomes.values()):,}", *(f"{count:,}" if count else "·" for count in counts))
    return table


def _late_legend(report: Report) -> Iterator[Text]:
    names = {name for outcomes in report.late.values() for name in outcomes}
    parts = [f"{OUTCOMES[name]}: {meaning}" for name, meaning in LATE_MEANINGS.items() if name in names]
    if parts:
        yield Text("; ".join(parts), "dim")


def _promises(report: Report) -> Table:
    has_dict = report.plain_dict is not None
    table = _table("", "promises", *(("this table", "a plain dict") if has_dict else ("",)))
    table.columns[0].min_width = len("PASS")
    table.columns[1].justify = "left"
    for promise in report.promises():
        verdict, figures = Text("-", "dim"), Text(promise.figures)
        if promise.verdict in VERDICTS:
            verdict = Text(promise.verdict, VERDICTS[promise.verdict])
        elif promise.verdict == "not tested":
            figures = Text("not tested", "dim")
        table.add_row(verdict, promise.words, *(figures, Text(promise.dict_figures, "yellow"))[: 1 + has_dict])
    return table


def _legend(report: Report) -> Iterator[Text]:
    if report.plain_dict is not None:
        yield Text("a plain dict: the same messages by SGLang's own update_status, one dict a side", "dim")
    if any(promise.verdict == "not promised" for promise in report.promises()):
        yield Text(f"-: plain writes with policy {report.policy} do not promise it", "dim")
    if report.sweeps_were_late:
        yield Text("some failed later: no other worker got the CPU to sweep in time", "yellow")


def _verdict(report: Report) -> Iterator[Text]:
    verdicts = Counter(promise.verdict for promise in report.promises())
    if violations := report.violations():
        yield Text(f"FAIL: {verdicts['FAIL']} of {verdicts['PASS'] + verdicts['FAIL']} promises broken", "bold red")
        yield from (Text(f"  {violation}", "red") for violation in violations)
    elif report.timed_out_for_nothing:
        yield Text(f"INCONCLUSIVE: {too_slow(report.speed, report.carried_speed)}", "bold yellow")
        loss = ", or the killed server took their last status with it" if report.server_kills else ""
        yield Text(f"  {report.timed_out_for_nothing:,} requests timed out; no promise was broken{loss}", "yellow")
    else:
        yield Text(f"PASS: {verdicts['PASS']} promises tested and kept", "bold green")


def _explanations(report: Report) -> Iterator[Text]:
    kinds = ", ".join(
        f"{count:,} {kind}" for kind, count in sorted(report.cross_contamination.items(), key=lambda kind: -kind[1])
    )
    if report.cross_contaminated and report.lease is None:
        yield Text(
            f"Requests hit: {kinds}. {report.reused:,} requests got the room of an earlier one; a late message of "
            "that one has the same id, so it changes the new request. No policy prevents it; generations do.\n",
            "yellow",
        )
    if report.leaked and report.policy == "compat" and report.lease is None:
        yield Text(
            f"Rooms that came back: {_by_status(report.leaked)}. Policy compat creates an absent room for any status "
            "but Failed, as SGLang's dict does, so a cleared room is back until its TTL. Policy strict skips them.\n",
            "yellow",
        )


def _by_status(leaked: dict[str, int]) -> str:
    return ", ".join(f"{count:,} by a late {status}" for status, count in leaked.items())


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(first, min_width=12, vertical="bottom")
    for name in others:
        table.add_column(name, justify="right", vertical="bottom")
    return table
