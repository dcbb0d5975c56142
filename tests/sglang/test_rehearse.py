"""The walk-through of docs/sglang.md, in its order: two shells, an operator, and a Redis that is stopped."""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import termios
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from chaos.servers import Server
from redis_kvpoll import KVPoll, StatusStore
from tests.sglang.conftest import Tables
from tests.sglang.deployment import LONGEST_SECONDS, ROOT, until
from tests.support.real import free_port

PAGE = (ROOT / "docs" / "sglang.md").read_text()


class Shell:
    """A shell in which one role is rehearsed. A context manager."""

    def __init__(self, role: str, port: int, server: Server) -> None:
        environment = os.environ | {"KVPOLL_URL": server.url, "KVPOLL_NAMESPACE": "prod"}
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "tests.sglang.rehearse", role, str(port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env=environment,
            text=True,
        )
        self._prompt = f"{role}> "
        self._text = ""
        """All that it has shown."""
        self._more = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()
        self.wait_for(self._prompt)

    def _read(self) -> None:
        assert self._process.stdout is not None
        text = b"-"
        while text:
            text = os.read(self._process.stdout.fileno(), 65536)
            with self._more:
                self._text += text.decode() if text else f"{self._prompt}[it has ended]"
                self._more.notify_all()

    def wait_for(self, text: str, begin: int = 0) -> int:
        """Wait until it shows a text; return where."""
        with self._more:
            assert self._more.wait_for(lambda: text in self._text[begin:], LONGEST_SECONDS), self._text
            return self._text.index(text, begin)

    def type(self, line: str) -> str:
        """Type a command; return what it shows, without log lines."""
        assert self._process.stdin is not None
        begin = len(self._text)
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        end = self.wait_for(self._prompt, begin)
        shown = self._text[begin:end]
        return "\n".join(line for line in shown.splitlines() if line and not line.startswith("["))

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def __enter__(self) -> Shell:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


@pytest.fixture(autouse=True)
def agents(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The agents of a test end with it: without its server they would wait to tell the ends of the sides.

    The folder has a short path: the address of a socket has room for 107 bytes.
    """
    folder = Path(tempfile.mkdtemp(prefix="kva"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    yield
    logs = "".join(log.read_text() for log in folder.rglob("*.log"))
    for process in map(Path("/proc").joinpath, re.findall(r"runs as process (\d+)", logs)):
        with contextlib.suppress(OSError):  # it has ended by itself
            if b"redis_kvpoll.agent" in (process / "cmdline").read_bytes():
                os.kill(int(process.name), signal.SIGKILL)
    shutil.rmtree(folder)


@pytest.fixture
def tables(own_server: Server) -> Iterator[dict[str, StatusStore]]:
    with Tables(own_server, "prod") as tables:
        yield tables


def test_walk_through_works_in_its_order(own_server: Server, tables: dict[str, StatusStore], tmp_path: Path) -> None:
    port = free_port()
    with Shell("decode", port, own_server) as decode:
        with Shell("prefill", port, own_server) as prefill:
            for shell in (prefill, decode):
                shell.wait_for("joined the status table")
            for shell in (prefill, decode):
                assert shell.type("open 42") == ""
            until(lambda: tables["decode"].get(42), KVPoll.WaitingForInput)
            decode.type("ask 42")
            until(lambda: tables["prefill"].get(42), KVPoll.WaitingForInput)
            prefill.type("send 42")
            until(lambda: (prefill.type("poll 42"), decode.type("poll 42")), ("Success", "Success"))
            for shell in (prefill, decode):
                shell.type("clear 42")

            for shell in (prefill, decode):
                shell.type("open 43")
            decode.type("ask 43")
            until(lambda: tables["prefill"].get(43), KVPoll.WaitingForInput)
            tables["decode"].abort(43, "wrong model")
            until(lambda: (prefill.type("poll 43"), decode.type("poll 43")), ("Failed", "Failed"))

            assert [shell.type("fail 43") for shell in (prefill, decode)] == ["wrong model"] * 2

            for shell in (prefill, decode):
                shell.type("open 44")
            until(lambda: tables["prefill"].get(44), KVPoll.Bootstrapping)
            prefill.kill()
        until(lambda: decode.type("poll 44"), "Failed")
        assert re.fullmatch(r"prefill 127\.0\.0\.1:\d+ lost", decode.type("fail 44"))
        decode.wait_for("Lost connection with prefill instance")

        with Shell("prefill", port, own_server) as prefill:
            prefill.wait_for("joined the status table")
            own_server.kill()
            for shell in (prefill, decode):
                shell.wait_for("Redis is unreachable")
            for shell in (prefill, decode):
                assert shell.type("open 45") == ""
            decode.type("ask 45")
            until(lambda: prefill.type("poll 45"), "WaitingForInput")
            prefill.type("send 45")
            until(lambda: (prefill.type("poll 45"), decode.type("poll 45")), ("Success", "Success"))
            own_server.forget()
            own_server.start()
            until(lambda: tables["prefill"].get(45), KVPoll.Success)


def test_a_killed_side_leaves_the_terminal_as_it_was(own_server: Server) -> None:
    """At the prompt the terminal has an echo, so it has one after a kill, too."""
    ours, terminal = os.openpty()
    before = termios.tcgetattr(terminal)
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "tests.sglang.rehearse", "decode", str(free_port())],
        **dict.fromkeys(("stdin", "stdout", "stderr"), terminal),
        cwd=ROOT,
        env=os.environ | {"KVPOLL_URL": own_server.url, "KVPOLL_NAMESPACE": "prod"},
    )
    try:
        shown = b""
        while b"decode> " not in shown:
            assert select.select([ours], [], [], LONGEST_SECONDS)[0], shown
            shown += os.read(ours, 65536)
        os.write(ours, b"poll 1\n")
        while shown.count(b"decode> ") < 2 or b"poll 1" not in shown:
            assert select.select([ours], [], [], LONGEST_SECONDS)[0], shown
            shown += os.read(ours, 65536)
        process.kill()
        process.wait()
        assert termios.tcgetattr(terminal) == before
    finally:
        process.kill()
        process.wait()
        os.close(ours)
        os.close(terminal)


def test_commands_of_the_walk_through_are_on_the_page() -> None:
    """The test above follows the page: its steps are all there, in this order."""
    at = 0
    for step in (
        "open 42",
        "ask 42",
        "send 42",
        "clear 42",
        "open 43",
        "ask 43",
        "fail 43",
        "open 44",
        "fail 44",
        "open 45",
    ):
        at = PAGE.index(f"`{step}`", at)
    assert PAGE.index("Lost connection with prefill instance") > PAGE.index("`fail 44`")
