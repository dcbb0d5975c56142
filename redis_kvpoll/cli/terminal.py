"""What the commands print on a terminal, with rich: tables, colours, one room's fields, and the lines of a tail.

Invariant: a narrow terminal cuts nothing; what does not fit into a row is printed below it, by name. Only a command
that prints with rich imports this module.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence

from rich.console import Console, JustifyMethod
from rich.table import Column, Table
from rich.text import Text

from redis_kvpoll import validation
from redis_kvpoll.cli.durations import human
from redis_kvpoll.cli.rows import GAP, ROOM_COLUMNS, Line, local_time, zone
from redis_kvpoll.errors import printable
from redis_kvpoll.model import Entry, KVPoll
from redis_kvpoll.protocol.feed import Change, FeedGap
from redis_kvpoll.protocol.periods import rank_change, status_name

STATUS_STYLES = {
    KVPoll.Failed: "red",
    KVPoll.Bootstrapping: "dim",
    KVPoll.WaitingForInput: "yellow",
    KVPoll.Transferring: "cyan",
    KVPoll.Success: "green",
}
ALWAYS, NUMBERS, TIMES = ("owner", "state"), ("live", "failed"), ("lost at", "lease since")
OWNER_STYLES = {"alive": "green", "expired": "yellow", "suspected": "yellow", "lost": "red"}
MIN_WIDTHS = {"age": 100, "request": 140}
"""The width of a terminal from which on a list of rooms has a column."""
REASON_WIDTH = 20
"""The minimum width of a reason that needs it."""


def print_rooms(columns: Sequence[str], lines: list[Line]) -> None:
    """Print a list of rooms: where it is narrow, without their ages and requests, which ``kvpoll show`` has."""
    console = Console(highlight=False)
    table = Table(box=None, header_style="dim", pad_edge=False)
    columns = [name for name in columns if console.width >= MIN_WIDTHS.get(name, 0)]
    # On any width: an id that is cut cannot be copied.
    widths = {"room": len(str(validation.MAX_ROOM)), "status": max(len(s.name) for s in KVPoll)}
    for name in columns:
        right = name in ("age", "updated", "ttl")
        table.add_column(
            name, justify="right" if right else "left", no_wrap=name != "reason", min_width=widths.get(name)
        )
    left = console.width - sum(2 + _width(name, lines, widths.get(name, 0)) for name in columns if name != "reason")
    for line in lines:
        cells = {name: Text(cell) for name, cell in zip(ROOM_COLUMNS, line.cells, strict=False)}
        cells["reason"].truncate(left if left >= REASON_WIDTH else console.width - 12, overflow="ellipsis")
        cells["status"].stylize("bold red" if line.status is None else STATUS_STYLES[line.status])
        table.add_row(*(cells[name] for name in columns))
    print_table(console, table)


def _width(name: str, lines: list[Line], least: int) -> int:
    at = ROOM_COLUMNS.index(name)
    return max(least, len(name), *(len(line.cells[at]) for line in lines))


def print_owners(columns: Sequence[str], owners: Sequence[tuple[str, Sequence[str]]]) -> None:
    """Print a list of owners, each a state and the cells of ``columns``; columns without a cell are left out."""
    table = Table(box=None, header_style="dim", pad_edge=False)
    used = [at for at, name in enumerate(columns) if name in ALWAYS or any(cells[at] for _, cells in owners)]
    for at in used:
        name = columns[at]
        justify: JustifyMethod = "right" if name in NUMBERS else "left"
        table.add_column(name, justify=justify, no_wrap=name != "reason", overflow="fold")
    for state, row in owners:
        cells = [Text(short_time(row[at]) if columns[at] in TIMES else row[at]) for at in used]
        cells[1].stylize(OWNER_STYLES[state])
        table.add_row(*cells)
    console = Console(highlight=False)
    print_table(console, table)
    console.print(Text(f"times are {zone()}", "dim"))


def short_time(text: str) -> str:
    """A time without its milliseconds and its zone, which is said beside it; of today, without the day."""
    day, _, clock = text.partition(" ")
    is_today = day == local_time(time.time()).partition(" ")[0]
    return clock[: len("12:00:00")] if is_today else text[: len("2026-01-31 12:00:00")]


def print_plain(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table without colours."""
    table = Table(box=None, header_style="dim", pad_edge=False)
    for name in columns:
        table.add_column(name, no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))
    print_table(Console(highlight=False), table)


def print_entry(entry: Entry, owners: Mapping[int, str], process: str) -> None:
    """Print the fields of one room that have a value, in a pipe one a line.

    ``owners`` has each rank's owner, ``process`` is the owner's.
    """
    console = Console(highlight=False)
    fields = [(name, value) for name, value in _fields(entry, owners, process) if value]
    if not console.is_terminal:
        width = 2 + max(len(name) for name, _ in fields)
        for name, value in fields:
            console.print(Text.assemble(f"{name:<{width}}", value), soft_wrap=True)
        return
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in fields:
        grid.add_row(Text(name, "dim"), value if isinstance(value, Text) else Text(value))
    console.print(grid)


