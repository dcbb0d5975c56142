"""The page ``/feed``: the latest changes, and how far the feed reaches back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from redis_kvpoll.protocol.feed import Change, FeedGap
from redis_kvpoll.serve import formats
from redis_kvpoll.serve.markup import Html, join, tag
from redis_kvpoll.serve.screens.base import Page, Screen, common, empty, namespaces, section, slot, status_cell, table
from redis_kvpoll.serve.view import Cell, Row, View
from redis_kvpoll.serve.watch import FIRST_CHANGE

MOST = 60
COLUMNS = ("Time (UTC)", "Room", "Status", "Reason", "Rank")


async def view(page: Page) -> View:
    snapshot = page.watch.snapshot
    shards = tuple(
        Row(
            feed.shard,
            (Cell(feed.shard), Cell(formats.count(feed.entries)), Cell(formats.duration(feed.span_seconds))),
        )
        for feed in snapshot.feeds
    )
    changes = await page.watch.latest_changes(MOST)
    is_off = page.watch.settings is not None and not page.watch.settings.feed_length
    unread = f"Not known: the feed was not read within {FIRST_CHANGE:g} s."
    nothing = "The feed has no entry." if changes is not None else unread
    if is_off:
        nothing = "This namespace keeps no feed (feed_length=0)."
    texts = common(page) | {
        "gaps": Cell(formats.count(snapshot.gaps), "warn" if snapshot.gaps else ""),
        "resyncs": Cell(formats.count(snapshot.resyncs), "warn" if snapshot.resyncs else ""),
    }
    texts |= empty(page, changes=nothing, shards=nothing)
    rows = tuple(_rows(page, changes or []))
    return View(texts, {"namespaces": namespaces(page), "shards": shards, "changes": rows})


def _rows(page: Page, changes: Sequence[Change | FeedGap]) -> Iterator[Row]:
    """The latest change first.

    An entry may have one room twice. Equal keys count from its end: of the oldest entry the beginning is not shown.
    """
    seen: Counter[str] = Counter()
    for number, change in enumerate(reversed(changes)):
        if isinstance(change, FeedGap):
            nothing = Cell("")
            missing = Cell("changes may be missing here", "warn")
            yield Row(f"gap {number}", (nothing, nothing, missing, nothing, nothing))
        else:
            key = f"{change.id} {change.room} {change.rank}"
            seen[key] += 1
            yield Row(f"{key} {seen[key]}", _cells(page, change))


def _cells(page: Page, change: Change) -> tuple[Cell, ...]:
    rank = ""
    if change.rank is not None:
        rank = f"{change.rank}: {'cleared' if change.rank_status is None else change.rank_status.name}"
    return (
        Cell(formats.clock(change.at, 3)),
        Cell(str(change.room), "", page.room_link(change.room)),
        status_cell(change.status, "cleared"),
        Cell(change.reason or ""),
        Cell(rank),
    )


def body(page: Page, view: View) -> Html:
    columns = ("Shard", "Entries", "Reaches back")
    counters = tag(
        "dl",
        tag("div", tag("dt", "Gaps"), slot(view, "gaps", "dd")),
        tag("div", tag("dt", "Read anew"), slot(view, "resyncs", "dd")),
        class_="facts",
    )
    note = "A gap means that the feed was trimmed or lost before it was read: raise feed_length if it goes on."
    changes = section("Latest changes", table(view, "changes", COLUMNS, "Changes", "cards mono"))
    shards = table(view, "shards", columns, "Shards")
    return join([section("The feed", counters, tag("p", note, class_="note"), shards), changes])


SCREEN = Screen("/feed", "Feed", view, body, "4")
