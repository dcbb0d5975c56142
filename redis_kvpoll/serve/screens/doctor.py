"""The page ``/doctor``: what ``kvpoll doctor`` finds, worst first; it looks once a minute."""

from __future__ import annotations

import time

from redis_kvpoll.serve import formats
from redis_kvpoll.serve.markup import Html, join, tag
from redis_kvpoll.serve.screens.base import Page, Screen, common, namespaces, section, slot, table
from redis_kvpoll.serve.view import Cell, Row, View

LEVELS = {
    -1: ("not known", "dim"),
    0: ("well", "good"),
    1: ("note", "dim"),
    2: ("warning", "warn"),
    3: ("problem", "bad"),
}
COLUMNS = ("Check", "Level", "Found", "Advice")


async def view(page: Page) -> View:
    watch = page.watch
    found = watch.examination.findings  # worst first
    rows = tuple(
        Row(each.check, (Cell(each.check), Cell(*LEVELS[each.level]), Cell(each.found), Cell(each.advice)))
        for each in found
    )
    if watch.examined_at is None:
        looked = Cell("The first look is under way.", "dim")
    else:
        worst = LEVELS[found[0].level][0] if found else "well"
        ago = formats.duration(time.time() - watch.examined_at)
        number = sum(each.level >= 2 for each in found)
        looked = Cell(
            f"Looked {ago} ago: " + (f"{number} to see to, the worst is a {worst}." if number else "all is well.")
        )
    return View(
        common(page) | {"looked": looked, "findings_empty": Cell("")},
        {"namespaces": namespaces(page), "findings": rows},
    )


def body(page: Page, view: View) -> Html:
    return section(
        "Doctor",
        join([tag("p", slot(view, "looked"), class_="note"), table(view, "findings", COLUMNS, "Findings", "cards")]),
    )


SCREEN = Screen("/doctor", "Doctor", view, body, "5")
