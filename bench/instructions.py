"""Instructions of the server, which repeat within some percent on a busy machine, where times do not.

perf counts a running server's, with those of the kernel. Where it cannot, valgrind's callgrind counts those of a second
server of the same kind, without the kernel's. Where neither is there, a figure has CPU time alone.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.ground import Ground
from bench.services import free_ports
from redis_kvpoll import KVPollError
from redis_kvpoll.transport.embedded import EmbeddedServer

PERF, CALLGRIND = "perf: user and kernel", "callgrind: user"
CPU_TIME = "none: CPU time alone"
_COUNTS_AFTER = 0.2
"""Seconds that perf needs until it counts."""
ANSWER_SECONDS = 30.0
"""For callgrind to take a command. In some sandboxes it never does for a user other than root."""

_known: dict[str, str] = {}
"""The way, once it was looked for; CPU_TIME if callgrind has turned out to take no command."""


def way() -> str:
    """How instructions are counted here: PERF, CALLGRIND or CPU_TIME."""
    if "way" not in _known:
        _known["way"] = _installed()
    return _known["way"]


def _installed() -> str:
    if shutil.which("perf") and _of_perf(os.getpid(), lambda: None) is not None:
        return PERF
    return CALLGRIND if shutil.which("valgrind") and shutil.which("callgrind_control") else CPU_TIME


class Counter:
    """Counts the instructions of a server. ``ground`` is what to use of it."""

    def __init__(self, ground: Ground, pid: int, folder: Path | None) -> None:
        self.ground = ground
        self._pid = pid
        self._folder = folder
        self._dumps = 0

    def count(self, run: Callable[[], object]) -> float | None:
        """Return the instructions that the server takes during ``run``."""
        if self._folder is None:
            return _of_perf(self._pid, run)
        self._control("--zero")
        run()
        self._control("--dump")
        self._dumps += 1
        text = (self._folder / f"out.{self._dumps}").read_text(encoding="utf-8", errors="replace")
        return next((float(line.split()[1]) for line in text.splitlines() if line.startswith("summary:")), None)

    def answers(self) -> bool:
        """Whether callgrind takes commands."""
        try:
            self._control("--zero", ANSWER_SECONDS)
        except (subprocess.TimeoutExpired, subprocess.CalledProcessError):
            return False
        return True

    def _control(self, command: str, seconds: float = 2 * ANSWER_SECONDS) -> None:
        words = [shutil.which("callgrind_control") or "", f"--vgdb-prefix={self._folder}/vgdb", command, str(self._pid)]
        quiet = subprocess.DEVNULL
        with subprocess.Popen(words, stdout=quiet, stderr=quiet, start_new_session=True) as control:  # noqa: S603 - fixed
            try:
                status = control.wait(seconds)
            except subprocess.TimeoutExpired:
                os.killpg(control.pid, signal.SIGKILL)  # the program that it waits for, too
                raise
        if status:
            raise subprocess.CalledProcessError(status, words)


@contextlib.contextmanager
def counting(ground: Ground) -> Iterator[Counter | None]:
    """A counter: of this server by perf, of a private one by callgrind; None where instructions cannot be counted."""
    if way() == CPU_TIME:
        yield None
    elif way() == PERF:
        yield Counter(ground, int(ground.client.info("server")["process_id"]), None)
    else:
        with tempfile.TemporaryDirectory() as folder:
            server = _under_callgrind(ground, Path(folder))
            if server is None:
                yield None
                return
            port, running = server
            with running:
                counter = Counter(Ground(f"redis://127.0.0.1:{port}/0"), running.pid, Path(folder))
                if not counter.answers():
                    _known["way"] = CPU_TIME
                yield counter if way() == CALLGRIND else None


def _under_callgrind(ground: Ground, folder: Path) -> tuple[int, EmbeddedServer] | None:
    """Start a private server of the same program under callgrind; None if that is not here, or does not start."""
    (port,) = free_ports(1)
    executable = str(ground.client.info("server").get("executable", ""))
    if not os.access(executable, os.X_OK):  # the server is on another host
        return None
    program = folder / "server"
    options = f"--tool=callgrind --callgrind-out-file={folder}/out --vgdb-prefix={folder}/vgdb"  # it removes no pipes
    program.write_text(f'#!/bin/sh\nexec valgrind {options} {executable} "$@"\n', encoding="utf-8")
    program.chmod(0o700)
    try:
        return port, EmbeddedServer(str(program), ("--bind", "127.0.0.1", "--port", str(port)))
    except KVPollError:
        return None


def _of_perf(pid: int, run: Callable[[], object]) -> float | None:
    program = shutil.which("perf")
    if program is None:
        return None
    command = [program, "stat", "-x", ",", "-e", "instructions", "-p", str(pid)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as perf:  # noqa: S603 - a fixed command
        time.sleep(_COUNTS_AFTER)
        run()
        with contextlib.suppress(ProcessLookupError):
            os.kill(perf.pid, signal.SIGINT)
        assert perf.stderr is not None  # noqa: S101 - a pipe
        text = perf.stderr.read()
    found = [line.split(",")[0] for line in text.splitlines() if "instructions" in line]
    return float(found[0]) if found and found[0].isdigit() else None
