"""The page ``/room/N``: one room in full, with its times, its ranks, the other side's room, and what can be done."""

from __future__ import annotations

from typing import NamedTuple

from redis_kvpoll.errors import CorruptEntryError, KVPollError
from redis_kvpoll.model import Entry, KVPoll
from redis_kvpoll.protocol.feed import Change
from redis_kvpoll.protocol.periods import Period, periods
from redis_kvpoll.serve import formats
from redis_kvpoll.serve.charts import HEIGHT, WIDTH, Drawing
from redis_kvpoll.serve.history import STATUSES
from redis_kvpoll.serve.markup import Html, tag
from redis_kvpoll.serve.screens.base import (
    Page,
    Screen,
    common,
    empty,
    encoded,
    namespaces,
    section,
    slot,
    status_cell,
    table,
)
from redis_kvpoll.serve.view import Cell, Row, View
from redis_kvpoll.serve.watch import Watch
from redis_kvpoll.statistics.model import LIVE

FACTS = (
    ("room_status", "Status"),
    ("room_since", "At this status for"),
    ("room_opened", "Opened"),
    ("room_ttl", "Expires in"),
    ("room_owner", "Owner"),
    ("room_request", "Request"),
    ("room_other_side", "Other side"),
    ("room_reason", "Reason"),
    ("room_failed_by", "Failed by"),
    ("room_ranks", "Ranks"),
    ("room_generation", "Generation"),
)
PERIODS = ("From (UTC)", "Status", "Lasted", "What", "Ranks")
_SIDES = {"prefill": "decode", "decode": "prefill"}


async def view(page: Page) -> View:
    room, watch = page.room or 0, page.watch
    found = await read(watch, room)
    changes: list[Change] | None = []
    lived: list[Period] = []
    if isinstance(found, Entry):
        changes = await watch.changes.known(found)
        lived += periods(changes or [], True, watch.now())
    texts = common(page) | _facts(page, found, lived) | {"room_other_side": await _other_side(page, room)}
    texts |= empty(page, periods=NOT_READ if changes is None else NO_TIMES, ranks="This room has no ranks.")
    tables: dict[str, tuple[Row, ...]] = {"namespaces": namespaces(page), "periods": (), "ranks": ()}
    if isinstance(found, Entry):
        tables["periods"] = tuple(_period_row(number, period) for number, period in enumerate(lived))
        tables["ranks"] = tuple(_rank_row(found, rank) for rank in sorted(found.ranks))
    return View(texts, tables, {"timeline": _drawing(lived)})


class NotShown(NamedTuple):
    """Why a room cannot be shown: one word, and a sentence."""

    word: str
    text: str


ABSENT = NotShown("absent", "This room is not in the table: never opened, cleared, expired or evicted.")


async def read(watch: Watch, room: int) -> Entry | NotShown:
    """Return a room, or why there is none to show."""
    try:
        return await watch.store.entry(room) or ABSENT
    except CorruptEntryError as error:
        return NotShown("corrupt", f"{error} (here: kvpoll clear {error.room} -n {watch.name})")
    except KVPollError as error:
        return ABSENT if watch.state.word == "absent" else NotShown("not known", str(error))


def _facts(page: Page, found: Entry | NotShown, lived: list[Period]) -> dict[str, Cell]:
    if isinstance(found, NotShown):
        nothing = {name: Cell(formats.NONE, "dim") for name, _ in FACTS}
        return nothing | {"room_status": Cell(found.word, "dim"), "message": Cell(found.text)}
    now = page.watch.now()
    ranks = "" if not found.world_size else f"{len(found.ranks)} of {found.world_size} have written"
    since = _since(found, lived)
    is_stuck = not found.status.is_terminal and now - since > page.watch.snapshot.stuck_after
    return {
        "message": Cell(""),
        "room_status": status_cell(found.status),
        "room_reason": Cell(found.reason or formats.NONE),
        "room_failed_by": Cell(found.failed_by or formats.NONE),
        "room_since": Cell(formats.duration(now - since), "bad" if is_stuck else ""),
        "room_opened": Cell(f"{formats.clock(found.opened_at)} UTC, {formats.duration(now - found.opened_at)} ago"),
        "room_ttl": Cell(formats.duration(found.ttl)),
        "room_request": Cell(found.request or formats.NONE),
        "room_owner": Cell(found.owner or formats.NONE),
        "room_generation": Cell(str(found.generation) if found.generation else formats.NONE),
        "room_ranks": Cell(ranks or "no ranks"),
    }


def _since(found: Entry, lived: list[Period]) -> float:
    """Since when a room is at its status. Its last write may be a rank's, after which they agree on the same.

    Of a restored room, the feed begins with the restore.
    """
    begun = [period.since for period in lived[-1:] if period.is_current and period.state == found.status.name]
    return min([found.updated_at, *begun])


async def _other_side(page: Page, room: int) -> Cell:
    """The same room in the table of the other role, if that is watched, too."""
    base, _, role = page.watch.name.rpartition("-")
    name = f"{base}-{_SIDES.get(role, '')}"
    other = page.watches.get(name)
    if other is None:
        return Cell(formats.NONE)
    found = await read(other, room)
    if isinstance(found, NotShown):
        return Cell(f"{name}: {found.word}", "dim", page.room_link(room, name))
    why = f", {found.reason}" if found.reason else ""
    return Cell(f"{name}: {found.status.name}{why}", "", page.room_link(room, name))


