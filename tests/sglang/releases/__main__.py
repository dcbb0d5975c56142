"""Tests the maps on the source of each supported release of SGLang, and holds the table in docs/sglang.md to it.

make test-sglang-versions                          all releases
make test-sglang-versions RELEASES='0.5.12 0.5.23'
make test-sglang-versions WRITE=1                  and write the table
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from typing import Any

from tests.sglang.environment import ROOT
from tests.sglang.releases.conftest import FILES
from tests.sglang.releases.files import files

RELEASES = (
    *("0.5.12", "0.5.12.post1", "0.5.13", "0.5.13.post1", "0.5.14", "0.5.15", "0.5.15.post1", "0.5.16", "0.5.17"),
    *("0.5.18", "0.5.19", "0.5.20", "0.5.21", "0.5.22", "0.5.23"),
)
PAGE = ROOT / "docs" / "sglang.md"
START, END = "<!-- releases: start -->\n", "<!-- releases: end -->\n"
HEAD = (
    "| SGLang | the table | request ids | pipelines | decode defers | on SGLang's own dicts |\n"
    "|---|---|---|---|---|---|\n"
)  # fmt: skip


def main(releases: list[str]) -> None:
    """Run the tests of each release; exit with an error at the first that fails."""
    rows = {}
    for release in releases:
        folder = files(release)
        environment = os.environ | {FILES: str(folder)}
        command = [sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider"]
        report(f"SGLang {release}")
        try:
            subprocess.run([*command, "tests/sglang/releases"], cwd=ROOT, env=environment, check=True, timeout=1800)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
            sys.exit(f"the maps' tests fail on SGLang {release}")
        command = [sys.executable, "-m", "tests.sglang.releases.facts", str(folder)]
        found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if found.returncode:
            sys.exit(f"SGLang {release}:\n{found.stderr[-1500:]}")
        rows[release] = row(release, json.loads(found.stdout))
    check_page(rows)


def row(release: str, found: dict[str, Any]) -> str:
    """Return a release's row of the table."""
    flaws = []
    if found["reopens"]:
        flaws.append(f"a late Success opens a cleared room ({', '.join(found['reopens'])})")
    if found["revives"]:
        flaws.append(f"a failed room may become Success ({', '.join(found['revives'])})")
    pipelines = "on every rank `collect` works" if found["store"] else "each stage by itself: there is no `collect`"
    requests = " and ".join(role for role, is_known in found["requests"].items() if is_known) or "no"
    defers = ", ".join(found["defers"]) or "no"
    return f"| {release} | yes | {requests} | {pipelines} | {defers} | {'; '.join(flaws) or 'as in the table'} |\n"


def check_page(rows: dict[str, str]) -> None:
    """Compare the rows with those of the page, or write all of them there."""
    text = PAGE.read_text()
    if os.environ.get("WRITE"):
        if [*rows] != [*RELEASES]:
            sys.exit("the table is written for all releases at once")
        before, after = text.partition(START)[0], text.partition(END)[2]
        PAGE.write_text(before + START + HEAD + "".join(rows.values()) + END + after)
        return
    table = re.search(f"{START}(.*?){END}", text, re.DOTALL)
    written = set(table[1].splitlines(keepends=True)) if table else set()
    for release, wanted in rows.items():
        if wanted not in written:
            sys.exit(
                f"docs/sglang.md: the row of {release} is now\n{wanted}make test-sglang-versions WRITE=1 writes it"
            )


def report(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:] or [*RELEASES])