def _fields(entry: Entry, owners: Mapping[int, str], process: str) -> Iterator[tuple[str, str | Text]]:
    yield "room", str(entry.room)
    yield "status", Text(entry.status.name, STATUS_STYLES[entry.status])
    yield "reason", printable(entry.reason or "")
    yield "failed by", printable(entry.failed_by or "")
    yield "request", printable(entry.request or "")
    yield "owner", printable(entry.owner or "")
    yield "process", printable(process)
    yield "generation", "" if entry.generation is None else str(entry.generation)
    yield "opened", local_time(entry.opened_at)
    yield "restored", f"{local_time(entry.restored_at)} after a loss of data" if entry.restored_at else ""
    yield "updated", local_time(entry.updated_at)
    yield "ttl", human(entry.ttl)
    yield "decode prefix", "" if entry.decode_prefix_len is None else f"{entry.decode_prefix_len:,} tokens"
    if entry.world_size is not None:
        yield "world size", str(entry.world_size)
        for rank, status in sorted(entry.ranks.items()):
            cleared = ", cleared" if rank in entry.cleared else ""
            owner = f"  {printable(owners[rank])}" if rank in owners else ""
            yield f"rank {rank}", Text.assemble((status.name, STATUS_STYLES[status]), cleared, (owner, "dim"))
        yield "missing ranks", ranges([rank for rank in range(entry.world_size) if rank not in entry.ranks])


def ranges(numbers: list[int]) -> str:
    """Ascending numbers as ranges: 1, 4-7."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def print_changes(changes: Iterable[Change | FeedGap]) -> None:
    """Print a line for each change as it comes, below a line for each day."""
    console = Console(highlight=False)
    today = ""
    for change in changes:
        if isinstance(change, Change) and (day := local_time(change.at).partition(" ")[0]) != today:
            today = day
            console.print(Text(f"-- {day} ({zone(change.at)}) --", "dim"))
        console.print(change_line(change), soft_wrap=True)


def change_line(change: Change | FeedGap) -> Text:
    """The line of a change, in columns that fit into 80 with a rank: without the day and the time zone."""
    if isinstance(change, FeedGap):
        return Text(f"-- {GAP} --", "bold yellow")
    clock = local_time(change.at).partition(" ")[2][: len("12:00:00.000")]
    style = STATUS_STYLES[change.status] if change.status is not None else ""
    line = Text.assemble((f"{clock:12}", "dim"), f"  {change.room:<20}  ", (f"{status_name(change):<15}", style))
    line.append(f"  rank {rank_change(change)}" if change.rank is not None else "", "dim")
    line.append(f"  {printable(change.reason)}" if change.reason else "")
    line.rstrip()
    return line


def print_history(columns: Sequence[str], rows: list[tuple[str, ...]]) -> None:
    """Print a room's history, without empty columns; a rank is beside the status that results from it."""
    shown = [name for name in columns if name in ("since", "status") or any(row[columns.index(name)] for row in rows)]
    table = Table(box=None, header_style="dim", pad_edge=False)
    for name in shown:
        heading = f"{name} ({rows[0][0][-6:]})" if name == "since" and rows else name
        justify: JustifyMethod = "right" if name == "lasted" else "left"
        table.add_column(heading, justify=justify, no_wrap=name != "reason", overflow="fold")
    for row in rows:
        cells = {name: Text(cell) for name, cell in zip(columns, row, strict=True)}
        cells["since"] = Text(row[0][:23])
        cells["status"].stylize(STATUS_STYLES[KVPoll[row[1]]] if row[1] in KVPoll.__members__ else "dim")
        table.add_row(*(cells[name] for name in shown))
    print_table(Console(highlight=False), table)


def print_table(console: Console, table: Table) -> None:
    """Print a table; where the terminal is too narrow, the last cells of a row follow below it, by name."""
    columns = sorted(table.columns, key=lambda column: not column.no_wrap)
    rows = list(zip(*map(_texts, columns), strict=True))
    by_column = zip(columns, zip(*rows, strict=True), strict=True)
    widths = [max(column.min_width or 0, *(text.cell_len for text in texts)) for column, texts in by_column]
    needed = [w if column.no_wrap else min(w, REASON_WIDTH) for w, column in zip(widths, columns, strict=True)]
    if sum(needed) + 2 * (len(columns) - 1) <= console.width:
        console.print(table)
        return
    ends = itertools.accumulate(needed, lambda end, width: end + 2 + width)
    beside = max(1, sum(end <= console.width for end in ends))
    for row in rows:
        line = Text()
        for text, width, column in zip(row[:beside], widths, columns, strict=False):
            padding = " " * (width - text.cell_len)
            line += Text.assemble(padding, text) if column.justify == "right" else Text.assemble(text, padding)
            line += Text("  ")
        line.rstrip()
        console.print(line, soft_wrap=True)
        if row is not rows[0]:
            _print_below(console, zip(rows[0][beside:], row[beside:], strict=True))


def _print_below(console: Console, cells: Iterable[tuple[Text, Text]]) -> None:
    """Print the cells that did not fit into a row, each with its column's name; empty ones are left out."""
    below = Table.grid(padding=(0, 2, 0, 0))
    below.add_column(no_wrap=True)
    below.add_column(overflow="fold")
    for name, text in cells:
        if text:
            below.add_row(Text.assemble("    ", name), text)
    if below.row_count:
        console.print(below)


def _texts(column: Column) -> list[Text]:
    texts = (cell if isinstance(cell, Text) else Text(str(cell)) for cell in column.cells)
    return [Text(str(column.header), "dim"), *texts]
