"""A table as a picture: a bar per row, as SVG, legible on light and dark."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from bench.results import Row, Section, measured, value

_WIDTH = 940
_LEFT, _RIGHT = 300, 620
"""Where the bars begin and end, between names and figures."""
_TOP, _ROW, _BAR = 64, 30, 14
_LOG_FROM = 25
"""A range as wide as this is drawn by powers of ten."""
_MAX_NAME = 38

_STYLE = """
  svg { font: 13px system-ui, sans-serif; }
  .back { fill: #ffffff; stroke: #d0d7de; } text { fill: #1f2328; } .small { font-size: 11px; fill: #59636e; }
  .title { font-size: 15px; font-weight: 600; } .grid { stroke: #d8dee4; }
  .spread { stroke: #1f2328; stroke-width: 1.5; }
  .none { fill: #6b8fb5; } .within { fill: #2f9e58; } .over { fill: #e08a1e; } .ours { fill: #3b6fd4; }
  .budget { stroke: #c9252d; stroke-width: 2; }
  @media (prefers-color-scheme: dark) {
    .back { fill: #0d1117; stroke: #3d444d; } text { fill: #e6edf3; } .small { fill: #9198a1; }
    .grid { stroke: #2a313c; } .spread { stroke: #e6edf3; } .none { fill: #5f7f9f; } .within { fill: #2ea258; }
    .over { fill: #d98a2b; } .ours { fill: #5a8bea; } .budget { stroke: #ff7b72; }
  }"""


@dataclass(frozen=True, slots=True)
class Bar:
    """The picture of a row."""

    name: str
    length: float | None
    low: float
    high: float
    budget: float | None
    shown: str
    kind: str


def draw(section: Section) -> str:
    """The SVG of a section."""
    bars = [_bar(section, row) for row in section.rows]
    place, ticks, by_tens = _scale(bars, longest=10 if section.pictured == "ours" else 2)
    scale = "; each upright line ten times the one before" if by_tens else ""
    height = _TOP + _ROW * len(bars) + 34
    bottom = _TOP + _ROW * len(bars)
    description = "; ".join(f"{bar.name}: {bar.shown}" for bar in bars)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}"',
        f'height="{height}" role="img" aria-labelledby="title desc">',
        f'<title id="title">{escape(section.title)}</title>',
        f'<desc id="desc">{escape(description)}</desc>',
        f"<style>{_STYLE}\n</style>",
        f'<rect class="back" x="0.5" y="0.5" width="{_WIDTH - 1}" height="{height - 1}" rx="6"/>',
        f'<text class="title" x="16" y="26">{escape(section.title)}</text>',
        f'<text class="small" x="16" y="45">{escape(_legend(section, bars))}{scale}</text>',
    ]
    for tick in ticks:
        x = place(tick)
        parts.append(f'<line class="grid" x1="{x:.1f}" y1="{_TOP - 6}" x2="{x:.1f}" y2="{bottom}"/>')
        parts.append(f'<text class="small" x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{_tick(tick)}</text>')
    for number, bar in enumerate(bars):
        parts += _row(bar, _TOP + _ROW * number, place)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _row(bar: Bar, top: float, place: Callable[[float], float]) -> list[str]:
    middle = top + _ROW / 2
    name = bar.name if len(bar.name) <= _MAX_NAME else bar.name[: _MAX_NAME - 1] + "…"
    parts = [f'<text x="{_LEFT - 10}" y="{middle + 4:.1f}" text-anchor="end">{escape(name)}</text>']
    if bar.length is None:
        return [*parts, f'<text class="small" x="{_LEFT + 6}" y="{middle + 4:.1f}">{escape(bar.shown)}</text>']
    end = place(bar.length)
    parts.append(
        f'<rect class="{bar.kind}" x="{_LEFT}" y="{middle - _BAR / 2:.1f}" width="{max(end - _LEFT, 1):.1f}" '
        f'height="{_BAR}" rx="2"/>'
    )
    if bar.low != bar.high:
        low, high = place(bar.low), place(bar.high)
        parts.append(f'<line class="spread" x1="{low:.1f}" y1="{middle:.1f}" x2="{high:.1f}" y2="{middle:.1f}"/>')
    if bar.budget is not None:
        x = place(bar.budget)
        parts.append(f'<line class="budget" x1="{x:.1f}" y1="{top + 2:.1f}" x2="{x:.1f}" y2="{top + _ROW - 2:.1f}"/>')
    parts.append(f'<text x="{_RIGHT + 14}" y="{middle + 4:.1f}">{escape(bar.shown)}</text>')
    return parts


def _bar(section: Section, row: Row) -> Bar:
    """The bar of a row, and the text behind it."""
    if row.figure is None:
        return Bar(row.name, None, 0, 0, None, row.note, "none")
    result = f", {row.result}" if row.note else ""
    if section.pictured != "figure":
        drawn = row.ours if section.pictured == "ours" else row.theirs
        assert drawn is not None  # noqa: S101 - such a section's rows have it
        kind = "ours" if "ours" in row.name else "over" if _is_wrong(row) else "none"
        if section.pictured == "theirs":
            return Bar(row.name, drawn, drawn, drawn, None, value(row, drawn) + result, kind)
        assert row.theirs is not None  # noqa: S101 - as above
        shown = f"{value(row, drawn)}, {section.theirs} {value(row, row.theirs)}"
        return Bar(row.name, drawn, drawn, row.theirs, None, shown, kind)
    figure, limit = row.figure, row.budget.limit if row.budget else None
    shown = measured(row.unit if row.unit == "bytes" else "ratio", figure.median)
    if row.budget:
        shown += f", budget {'≥' if row.budget.at_least else '≤'} {limit:g}"
    kind = row.result if row.result in ("within", "over") else "none"
    name = f"{row.name} / {row.against}" if section.figure == "ours / theirs" else row.name
    name = name if len(name) <= _MAX_NAME else row.name
    return Bar(name, figure.median, figure.low, figure.high, limit, shown + result, kind)


def _is_wrong(row: Row) -> bool:
    return row.result not in ("", "correct")


def _legend(section: Section, bars: Sequence[Bar]) -> str:
    if section.pictured == "theirs" and section.rows[0].unit == "per_second":
        wrong = "; orange: not correct" if any(_is_wrong(row) for row in section.rows if row.figure) else ""
        return f"calls a second: the more, the better{wrong}"
    if section.pictured == "theirs":
        return "time: the less, the better"
    if section.pictured == "ours":
        return f"bar: {section.ours}; thin line: up to {section.theirs}; the less, the better"
    legend = f"{section.figure}; bar: the median"
    if any(bar.low != bar.high for bar in bars):
        legend += "; thin line: the smallest and the largest"
    if any(bar.budget is not None for bar in bars):
        legend += "; upright line: the budget (green: within, orange: over)"
    return legend


def _scale(bars: Sequence[Bar], longest: float) -> tuple[Callable[[float], float], list[float], bool]:
    """The position of a value, the grid, and whether it goes by powers of ten. A value off the scale is at its end."""
    lengths = [bar.length for bar in bars if bar.length is not None] or [1.0]
    drawn = lengths + [bar.budget for bar in bars if bar.budget is not None]
    # One outlier must not flatten all bars.
    most = max([*drawn, *(min(bar.high, longest * bar.length) for bar in bars if bar.length is not None)])
    if max(drawn) / min(drawn) > _LOG_FROM:
        return *_by_tens(min(drawn), most), True
    top = most * 1.05
    step = next(s for s in _steps(top) if top / s <= 6)
    ticks = [step * n for n in range(int(top / step) + 1)]
    return (lambda at: _LEFT + (_RIGHT - _LEFT) * min(max(at / top, 0), 1)), ticks, False


def _by_tens(least: float, most: float) -> tuple[Callable[[float], float], list[float]]:
    first, last = math.floor(math.log10(least) - 0.05), math.ceil(math.log10(most))
    wide = (_RIGHT - _LEFT) / (last - first)

    def place(at: float) -> float:
        return _LEFT + wide * min(max(math.log10(max(at, 1e-12)) - first, 0), last - first)

    return place, [10.0**power for power in range(first, last + 1)]


def _steps(top: float) -> list[float]:
    base = 10.0 ** math.floor(math.log10(top))
    return [base * factor for factor in (0.1, 0.2, 0.5, 1, 2, 5)]


def _tick(at: float) -> str:
    if at < 10_000:
        return f"{at:g}"
    return f"{at / 1e3:g}k" if at < 1e6 else f"{at / 1e6:g}M"
