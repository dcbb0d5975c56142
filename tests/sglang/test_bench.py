"""The benchmark with SGLang runs and reports in full. No test checks speeds: machines differ."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from bench.sglang.__main__ import MARKERS
from tests.sglang.deployment import ROOT

SIZES = ("64 rooms", "1,000 rooms")
ROWS = {
    "sglang_poll": {"sender.poll(), Bootstrapping", "sender.poll(), Transferring"},
    "sglang_life": {"one after the other", "one after the other, CPU", "paced", "paced, CPU"},
    "sglang_link": {"one after the other", "paced", "none, for a second"},
    "sglang_published": {"a room is opened", "a room is advanced"},
    "sglang_rounds": {f"{how}, {rate} requests/s" for how in ("thread", "agent") for rate in (50, 200, 500)},
    "sglang_cpu": {f"{how}, {rate} requests/s" for how in ("thread", "agent") for rate in (50, 200, 500)},
    "sglang_agent": {f"{rate} requests/s" for rate in (50, 200, 500)},
    "sglang_consensus": {
        f"{what}, {size}" for what in ("collect of each", "consensus", "update_many, then consensus") for size in SIZES
    },
    "sglang_collect": {f"collect, {size}" for size in SIZES},
    "sglang_seen": {"seen on rank 0"},
}
BUDGETS = {"sglang_poll": 1.2, "sglang_published": 8, "sglang_rounds": 0.97, "sglang_cpu": 60, "sglang_seen": 1.5}


@pytest.fixture
def temporary():
    """The run's temporary folder. Its path is short: the address of an agent's socket has room for 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="kva") as folder:
        yield Path(folder)


def writers_into(folder):
    """The processes whose output goes into a file of the folder, also if that was removed."""
    found = []
    for output in Path("/proc").glob("[0-9]*/fd/1"):
        try:
            found += [output.parts[2]] if output.readlink().is_relative_to(folder) else []
        except OSError:  # it has ended, or is another user's
            continue
    return found


def test_quick_run_reports_every_section(tmp_path, temporary):
    page, found = tmp_path / "page.md", tmp_path / "found.json"
    start, end = MARKERS
    main = "<!-- bench: start -->\nthe main run's\n<!-- bench: end -->\n"
    page.write_text(f"{main}{start}\nold\n{end}\nafter\n")
    command = [sys.executable, "-m", "bench.sglang", "--quick", "--json", str(found), "--markdown", str(page)]
    environment = {name: value for name, value in os.environ.items() if name != "XDG_RUNTIME_DIR"}
    environment["TMPDIR"] = str(temporary)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert "budgets are kept" in done.stdout

    results = json.loads(found.read_text())
    assert {"SGLang", "torch", "server"} <= results["environment"].keys()
    sections = {section["id"]: {row["name"]: row for row in section["rows"]} for section in results["sections"]}
    assert {name: rows.keys() for name, rows in sections.items()} == ROWS
    for name, rows in sections.items():
        for title, row in rows.items():
            assert 0 < row["figure"]["low"] <= row["figure"]["median"] <= row["figure"]["high"]
            assert row["ours"] > 0
            has_budget = name in BUDGETS and not title.startswith("thread")
            assert (row["budget"] or {}).get("limit") == (BUDGETS[name] if has_budget else None)
    assert "A request's life, 21 table operations" in done.stdout

    text = page.read_text()
    assert text.startswith(main)
    assert text.endswith(f"{end}\nafter\n")
    assert "\nold\n" not in text
    pictured = set(re.findall(r"!\[[^]]+\]\((\S+)\)", text))
    assert (
        pictured == {f"page/{name}.svg" for name in ROWS} == {f"page/{p.name}" for p in (tmp_path / "page").iterdir()}
    )

    assert (list(temporary.iterdir()), writers_into(temporary)) == ([], [])
