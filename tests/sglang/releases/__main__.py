"""Tests the maps on the source of each supported release of SGLang, and holds the table in docs/sglang.md to it.

make test-sglang-versions                          all releases
make test-sglang-versions RELEASES='0.5.12 0.5.23'
make test-sglang-versions WRITE=1                  and write the table
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from tests.sglang.environment import ROOT
from tests.sglang.releases import page
from tests.sglang.releases.conftest import FILES
from tests.sglang.releases.files import files
from tests.sglang.releases.page import RELEASES

PAGE = ROOT / "docs" / "sglang.md"


def main(releases: list[str]) -> None:
    """Run the tests of each release; exit with an error at the first that fails."""
    found = {}
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
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"SGLang {release}:\n{done.stderr[-1500:]}")
        found[release] = cells(json.loads(done.stdout))
    check_page(found)


def cells(found: dict[str, Any]) -> str:
    """Return what a release's row of the table says."""
    flaws = []
    if found["reopens"]:
        flaws.append(f"a late Success opens a cleared room ({', '.join(found['reopens'])})")
    if found["revives"]:
        flaws.append(f"a failed room may become Success ({', '.join(found['revives'])})")
    pipelines = "on every rank `collect` works" if found["store"] else "each stage by itself: there is no `collect`"
    requests = " and ".join(role for role, is_known in found["requests"].items() if is_known) or "no"
    defers, aborts = (", ".join(found[name]) or "no" for name in ("defers", "aborts"))
    return f"yes | {requests} | {pipelines} | {defers} | {aborts} | {'; '.join(flaws) or 'as in the table'}"


def check_page(found: dict[str, str]) -> None:
    """Compare the cells of each release with those of the page, or write all of them there."""
    text = PAGE.read_text()
    if os.environ.get("WRITE"):
        if [*found] != [*RELEASES]:
            sys.exit("the table is written for all releases at once")
        PAGE.write_text(page.write(text, found))
        return
    written = page.read(text)
    for release, wanted in found.items():
        if written.get(release) != wanted:
            sys.exit(
                f"docs/sglang.md: the row of {release} is now\n{wanted}\nmake test-sglang-versions WRITE=1 writes it"
            )


def report(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:] or [*RELEASES])
