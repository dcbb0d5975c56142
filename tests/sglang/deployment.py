"""A deployment of prefill and decode instances: its worker processes are started, commanded by pipes, and killed."""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from tests.support import pace
from tests.support.real import free_port

MIN_SECONDS = 60.0
"""How long a condition is waited for, at least: other processes may be slower than this one."""
ROOT = Path(__file__).parent.parent.parent
LONGEST_SECONDS = 1800.0
"""The longest import or answer: a limit for a process that hangs, far beyond any that is slow. The end of a process is
seen at once."""


class WorkerError(Exception):
    """What a command raised, as ``KeyError: 5``; or that the worker has ended."""


class Worker:
    """One process of an instance, from the test's side."""

    def __init__(self, pid: int, pipe: socket.socket, log: Path) -> None:
        self.pid = pid
        self.log = log
        self._pipe = pipe
        self._lines = pipe.makefile("rb")
        self.kinds: dict[str, str] = {}
        """The types of its maps, once it is up."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """Return a command: a method of tests.sglang.worker.Worker."""
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *arguments: self.send_command(name, *arguments).receive_answer()

    def send_command(self, *command: Any) -> Self:
        """Send a command without waiting for the answer."""
        self._pipe.sendall(json.dumps(command).encode() + b"\n")
        return self

    def receive_answer(self) -> Any:
        self._pipe.settimeout(LONGEST_SECONDS)
        try:
            line = self._lines.readline()
        except TimeoutError:
            line = b""
        if not line:
            raise WorkerError(f"worker {self.pid} did not answer: {self.log.read_text()[-3000:]}")
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer["answer"]

    def logged(self, logger: str = "redis_kvpoll", level: str = "ERROR") -> list[str]:
        """Return what one of its loggers has logged at a level."""
        lines: list[tuple[str, str, str]] = self.lines()
        return [text for name, of, text in lines if of == level and name.partition(".")[0] == logger]

    def kill(self) -> None:
        """Kill it by SIGKILL; return when it has ended."""
        if self._lines.closed:
            return
        os.kill(self.pid, signal.SIGKILL)
        self._pipe.settimeout(LONGEST_SECONDS)
        while self._lines.read(65536):
            pass
        self._lines.close()
        self._pipe.close()


class Host:
    """The process that has imported SGLang, and forks the workers. A context manager."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0
        ours, theirs = socket.socketpair()
        quiet = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        plain = {name: value for name, value in os.environ.items() if not name.startswith("KVPOLL_")}
        log = folder / "host.log"
        with theirs, log.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.sglang.host"],
                stdin=theirs,
                stdout=errors,
                stderr=errors,
                cwd=ROOT,
                env=plain | quiet | {"SGLANG_HOST_IP": "127.0.0.1", "XDG_RUNTIME_DIR": str(folder)},  # where agents are
            )
        self._pipe = ours
        self._lines = ours.makefile("rb")
        ours.settimeout(LONGEST_SECONDS)
        if self._lines.readline() != b"ready\n":
            raise WorkerError(f"SGLang does not start: {log.read_text()[-3000:]}")

    def start(self, plan: dict[str, Any]) -> Worker:
        """Start a worker: its first answer says that it is up."""
        self._count += 1
        log = self._folder / f"worker-{self._count}.log"
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self._pipe, [json.dumps(plan | {"log": str(log)}).encode()], [theirs.fileno()])
            pid = int(self._lines.readline())
        return Worker(pid, ours, log)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()
        self._pipe.close()
        try:
            self._process.wait(pace.seconds(10))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Deployment:
    """The workers of one test, which end with it. A context manager."""

    def __init__(self, host: Host, environment: dict[str, str]) -> None:
        self.environment = environment
        self._host = host
        self.workers: list[Worker] = []

    def start(
        self, *processes: dict[str, Any], port: int | None = None, incompatibility: str | None = None
    ) -> list[Worker]:
        """Start the processes of one instance; the first of a prefill instance has the bootstrap server.

        A process is described by arguments of Settings; ``environment`` among them is of that process only.
        """
        pp_port = free_port()
        started = []
        for number, process in enumerate(processes):
            settings = {"bootstrap_port": port, "pp_port": pp_port} | process
            environment = self.environment | settings.pop("environment", {})
            bootstraps = number == 0 and settings["role"] == "prefill"
            plan = {
                "settings": settings,
                "environment": environment,
                "bootstraps": bootstraps,
                "incompatibility": incompatibility,
            }
            started.append(self._host.start(plan))
        self.workers += started
        for worker in started:
            worker.kinds = worker.receive_answer()
        return started

    def pair(self, **options: Any) -> tuple[Worker, Worker]:
        """Start one process of prefill, and one of decode that has its address."""
        port = free_port()
        (prefill,) = self.start({"role": "prefill", "port": free_port()}, port=port, **options)
        (decode,) = self.start({"role": "decode", "port": free_port()}, port=port, **options)
        assert decode.learn()
        return prefill, decode

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.workers:
            worker.kill()


def until(read: Callable[[], Any], wanted: Any, seconds: float = 5.0) -> None:
    """Wait until ``read`` gives what is wanted, for so many seconds of a machine at rest, and a minute at least."""
    end = time.monotonic() + MIN_SECONDS
    for turn in itertools.count():
        if (seen := read()) == wanted:
            return
        if turn * pace.TURN > seconds and time.monotonic() > end:
            break
        time.sleep(pace.TURN)
    raise AssertionError(f"{seconds:g} s later still {seen}, not {wanted}")
