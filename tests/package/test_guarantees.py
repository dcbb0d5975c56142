"""docs/guarantees.md names a test for each promise, and these tests exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/guarantees.md").read_text(encoding="utf-8")


def test_each_promise_has_an_existing_test():
    rows = re.findall(r"^\| (?!promise|---)(.+) \| (.*) \| (.+) \|$", PAGE, re.MULTILINE)
    assert len(rows) > 20
    for promise, _, held_by in rows:
        assert re.search(r"\]\(\.\./tests/", held_by), promise
    for path in re.findall(r"\]\(\.\./([^)]+)\)", PAGE):
        assert "def test_" in (ROOT / path).read_text(encoding="utf-8"), path
