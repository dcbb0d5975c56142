"""The table of releases in docs/sglang.md. Neighbours that are alike share a row."""

from __future__ import annotations

import itertools
import re

RELEASES = (
    *("0.5.12", "0.5.12.post1", "0.5.13", "0.5.13.post1", "0.5.14", "0.5.15", "0.5.15.post1", "0.5.16", "0.5.17"),
    *("0.5.18", "0.5.19", "0.5.20", "0.5.21", "0.5.22", "0.5.23"),
)
START, END = "<!-- releases: start -->\n", "<!-- releases: end -->\n"
HEAD = (
    "| SGLang | the table | request ids | pipelines | decode defers | prefill knows aborts | on SGLang's own dicts |\n"
    "|---|---|---|---|---|---|---|\n"
)  # fmt: skip


def read(page: str) -> dict[str, str]:
    """Return the cells of each release that the page's table has."""
    table, found = page.partition(START)[2].partition(END)[0], {}
    for first, last, cells in re.findall(r"^\| (\d[\w.]*)(?: to (\d[\w.]*))? \| (.*) \|$", table, re.MULTILINE):
        for release in RELEASES[RELEASES.index(first) : RELEASES.index(last or first) + 1]:
            found[release] = cells
    return found


def write(page: str, cells: dict[str, str]) -> str:
    """Return the page with the table of all releases."""
    before, after = page.partition(START)[0], page.partition(END)[2]
    return before + START + HEAD + "".join(_rows(cells)) + END + after


def _rows(cells: dict[str, str]) -> list[str]:
    rows = []
    for same, releases in itertools.groupby(RELEASES, key=cells.__getitem__):
        first, *others = releases
        rows.append(f"| {' to '.join([first, *others[-1:]])} | {same} |\n")
    return rows
