"""Runs commands on a terminal of their own, and draws what it shows as an SVG."""

from __future__ import annotations

import io
import os
import pty
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable
from html import escape, unescape
from pathlib import Path

from rich.console import Console
from rich.text import Text

CHARACTER = 12.2
"""How wide rich draws one."""
Shown = tuple[str, str]
"""A command line, and what it printed, colors included."""

# Without rich's own @font-face: it loads from a content network, which a picture in a page may not.
FORMAT = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" aria-label="kvpoll in a terminal">
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, Menlo, Consolas, monospace; font-size: {char_height}px;
  line-height: {line_height}px; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
  <rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/>
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def draw(path: Path, shown: Iterable[Shown], columns: int) -> None:
    """Write what a terminal shows of some commands."""
    console = Console(record=True, width=columns, file=io.StringIO(), force_terminal=True, highlight=False)
    for words, output in shown:
        console.print(Text.assemble(("$ ", "green"), (words, "bold")))
        console.print(Text.from_ansi(output.rstrip()))
    picture = console.export_svg(title="kvpoll", code_format=FORMAT, unique_id="kvpoll")
    picture = re.sub(r'<g transform="translate\([\d.,]+\)">\s*<circle.*?</g>', "", picture, flags=re.DOTALL)  # buttons
    placed = re.sub(r'<text class="(\S+)" x="([\d.]+)" y="(\S+)" textLength[^>]*>([^<]*)</text>', _placed, picture)
    path.write_text(placed, encoding="utf-8")


def _placed(text: re.Match[str]) -> str:
    """Return each part of a text at its own place: not every renderer keeps spaces as wide as characters."""
    style, left, top, content = text.groups()
    parts = re.finditer(r"\S+(?:\xa0\S+)*", unescape(content))
    places = ((float(left) + CHARACTER * part.start(), part[0]) for part in parts)
    return "".join(f'<text class="{style}" x="{at:.1f}" y="{top}">{escape(words)}</text>' for at, words in places)


def run(words: list[str], url: str, columns: int, stop_after: float | None = None) -> Shown:
    """Run a command of kvpoll on a terminal; with ``stop_after``, end it so many seconds after its first output."""
    ours, its = pty.openpty()
    terminal = {"KVPOLL_URL": url, "COLUMNS": str(columns), "TERM": "xterm-256color", "TZ": "UTC"}
    command = [sys.executable, "-m", "redis_kvpoll.cli", *words]
    with subprocess.Popen(command, stdout=its, stderr=its, env={**os.environ, **terminal}) as process:  # noqa: S603
        os.close(its)
        stop = threading.Timer(stop_after or 0, process.send_signal, [signal.SIGTERM])
        output = b""
        try:
            while chunk := os.read(ours, 65536):
                if not output and stop_after is not None:
                    stop.start()
                output += chunk
        except OSError:  # how a terminal ends on Linux
            pass
        stop.cancel()
        os.close(ours)
    if process.returncode in (1, 2):
        raise SystemExit(f"kvpoll {' '.join(words)}: {output.decode()}")
    return " ".join(["kvpoll", *words]), output.decode().replace("\r\n", "\n")
