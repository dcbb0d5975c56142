"""The benchmark's pictures show the tables' figures, and are legible."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from bench import pictures
from bench.measure import Spread
from bench.results import Budget, Row, Section

SVG = "{http://www.w3.org/2000/svg}"
RATIOS = Section("ratios", "Ours <beside> theirs", "ours / theirs")
RATIOS.rows = [
    Row("update & co", "SET", "us", 5, 10, Spread(0.5, 0.4, 0.6), Budget(1.0)),
    Row("poll", "MGET", "us", 30, 10, Spread(3.0, 1.0, 90.0), Budget(2.0)),
    Row("touch, of a name that is far too long to stand beside its bar", "EXPIRE", "us", 1, 1, Spread(1, 1, 1)),
]
PEERS = Section("peers", "4 processes", "times faster", pictured="theirs")
PEERS.rows = [
    Row("ours (ours)", "", "per_second", 1000, 1000, Spread(1, 1, 1), note="correct"),
    Row("others", "", "per_second", 1000, 100_000, Spread(0.01, 0.01, 0.01), note="7 wrong"),
    Row("missing", "", "per_second", None, None, None, note="not installed: Debian's it"),
]
KNOWN = Section("known", "Known", "times faster", ours="median", theirs="p99", pictured="ours")
KNOWN.rows = [Row("ours (ours)", "store.wait", "ms", 0.5, 2.0, Spread(1, 1, 1))]


def drawn(section):
    return ElementTree.fromstring(pictures.draw(section))  # noqa: S314 - our own


def bars(root):
    return [rect for rect in root.iter(f"{SVG}rect") if rect.get("class") != "back"]


def width(bar):
    return float(bar.get("width"))


def test_bars_have_the_length_and_colour_of_their_figures():
    within, over, free = bars(drawn(RATIOS))
    assert width(over) / width(within) == pytest.approx(6, rel=0.01)
    assert width(free) / width(within) == pytest.approx(2, rel=0.01)
    assert [bar.get("class") for bar in (within, over, free)] == ["within", "over", "none"]
    budgets = [
        float(line.get("x1")) - 300 for line in drawn(RATIOS).iter(f"{SVG}line") if line.get("class") == "budget"
    ]
    assert budgets == [pytest.approx(2 * width(within), rel=0.01), pytest.approx(4 * width(within), rel=0.01)]


def test_wide_range_is_drawn_by_powers_of_ten():
    ours, theirs = bars(drawn(PEERS))
    ticks = [float(line.get("x1")) for line in drawn(PEERS).iter(f"{SVG}line") if line.get("class") == "grid"]
    assert width(theirs) - width(ours) == pytest.approx(2 * (ticks[1] - ticks[0]), abs=0.5)
    assert [bar.get("class") for bar in (ours, theirs)] == ["ours", "over"]


@pytest.mark.parametrize("section", [RATIOS, PEERS, KNOWN], ids=lambda section: section.id)
def test_picture_fits_and_is_described_in_words(section):
    root = drawn(section)
    _, _, wide, high = map(float, root.get("viewBox").split())
    assert root.get("role") == "img"
    assert root.find(f"{SVG}title").text == section.title
    description = root.find(f"{SVG}desc").text
    assert all(f"{row.name}: " in description or f"{row.name} / {row.against}: " in description for row in section.rows)
    for line in root.iter(f"{SVG}line"):
        assert all(0 <= float(line.get(x)) <= wide for x in ("x1", "x2"))
        assert all(0 <= float(line.get(y)) <= high for y in ("y1", "y2"))
    for text in root.iter(f"{SVG}text"):
        x, size = float(text.get("x")), 7.6 * len(text.text)
        if text.get("text-anchor") == "end":
            assert x - size >= 0, text.text
        elif text.get("text-anchor") is None:
            assert x + size * (0.85 if text.get("class") == "small" else 1) <= wide, text.text


def test_missing_row_is_named_without_a_bar():
    root = drawn(PEERS)
    assert len(bars(root)) == 2
    assert "not installed: Debian's it" in [text.text for text in root.iter(f"{SVG}text")]
