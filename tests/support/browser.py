"""A real Chromium for tests, driven by tests/serve/browser/driver.mjs. The tests name what they skip without one."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

from tests.support import real

FOLDER = Path(__file__).parents[1] / "serve" / "browser"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def why_absent() -> str:
    """What is missing for the browser's tests; empty if nothing is."""
    if CHROMIUM is None:
        return "no chromium on PATH (Debian: apt-get install chromium)"
    if shutil.which("node") is None:
        return "no node on PATH (Debian: apt-get install nodejs npm)"
    if not (FOLDER / "node_modules" / "playwright-core").exists():
        return "no tests/serve/browser/node_modules (make test-slow installs it)"
    return ""


class Browser:
    """One Chromium. Its methods are the driver's operations; ``open`` begins a page without cookies."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            ["node", "driver.mjs", str(CHROMIUM)],
            cwd=FOLDER,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def close(self) -> None:
        self._process.communicate()

    def do(self, op: str, **options: Any) -> Any:
        """The value of one operation."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps({"op": op, **options}) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        assert "error" not in answer, f"{op}: {answer['error']}"
        return answer["value"]

    def open(self, url: str, **options: Any) -> None:
        self.do("open", url=url, **options)

    def evaluate(self, code: str) -> Any:
        return self.do("evaluate", code=code)

    def text(self, selector: str = "body") -> str:
        return str(self.do("text", selector=selector))

    def press(self, *keys: str) -> None:
        for each in keys:
            self.do("press", keys=each)

    def until(self, code: str, what: str) -> Any:
        """Wait until an expression is true in the page."""

        def is_true() -> Any:
            try:
                return self.evaluate(code)
            except AssertionError as error:
                if "navigation" in str(error):  # the page that it was asked of is gone
                    return None
                raise

        return real.until(is_true, what, 30)

    def until_live(self) -> None:
        """Wait for the page's first event, also of one that has just begun, without a body yet."""
        self.until("document.body?.dataset.connection === 'live'", "the first event")

    def check(self) -> None:
        """Fail if the page met an error, asked another site, is wider than the window, or has a finding of axe."""
        assert self.do("problems") == []
        too_wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert self.evaluate(too_wide) == 0, "it scrolls sideways"
        assert self.do("axe") == []
