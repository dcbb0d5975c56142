"""What a page shows at one moment: texts, tables and charts by name, all formatted.

The server renders a page from its View, and sends each later View as JSON; the page's script only puts the texts where
they belong. So formatting is in one place, and a page without scripts shows the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from redis_kvpoll.errors import printable
from redis_kvpoll.serve.charts import Drawing


class Cell(NamedTuple):
    """One cell of a table."""

    text: str
    tone: str = ""
    """What the text means, for its colour and the shape before it: good, warn, bad, dim, or of a status boot, wait,
    move, done, fail."""
    href: str = ""


class Row(NamedTuple):
    """One row of a table; the key is the same for the same thing at another moment."""

    key: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class View:
    """One page at one moment."""

    texts: Mapping[str, Cell] = field(default_factory=dict)
    tables: Mapping[str, tuple[Row, ...]] = field(default_factory=dict)
    charts: Mapping[str, Drawing] = field(default_factory=dict)

    def encoded(self, build: str) -> bytes:
        """Return the JSON for the page's script. ``build`` changes with the scripts: a page of another one reloads."""
        content = {
            "build": build,
            "texts": {name: _cell(cell) for name, cell in self.texts.items()},
            "tables": {name: [[row.key, *map(_cell, row.cells)] for row in rows] for name, rows in self.tables.items()},
            "charts": {name: drawing.encoded() for name, drawing in self.charts.items()},
        }
        return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def _cell(cell: Cell) -> list[str] | str:
    text = printable(cell.text)
    if cell.href:
        return [text, cell.tone, cell.href]
    return [text, cell.tone] if cell.tone else text
