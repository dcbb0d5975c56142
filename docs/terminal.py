"""Draw docs/terminal.svg: ``kvpoll owners`` and ``kvpoll ls`` as a terminal shows them, from a real run.

A private server has two prefill workers, each a process with a lease. One is killed with SIGKILL: it is first
suspected, with its rooms still live; then it is lost, and its rooms are Failed. Run it again after a change of these
commands: python docs/terminal.py (about 12 s; it needs the extras ``cli`` and ``embedded``).
"""

from __future__ import annotations

import io
import os
import pty
import re
import signal
import subprocess
import sys
import time
from html import escape, unescape
from pathlib import Path

from rich.console import Console
from rich.text import Text

from redis_kvpoll import KVPoll, StatusStore
from redis_kvpoll.transport.embedded import EmbeddedServer

PICTURE = Path(__file__).with_name("terminal.svg")
COLUMNS = 96
CHARACTER = 12.2
"""How wide rich draws one."""
ROOMS = {
    1655955501905217457: KVPoll.Transferring,
    4402177609215883310: KVPoll.Success,
    7216003984456718022: KVPoll.WaitingForInput,
}
ABORTED = 2870533160027415209
ROOMS_OF_THE_KILLED = {5839001276639914485: KVPoll.Transferring, 8101420537714420816: KVPoll.Bootstrapping}
NAMESPACE = "prod-prefill"
KILLED_HEARTBEAT = 1.6
"""Seconds, of a ttl of 5: an owner stays suspected for two heartbeats, long enough for two commands."""

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


def main() -> None:
    if sys.argv[1:2] == ["--worker"]:
        _work(sys.argv[2])
        return
    with EmbeddedServer() as server:
        shown = _scene(server.url)
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, highlight=False)
    for words, output in shown:
        console.print(Text.assemble(("$ ", "green"), (" ".join(["kvpoll", *words]), "bold")))
        console.print(Text.from_ansi(output))
    picture = console.export_svg(title="kvpoll", code_format=FORMAT, unique_id="kvpoll")
    picture = re.sub(r'<g transform="translate\([\d.,]+\)">\s*<circle.*?</g>', "", picture, flags=re.DOTALL)  # buttons
    placed = re.sub(r'<text class="(\S+)" x="([\d.]+)" y="(\S+)" textLength[^>]*>([^<]*)</text>', _placed, picture)
    PICTURE.write_text(placed, encoding="utf-8")


def _placed(text: re.Match[str]) -> str:
    """Return each part of a text at its own place: not every renderer keeps spaces as wide as characters."""
    style, left, top, content = text.groups()
    parts = re.finditer(r"\S+(?:\xa0\S+)*", unescape(content))
    places = ((float(left) + CHARACTER * part.start(), part[0]) for part in parts)
    return "".join(f'<text class="{style}" x="{at:.1f}" y="{top}">{escape(words)}</text>' for at, words in places)


def _scene(url: str) -> list[tuple[list[str], str]]:
    """Return what the commands print while the killed worker is suspected, and once its rooms are Failed."""
    with StatusStore.from_url(url, namespace=NAMESPACE) as store, store.lease("prefill-0"):
        store.update_many(dict.fromkeys([*ROOMS, ABORTED], KVPoll.Bootstrapping))
        store.update_many(ROOMS)
        store.abort(ABORTED, "client disconnected")
        worker = subprocess.Popen([sys.executable, __file__, "--worker", url], stdout=subprocess.PIPE)  # noqa: S603
        assert worker.stdout is not None  # noqa: S101 - it is a pipe
        worker.stdout.readline()
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        while all(owner.state != "suspected" for owner in store.owners()):
            time.sleep(0.02)
        shown = [(words, _run(words, url)) for words in (["owners", "-n", NAMESPACE], ["ls", "-n", NAMESPACE])]
        while store.get(next(iter(ROOMS_OF_THE_KILLED))) is not KVPoll.Failed:
            time.sleep(0.02)
        words = ["ls", "-n", NAMESPACE, "--status", "failed"]
        return [*shown, (words, _run(words, url))]


def _work(url: str) -> None:
    """The worker that is killed."""
    with StatusStore.from_url(url, namespace=NAMESPACE) as store, store.lease("prefill-1", heartbeat=KILLED_HEARTBEAT):
        store.update_many(dict.fromkeys(ROOMS_OF_THE_KILLED, KVPoll.Bootstrapping))
        store.update_many(ROOMS_OF_THE_KILLED)
        print("ready", flush=True)  # noqa: T201
        time.sleep(60)


def _run(words: list[str], url: str) -> str:
    """Run the command on a terminal of its own; return what it printed, colors included."""
    ours, its = pty.openpty()
    terminal = {"KVPOLL_URL": url, "COLUMNS": str(COLUMNS), "TERM": "xterm-256color", "TZ": "UTC"}
    command = [sys.executable, "-m", "redis_kvpoll.cli", *words]
    with subprocess.Popen(command, stdout=its, stderr=its, env={**os.environ, **terminal}) as process:  # noqa: S603
        os.close(its)
        output = b""
        try:
            while chunk := os.read(ours, 65536):
                output += chunk
        except OSError:  # how a terminal ends on Linux
            pass
        os.close(ours)
    if process.returncode:
        raise SystemExit(output.decode())
    return output.decode().replace("\r\n", "\n")


if __name__ == "__main__":
    main()
