"""The progress line of a replay on terminals of any width."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from redis_kvpoll.cli.progress import LONGEST_PHASE, Progress
from redis_kvpoll.replay.router import ReplayProgress

RESULTS = {"crashed": 825, "success": 1380, "aborted": 106, "timed out": 0}


@pytest.mark.parametrize("width", [80, 100, 120])
def test_progress_line_cuts_no_word(width):
    out = io.StringIO()
    with Progress(Console(file=out, width=width, force_terminal=True, color_system=None), 30000) as progress:
        progress.show(ReplayProgress(LONGEST_PHASE, 2887, 2311, RESULTS, 81, 8, []))
    written = re.sub(r"\x1b\[\??\d*[A-Za-z]", "\n", out.getvalue())
    (line,) = {line.strip() for line in written.splitlines() if " running" in line}
    assert len(line) <= width
    assert line.startswith(LONGEST_PHASE)
    assert " 2311/30000" in line
    assert "576 running, 1,380 success" in line
    assert "timed out" not in line
    assert line.rstrip().endswith(("aborted", "crashed", "killed", "skipped")), "the last word is whole"
