"""A run's results: tables for a terminal, JSON, and Markdown for the docs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from bench import pictures
from bench.results import Row, Section, measured, plain, value
from redis_kvpoll import InvalidInputError

START, END = MARKERS = "<!-- bench: start -->", "<!-- bench: end -->"
Markers = tuple[str, str]
"""The lines of a page around a run's tables; each kind of run has its own."""

Environment = dict[str, str | int]


def show(console: Console, sections: list[Section], environment: Environment) -> None:
    """Print all tables with aligned columns."""
    console.print(_described(environment), style="dim", highlight=False)
    for section in sections:
        console.print(_table(section))
    over = [row for section in sections for row in section.rows if row.result == "over"]
    held = sum(row.budget is not None for section in sections for row in section.rows)
    style = "bold yellow" if over else "bold green"
    console.print(f"{held - len(over)} of {held} budgets are kept.", style=style, highlight=False)


def _table(section: Section) -> Table:
    table = Table(title=section.title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    table.padding = (0, 1, 0, 0)
    columns = _columns(section)
    for header, width, right in columns.values():
        table.add_column(header, justify="right" if right else "left", min_width=width, no_wrap=True)
    for row in section.rows:
        cells = _cells(row)
        cells["result"] = f"[{_colour(row)}]{row.result}[/]" if row.result else ""
        table.add_row(*(cells[column] for column in columns))
    return table


def as_json(
    sections: list[Section], environment: Environment, settings: dict[str, Any], seconds: float
) -> dict[str, Any]:
    """All results as JSON's types. Times are in microseconds."""
    return {
        "environment": environment,
        "settings": settings,
        "took_seconds": round(seconds, 1),
        "sections": [
            {
                "id": section.id,
                "title": section.title,
                "figure": section.figure,
                "rows": [asdict(row) | {"result": row.result} for row in section.rows],
            }
            for section in sections
        ],
        **{name: figures for section in sections for name, figures in section.named.items()},
    }


def as_markdown(sections: list[Section], environment: Environment, pictures_in: str) -> str:
    """All tables, each below its picture, which is in a folder beside the page."""
    lines = [_described(environment)]
    for section in sections:
        columns = _columns(section) | {"lacks": ("what it does not give", 0, False)}
        if not any(row.lacks for row in section.rows):
            del columns["lacks"]
        lines += ["", f"### {section.title}", "", f"![{section.title}]({pictures_in}/{section.id}.svg)", ""]
        lines.append("| " + " | ".join(header for header, _, _ in columns.values()) + " |")
        lines.append("|" + "|".join("--:" if right else "---" for _, _, right in columns.values()) + "|")
        for row in section.rows:
            cells = _cells(row)
            lines.append("| " + " | ".join(cells[column] for column in columns) + " |")
    return "\n".join(lines)


def check_markers(page: Path, markers: Markers) -> None:
    """Raise InvalidInputError for a page without markers, OSError where its pictures have no folder."""
    try:
        text = page.read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidInputError(f"--markdown {page}: {error.strerror}") from None
    start, end = markers
    if text.count(start) != 1 or text.count(end) != 1 or text.index(start) > text.index(end):
        raise InvalidInputError(f"--markdown {page}: it must have one line {start} and, below, one line {end}")
    page.with_suffix("").mkdir(exist_ok=True)  # for the pictures


def write_page(page: Path, sections: list[Section], environment: Environment, markers: Markers) -> None:
    """Write the tables between the page's markers, and their pictures into a folder with the page's name."""
    folder = page.with_suffix("")
    for section in sections:
        (folder / f"{section.id}.svg").write_text(pictures.draw(section), encoding="utf-8")
    refresh(page, as_markdown(sections, environment, folder.name), markers)


def refresh(page: Path, markdown: str, markers: Markers) -> None:
    """Write the tables between the page's markers."""
    (start, end), text = markers, page.read_text(encoding="utf-8")
    head, tail = text.split(start)[0], text.split(end)[1]
    page.write_text(f"{head}{start}\n{markdown}\n{end}{tail}", encoding="utf-8")


def _described(facts: Environment) -> str:
    cpus = "one CPU" if facts["cpus"] == 1 else f"{facts['cpus']} CPUs"
    beside = "".join(f", {name} {facts[name]}" for name in ("SGLang", "torch") if name in facts)
    return (
        f"{facts['server']} by {facts['transport']}; {facts['system']} on {cpus};\n"
        f"{facts['python']}, redis-py {facts['redis-py']} ({facts['protocol']}), hiredis {facts['hiredis']}{beside}"
    )


def _columns(section: Section) -> dict[str, tuple[str, int, bool]]:
    """Header, minimum width and alignment of each column that is not empty."""
    columns = {
        "name": ("operation", 25, False),
        "ours": (section.ours, 8, True),
        "against": ("beside", 15, False),
        "theirs": (section.theirs, 8, True),
        "figure": (section.figure, 16, True),
        "budget": ("budget", 6, True),
        "result": ("result", 7, False),
    }
    filled = [_cells(row) for row in section.rows]
    return {key: column for key, column in columns.items() if any(cells[key] for cells in filled)}


def _cells(row: Row) -> dict[str, str]:
    budget = ""
    if row.budget is not None:
        budget = f"{'≥' if row.budget.at_least else '≤'} {row.budget.limit:g}"
    return {
        "name": row.name,
        "ours": "" if row.unit == "bytes" else value(row, row.ours),
        "against": row.against,
        "theirs": value(row, row.theirs),
        "figure": _figure(row),
        "budget": budget,
        "result": row.result,
        "lacks": row.lacks,
    }


def _figure(row: Row) -> str:
    if (figure := row.figure) is None:
        return ""
    if row.unit == "bytes" and figure.low == figure.high:
        return measured("bytes", figure.median)
    shown = plain(figure.median)
    if figure.low != figure.high:
        shown += f" ({plain(figure.low)}–{plain(figure.high)})"  # noqa: RUF001 - a range has an en dash
    return f"{shown} B" if row.unit == "bytes" else shown


def _colour(row: Row) -> str:
    return "green" if row.result in ("within", "correct") else "bold yellow"