def _period_row(number: int, period: Period) -> Row:
    lasted = formats.duration(_seconds(period)) + (", until now" if period.is_current else "")
    cells = (
        Cell(formats.clock(period.since, 3)),
        status_cell(KVPoll.__members__.get(period.state), period.state),
        Cell("" if period.until is None else lasted),
        Cell(period.reason),
        Cell(", ".join(f"{change} {formats.clock(at, 3)}" for at, change in period.ranks)),
    )
    return Row(str(number), cells)


def _rank_row(found: Entry, rank: int) -> Row:
    status = found.ranks[rank]
    note = "has cleared" if rank in found.cleared else ""
    return Row(str(rank), (Cell(str(rank)), status_cell(status), Cell(note)))


def _seconds(period: Period) -> float:
    return 0.0 if period.until is None else max(0.0, period.until - period.since)


def _drawing(lived: list[Period]) -> Drawing:
    """A bar whose parts are as long as the room was at each status; what it waits for after its end is no part."""
    found = [(KVPoll[period.state], _seconds(period)) for period in lived if period.state in KVPoll.__members__]
    total = sum(seconds for status, seconds in found if status in LIVE) or 1.0
    paths, lasted = dict.fromkeys(STATUSES, ""), dict.fromkeys(STATUSES, 0.0)
    left = 0.0
    for status, seconds in found:
        width = WIDTH * seconds / total if status in LIVE else 0.0
        paths[status] += f"M{left:.4g} 0h{width:.4g}v{HEIGHT}h-{width:.4g}z"
        lasted[status] += seconds
        left += width
    shown = tuple(formats.duration(lasted[status]) if lasted[status] else formats.NONE for status in STATUSES)
    return Drawing(tuple(paths.values()), "", shown)


def body(page: Page, view: View) -> Html:
    room = page.room or 0
    facts = [tag("div", tag("dt", title), slot(view, name, "dd")) for name, title in FACTS]
    head = tag(
        "div",
        tag("h2", f"Room {room}"),
        tag("code", f"0x{room:016x}"),
        tag("button", "Copy", type="button", class_="copy", hidden=True, data_text=str(room)),
        *_links(page, view),
        class_="roomhead",
    )
    return tag(
        "section",
        head,
        tag("p", slot(view, "message"), class_="note"),
        tag("dl", *facts, class_="facts"),
        section("Times", _bar(view), table(view, "periods", PERIODS, "Times", "cards")),
        section("Ranks", table(view, "ranks", ("Rank", "Status", "Note"), "Ranks", "cards")),
        *_actions(page, view),
    )


NO_TIMES = "The feed has no change of this room: it keeps only the latest changes, or none."
NOT_READ = "The changes of this room are not read yet. The page adds them as soon as they are."


def _bar(view: View) -> Html:
    drawing = view.charts["timeline"]
    pairs = list(zip(STATUSES, drawing.paths, drawing.latest, strict=True))
    paths = [
        tag("path", d=path, data_series=status.name, class_=f"area {formats.TONE_OF[status]}")
        for status, path, _ in pairs
    ]
    legend = [
        tag("li", tag("span", status.name), " ", tag("b", latest, data_latest=True), class_=formats.TONE_OF[status])
        for status, _, latest in pairs
    ]
    plot = tag("svg", *paths, viewBox=f"0 0 {WIDTH} {HEIGHT}", preserveAspectRatio="none", aria_hidden="true")
    return tag("figure", plot, tag("ul", *legend, class_="legend area"), data_chart="timeline", class_="timeline")


def _links(page: Page, view: View) -> list[Html]:
    """Links to logs and traces, by the templates of the command line; only the parts that it names are put in."""
    request = view.texts["room_request"].text
    room = page.room or 0
    parts = {
        "namespace": page.watch.name,
        "room": str(room),
        "room_hex": f"0x{room:x}",
        "request": "" if request == formats.NONE else request,
    }
    found = []
    for title, template in (("Logs", page.config.log_url), ("Trace", page.config.trace_url)):
        if template:
            address = template.format(**{name: encoded(value) for name, value in parts.items()})
            found.append(tag("a", title, href=address, rel="noreferrer", class_="button"))
    return found


def _actions(page: Page, view: View) -> list[Html]:
    """The forms that change the room; each wants the room's number typed."""
    if not page.config.allow_actions:
        return []
    return [
        section(
            "Act",
            tag(
                "div",
                _form(page, "abort", ABORT, "Abort this room"),
                _form(page, "clear", CLEAR, "Clear this room"),
                class_="acts",
            ),
        )
    ]


ABORT = "Fails the room for all its ranks, with your reason. In SGLang, abort in decode's table to end both sides."
CLEAR = "Removes the room from the table. In SGLang it does not end the request."


def _form(page: Page, action: str, what: str, title: str) -> Html:
    reason = tag("label", tag("span", "Reason"), tag("input", name="reason", maxlength="200", autocomplete="off"))
    return tag(
        "form",
        tag("h3", title),
        tag("p", what),
        reason if action == "abort" else None,
        tag(
            "label",
            tag("span", "Type the room's number to confirm"),
            tag(
                "input", name="confirm", required=True, inputmode="numeric", autocomplete="off", pattern=str(page.room)
            ),
        ),
        tag("button", title, type="submit", class_="danger"),
        method="post",
        action=page.link(f"/room/{page.room}/{action}"),
    )


SCREEN = Screen("/room", "Room", view, body)
