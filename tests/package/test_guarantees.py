"""docs/guarantees.md names a test for each guarantee, and these tests exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/guarantees.md").read_text(encoding="utf-8")


def test_each_guarantee_has_an_existing_test():
    rows = re.findall(r"^\| (?!guarantee|---)(.+) \| (.*) \| (.+) \|$", PAGE, re.MULTILINE)
    assert len(rows) > 20
    for guarantee, _, tests in rows:
        assert re.search(r"\]\(\.\./tests/", tests), guarantee
    for path in re.findall(r"\]\(\.\./([^)]+)\)", PAGE):
        assert "def test_" in (ROOT / path).read_text(encoding="utf-8"), path
