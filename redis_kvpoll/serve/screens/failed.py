"""The page ``/failed``: failures by kind, the reasons of the last hour, and the latest failed rooms."""

from __future__ import annotations

from redis_kvpoll.model import KVPoll
from redis_kvpoll.serve import formats
from redis_kvpoll.serve.markup import Html, join, tag
from redis_kvpoll.serve.screens.base import Page, Screen, common, empty, namespaces, section, slot, table
from redis_kvpoll.serve.screens.overview import no_failure, no_reason, reason_row, reasons_since
from redis_kvpoll.serve.view import Cell, Row, View

MOST_ROOMS, MOST_REASONS = 50, 30
KINDS = {
    "owner_lost": "an owner's heartbeats stopped",
    "owner_left": "an owner ended its lease",
    "lease_lost": "a process lost its lease and went on",
    "other_side": "the peer's table said so",
    "timeout": "a time limit of SGLang passed",
    "aborted": "a request or an operator aborted it",
    "transfer": "the transfer itself failed",
    "none": "no reason was given",
    "other": "a reason of no known kind",
}
ROOM_COLUMNS = ("Room", "Failed", "Reason", "Failed by", "Owner", "Request")


async def view(page: Page) -> View:
    snapshot = page.watch.snapshot
    kinds = sorted((each for each in snapshot.failures.items() if each[1]), key=lambda each: -each[1])
    nothing = {
        "kinds": no_failure(page.watch),
        "rooms": "No failed room is in the table now.",
    }
    return View(
        common(page)
        | empty(page, reasons=no_reason(page.watch), **nothing)
        | {"reasons_since": reasons_since(page.watch)},
        {
            "namespaces": namespaces(page),
            "kinds": tuple(
                Row(kind, (Cell(kind), Cell(formats.count(number)), Cell(KINDS.get(kind, ""))))
                for kind, number in kinds
            ),
            "reasons": tuple(reason_row(reason, page.watch.now()) for reason in snapshot.reasons[:MOST_REASONS]),
            "rooms": await _rooms(page),
        },
    )


async def _rooms(page: Page) -> tuple[Row, ...]:
    now = page.watch.now()
    found = page.watch.latest_rows(KVPoll.Failed, MOST_ROOMS)
    entries = await page.watch.entries([row.room for row in found])
    rows = []
    for each in found:
        entry = entries.get(each.room)
        if entries and (entry is None or entry.status is not KVPoll.Failed):  # cleared since the list was made
            continue
        texts = (entry.reason, entry.failed_by, entry.owner, entry.request) if entry else (None,) * 4
        cells = (
            Cell(str(each.room), "", page.room_link(each.room)),
            Cell(f"{formats.duration(now - each.since)} ago"),
            *(Cell(text or formats.NONE) for text in texts),
        )
        rows.append(Row(str(each.room), cells))
    return tuple(rows)


def body(page: Page, view: View) -> Html:
    kinds = table(view, "kinds", ("Kind", "Count", "Meaning"), "Failures by kind", "cards")
    reasons = table(
        view,
        "reasons",
        ("Reason", "Kind", "Count", "Last"),
        "Failure reasons",
        "reasons cards",
    )
    rooms = table(view, "rooms", ROOM_COLUMNS, "Failed rooms", "cards cut")
    note = tag("p", "A failed room stays in the table until it is cleared, or until its TTL ends.", class_="note")
    return join(
        [
            tag(
                "div",
                section("Reasons, last hour", tag("p", slot(view, "reasons_since"), class_="note"), reasons),
                section("By kind, since kvpoll serve started", kinds),
                class_="columns",
            ),
            section("Latest failed rooms", note, rooms),
        ]
    )


SCREEN = Screen("/failed", "Failed", view, body, "3")
