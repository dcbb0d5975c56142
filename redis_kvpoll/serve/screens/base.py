"""What all pages share: the request for one, the numbers above each, and tables as HTML."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import quote, urlencode

from redis_kvpoll.model import KVPoll
from redis_kvpoll.serve import formats
from redis_kvpoll.serve.config import ServeConfig
from redis_kvpoll.serve.markup import Content, Html, join, tag
from redis_kvpoll.serve.view import Cell, Row, View
from redis_kvpoll.serve.watch import Watch


@dataclass(frozen=True, slots=True)
class Page:
    """One page that somebody asks for."""

    config: ServeConfig
    watches: Mapping[str, Watch]
    watch: Watch
    query: Mapping[str, str] = field(default_factory=dict)
    """What the address says besides the namespace."""
    room: int | None = None

    def link(self, path: str, namespace: str = "", **query: str) -> str:
        """Return the address of another page, of this namespace unless another is given."""
        named = {"n": namespace or self.watch.name, **{name: value for name, value in query.items() if value}}
        if len(self.watches) == 1:
            del named["n"]
        return f"{self.config.root}{path}" + (f"?{urlencode(named)}" if named else "")

    def room_link(self, room: int, namespace: str = "") -> str:
        return self.link(f"/room/{room}", namespace)


class Screen(NamedTuple):
    """A kind of page."""

    path: str
    title: str
    view: Callable[[Page], Awaitable[View]]
    body: Callable[[Page, View], Html]
    key: str = ""
    """The key that leads to it."""


NUMBERS = (
    ("live", "Live rooms"),
    ("opened", "Opened"),
    ("succeeded", "Success"),
    ("failing", "Failed"),
    ("oldest", "Oldest live"),
    ("stuck", "Stuck"),
    ("refused", "Refused writes"),
)
UNKNOWN = "Not known yet: the table has not been read."
HIGH_SHARE = 0.05
"""Of the rooms that end: as in the alert KVPollFailureRatioHigh."""


def common(page: Page) -> dict[str, Cell]:
    """Return the texts that are on every page: the state, and the seven numbers."""
    watch, snapshot = page.watch, page.watch.snapshot
    state, rates = watch.state, snapshot.rates
    is_known = rates.seconds > 0
    oldest = max((age for age in snapshot.oldest.values() if age is not None), default=None)
    stuck = sum(snapshot.stuck.values())
    share = rates.failed_share
    failed = formats.rate(rates.failed) + (f" · {share:.1%}" if share else "")
    texts = {
        "state": Cell(state.text, state.tone),
        "detail": Cell(state.detail),
        "at": Cell(f"{formats.clock(snapshot.at)} UTC" if snapshot.at else formats.NONE),
        "live": Cell(formats.count(snapshot.live)),
        "opened": Cell(formats.rate(rates.opened)),
        "succeeded": Cell(formats.rate(rates.succeeded)),
        "failing": Cell(failed, "bad" if share and share > HIGH_SHARE else "", page.link("/failed")),
        "oldest": Cell(formats.duration(oldest)),
        "stuck": Cell(formats.count(stuck), "bad" if stuck else "", page.link("/", stuck="1")),
        "refused": Cell(formats.NONE, "dim") if rates.refused is None else Cell(formats.rate(rates.refused)),
    }
    if not is_known:
        texts |= {name: Cell(formats.NONE, "dim") for name in ("opened", "succeeded", "failing")}
    if not snapshot.counts or snapshot.lag_seconds == float("inf"):
        texts |= {name: Cell(formats.NONE, "dim") for name in ("live", "oldest", "stuck")}
    return texts


def namespaces(page: Page) -> tuple[Row, ...]:
    """Return a row for each namespace: its link and its state."""
    return tuple(
        Row(name, (Cell(name, "", page.link("/", name)), Cell(watch.state.word, watch.state.tone)))
        for name, watch in page.watches.items()
    )


def describe(watch: Watch) -> str:
    """Return what kind of table it is, in a few words."""
    found = watch.described()
    if not found["policy"]:
        return ""
    shards = "1 shard" if found["shards"] == "1" else f"{found['shards']} shards"
    server = " ".join(filter(None, (found.get("server", ""), found.get("server_version", ""))))
    return " · ".join(filter(None, (server, found["policy"], shards)))


def slot(view: View, name: str, element: str = "span") -> Html:
    """An element whose text is one of the View's, and follows it."""
    return _filled(element, view.texts.get(name, Cell("")), data_slot=name)


def empty(page: Page, **texts: str) -> dict[str, Cell]:
    """Return what is said of each table while it has no row: the text, if that is known to be so."""
    is_known = page.watch.snapshot.lag_seconds != float("inf")
    return {f"{name}_empty": Cell(text if is_known else UNKNOWN) for name, text in texts.items()}


def table(view: View, name: str, columns: Iterable[str], caption: str, class_: str = "") -> Html:
    """A table of the View, with what is said instead while it has no row; see ``empty``."""
    heads, rows = tuple(columns), view.tables.get(name, ())
    body = [tag("tr", *cells_of(row, heads), data_key=row.key) for row in rows]
    whole = tag(
        "table",
        tag("caption", caption, class_="hidden"),
        tag("thead", tag("tr", *(tag("th", head, scope="col") for head in heads))),
        tag("tbody", *body, data_table=name),
        class_=class_ or None,
        hidden=not rows,
    )
    instead = tag("p", slot(view, f"{name}_empty"), class_="empty", data_empty=name, hidden=bool(rows))
    return join([tag("div", whole, class_="scroll"), instead])


def cells_of(row: Row, heads: tuple[str, ...]) -> Iterable[Html]:
    """The cells of a row as HTML, the first one as its head."""
    for number, (head, cell) in enumerate(zip(heads, row.cells, strict=True)):
        name, scope = ("td", None) if number else ("th", "row")
        yield _filled(name, cell, scope=scope, data_label=head)


def items(view: View, name: str, class_: str) -> Html:
    """A list of the View; each item has the cells of a row."""
    return tag(
        "ul",
        *(tag("li", *(_filled("span", cell) for cell in row.cells), data_key=row.key) for row in view.tables[name]),
        class_=class_,
        data_table=name,
    )


def _filled(element: str, cell: Cell, **attributes: str | bool | None) -> Html:
    content: Content = tag("a", cell.text, href=cell.href) if cell.href else cell.text
    return tag(element, content, data_tone=cell.tone or None, **attributes)


def section(title: str, *content: Content, class_: str | None = None) -> Html:
    return tag("section", tag("h2", title), *content, class_=class_)


def encoded(text: str) -> str:
    """A part of an address."""
    return quote(text, safe="")


def status_cell(status: KVPoll | None, nothing: str = "corrupt") -> Cell:
    """A status, or what it means that there is none."""
    return Cell(nothing, "dim") if status is None else Cell(status.name, formats.TONE_OF[status])
