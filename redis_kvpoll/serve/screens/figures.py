"""Charts as HTML: a drawing with its legend, its axes, and its numbers as a table."""

from __future__ import annotations

from typing import NamedTuple

from redis_kvpoll.serve import charts
from redis_kvpoll.serve.charts import Drawing
from redis_kvpoll.serve.markup import Html, tag
from redis_kvpoll.serve.screens.base import cells_of
from redis_kvpoll.serve.view import Cell, Row, View


class ChartLine(NamedTuple):
    """One series of a chart: its name and its tone."""

    name: str
    tone: str


def chart(
    view: View, name: str, title: str, lines: tuple[ChartLine, ...], kind: str = "line", bottom: str = ""
) -> Html:
    """A chart of the View, with its legend, its axes, and its numbers as a table; it begins at ``bottom``, or 0."""
    drawing = view.charts[name]
    axis = tag("p", tag("span", "15 min ago"), tag("span", "now"), class_="axis", aria_hidden="true")
    hint = tag("p", class_="hint", hidden=True, aria_hidden="true")
    scale = [tag("span", drawing.top, class_="top", data_top=True)]
    if bottom:  # a 0 would only cover what is drawn there
        scale.append(tag("span", bottom, class_="bottom"))
    return tag(
        "figure",
        tag("figcaption", title),
        _legend(drawing, lines, kind),
        tag("div", _plot(drawing, title, lines, kind), *scale, hint, class_="plot"),
        axis,
        _as_table(drawing, title, lines),
        data_chart=name,
        data_rows=len(drawing.rows),
    )


def _plot(drawing: Drawing, title: str, lines: tuple[ChartLine, ...], kind: str) -> Html:
    paths = [
        tag("path", d=path, data_series=line.name, class_=f"{kind} {line.tone}")
        for line, path in zip(lines, drawing.paths, strict=True)
    ]
    grid = [tag("path", d=f"M0 {y}H{charts.WIDTH}", class_="grid") for y in (0.5, charts.HEIGHT / 2)]
    return tag(
        "svg",
        *grid,
        *paths,
        viewBox=f"0 0 {charts.WIDTH} {charts.HEIGHT}",
        preserveAspectRatio="none",
        role="img",
        aria_label=f"{title}, the last 15 minutes; the numbers are in the table below",
    )


def _legend(drawing: Drawing, lines: tuple[ChartLine, ...], kind: str) -> Html:
    items = [
        tag("li", tag("span", line.name, data_name=line.name), " ", tag("b", value, data_latest=True), class_=line.tone)
        for line, value in zip(lines, drawing.latest, strict=True)
    ]
    return tag("ul", *items, class_=f"legend {kind}")


def _as_table(drawing: Drawing, title: str, lines: tuple[ChartLine, ...]) -> Html:
    heads = ("UTC", *(line.name for line in lines))
    body = [tag("tr", *cells_of(Row(row[0], tuple(map(Cell, row))), heads), data_key=row[0]) for row in drawing.rows]
    whole = tag(
        "table",
        tag("caption", title, class_="hidden"),
        tag("thead", tag("tr", *(tag("th", head, scope="col") for head in heads))),
        tag("tbody", *body),
        class_="numbers",
    )
    scroll = tag("div", whole, class_="scroll tall", tabindex="0", role="region", aria_label=f"{title} as a table")
    return tag("details", tag("summary", "As table"), scroll)
