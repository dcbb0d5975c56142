"""The page ``/``: charts, the rooms that are at their status for the longest, and why rooms fail."""

from __future__ import annotations

from redis_kvpoll.model import Entry, KVPoll
from redis_kvpoll.serve import formats
from redis_kvpoll.serve.history import ENDS, STATUSES
from redis_kvpoll.serve.markup import Html, join, tag
from redis_kvpoll.serve.screens.base import (
    UNKNOWN,
    Page,
    Screen,
    common,
    empty,
    namespaces,
    section,
    slot,
    status_cell,
    table,
)
from redis_kvpoll.serve.screens.figures import ChartLine, chart
from redis_kvpoll.serve.view import Cell, Row, View
from redis_kvpoll.serve.watch import Watch
from redis_kvpoll.statistics.model import LIVE, ReasonCount, RoomRow
from redis_kvpoll.statistics.totals import REASON_SECONDS

MOST_ROOMS = 25
MOST_REASONS = 10
COLUMNS = ("Room", "Status", "Status for", "Age", "Expires in", "Owner", "Request")


async def view(page: Page) -> View:
    watch = page.watch
    found = chosen(page)
    entries = await watch.entries([row.room for row in found])
    rows = tuple(room_row(page, row, entries.get(row.room)) for row in found)
    reasons = tuple(reason_row(reason, watch.now()) for reason in watch.snapshot.reasons[:MOST_REASONS])
    nothing = "No room is like that." if any(page.query.values()) else "No room is under way."
    texts = common(page) | empty(page, rooms=nothing, reasons=no_reason(page.watch))
    texts["reasons_since"] = reasons_since(watch)
    return View(texts, {"namespaces": namespaces(page), "rooms": rows, "reasons": reasons}, watch.history.drawings())


def chosen(page: Page) -> list[RoomRow]:
    """The rooms that the address asks for: those that are at their status for the longest."""
    wanted = page.query.get("status", "")
    statuses = [KVPoll[wanted]] if wanted in KVPoll.__members__ else list(LIVE)
    longer_than = page.watch.snapshot.stuck_after if page.query.get("stuck") else 0.0
    return page.watch.rows(statuses, longer_than, page.query.get("owner") or None, MOST_ROOMS)


def room_row(page: Page, row: RoomRow, entry: Entry | None) -> Row:
    now, stuck_after = page.watch.now(), page.watch.snapshot.stuck_after
    since = now - row.since
    is_stuck = row.status in LIVE and since > stuck_after
    last = (entry.reason if row.status is KVPoll.Failed else entry.request) if entry else None
    return Row(
        str(row.room),
        (
            Cell(str(row.room), "", page.room_link(row.room)),
            status_cell(row.status),
            Cell(formats.duration(since), "bad" if is_stuck else ""),
            Cell(formats.duration(now - row.opened_at)),
            Cell(formats.duration(row.ttl), "warn" if row.ttl < 60 and row.status in LIVE else ""),
            Cell(row.owner or formats.NONE),
            Cell(last or formats.NONE),
        ),
    )


def no_failure(watch: Watch) -> str:
    """Return what is said where no failure was counted: since when they are."""
    if not watch.snapshot.has_feed:
        return "Not known: this namespace keeps no feed (feed_length=0)."
    if watch.counts_since is None:
        return UNKNOWN
    return f"No room has failed since kvpoll serve first read this table, at {formats.moment(watch.counts_since)}."


def no_reason(watch: Watch) -> str:
    """Return what is said where there is no reason: the list has those of the last hour."""
    since = watch.counts_since
    if watch.snapshot.has_feed and since is not None and watch.now() - since >= REASON_SECONDS:
        return "No room has failed in the last hour."
    return no_failure(watch)


def reasons_since(watch: Watch) -> Cell:
    """Return since when reasons are listed, in the first hour: this process knows none from before its first reading.

    Those of the feed would not do: the counters of the metrics must not count them once more. Where there is no reason,
    no_reason says the same.
    """
    since = watch.counts_since
    if not watch.snapshot.reasons or since is None or watch.now() - since >= REASON_SECONDS:
        return Cell("")
    return Cell(f"Since kvpoll serve first read this table, at {formats.moment(since)}: earlier ones are not here.")


def reason_row(reason: ReasonCount, now: float) -> Row:
    text = reason.last if reason.count == 1 else reason.text
    last = f" (last: {reason.last})" if reason.last != text else ""
    return Row(
        f"{reason.kind} {reason.text}",
        (
            Cell(f"{text}{last}" or "no reason was given"),
            Cell(reason.kind),
            Cell(formats.count(reason.count)),
            Cell(f"{formats.duration(now - reason.last_at)} ago"),
        ),
    )


def body(page: Page, view: View) -> Html:
    statuses = tuple(ChartLine(status.name, formats.TONE_OF[status]) for status in STATUSES)
    ends = tuple(ChartLine(end, tone) for end, tone in zip(ENDS, ("done", "fail", "dim"), strict=True))
    return join(
        [
            tag(
                "section",
                tag("h2", "The last 15 minutes", class_="hidden"),
                chart(view, "rooms", "Rooms by status", statuses, "area"),
                chart(view, "ends", "Ends per second", ends),
                chart(view, "durations", "p99 at a status, last minute", statuses[:3], bottom="1 ms"),
                class_="charts",
            ),
            _rooms(page, view),
            _reasons(view),
        ]
    )


def _rooms(page: Page, view: View) -> Html:
    return section("Longest at their status", _filter(page), table(view, "rooms", COLUMNS, "Rooms", "cards cut"))


def _filter(page: Page) -> Html:
    """A form that works without scripts."""
    wanted = page.query.get("status", "")
    options = [tag("option", "All live", value="")]
    options += [tag("option", name, value=name, selected=name == wanted) for name in KVPoll.__members__]
    return tag(
        "form",
        tag("input", type="hidden", name="n", value=page.watch.name),
        tag("label", tag("span", "Status"), tag("select", *options, name="status")),
        tag(
            "label",
            tag("span", "Owner"),
            tag("input", name="owner", value=page.query.get("owner", ""), placeholder="any", autocomplete="off"),
        ),
        tag(
            "label",
            tag("input", type="checkbox", name="stuck", value="1", checked=bool(page.query.get("stuck"))),
            tag("span", f"Stuck (over {formats.duration(page.watch.snapshot.stuck_after)})"),
            class_="check",
        ),
        tag("button", "Show", type="submit"),
        class_="filter",
        method="get",
        action=f"{page.config.root}/",
    )


def _reasons(view: View) -> Html:
    columns = ("Reason", "Kind", "Count", "Last")
    since = tag("p", slot(view, "reasons_since"), class_="note")
    return section(
        "Why rooms failed, last hour", since, table(view, "reasons", columns, "Failure reasons", "reasons cards")
    )


SCREEN = Screen("/", "Rooms", view, body, "1")
