"""Processes of a run that the harness starts, talks to, and ends: a line for each command, and one for its answer."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from chaos.servers import ChaosError

ROOT = Path(__file__).parent.parent


class AnyPlan(Protocol):
    """What a process is told at its start."""

    @property
    def number(self) -> int: ...
    def text(self) -> str: ...


P = TypeVar("P", bound=AnyPlan)


@dataclass(eq=False)
class Child(Generic[P]):
    """One process, running or ended."""

    plan: P
    process: subprocess.Popen[bytes]
    errors: Path
    """The file of its standard error."""

    def send(self, command: object) -> None:
        assert self.process.stdin is not None  # noqa: S101 - it is a pipe
        self.process.stdin.write(json.dumps(command).encode() + b"\n")
        self.process.stdin.flush()

    def receive(self, seconds: float) -> str:
        """Return the process's next line."""
        assert self.process.stdout is not None  # noqa: S101 - it is a pipe
        if not select.select([self.process.stdout], [], [], seconds)[0]:
            raise ChaosError(f"process {self.plan.number} sent nothing for {seconds:g} s")
        line = self.process.stdout.readline().decode().strip()
        if not line:
            raise ChaosError(f"process {self.plan.number} ended: {self.errors.read_text()[-2000:]}")
        return line

    def ask(self, seconds: float, *command: object) -> Any:
        """Send a command, and return its answer."""
        self.send(command)
        return json.loads(self.receive(seconds))

    def end(self) -> None:
        """Kill the process, and close its pipes."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


def launch(module: str, plan: P, file: Path) -> Child[P]:
    """Start a process; ``file`` is that of its calls, and the log is beside it."""
    errors = file.with_suffix(".log")
    with errors.open("wb") as log:
        process = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-m", module, plan.text()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=ROOT,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )
    return Child(plan, process, errors)
