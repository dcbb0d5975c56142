"""The workers of one run: started, killed, stopped, replaced, and asked what they saw."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

from chaos import history
from chaos.history import Done
from chaos.servers import ChaosError
from chaos.worker import SYNC_SECONDS, Plan

START_SECONDS = 20.0
COMPLAINTS = ("Traceback", "Warning", "Exception ignored", "as it never should", "failed unexpectedly", "Fatal")
ROOT = Path(__file__).parent.parent


@dataclass(eq=False)
class Worker:
    """One process, running or not."""

    plan: Plan
    process: subprocess.Popen[bytes]
    errors: Path
    """What it has printed to its standard error."""

    def tell(self, order: object) -> None:
        assert self.process.stdin is not None  # noqa: S101 - it is a pipe
        self.process.stdin.write(json.dumps(order).encode() + b"\n")
        self.process.stdin.flush()

    def hear(self, seconds: float) -> str:
        """Its next line."""
        assert self.process.stdout is not None  # noqa: S101 - it is a pipe
        if not select.select([self.process.stdout], [], [], seconds)[0]:
            raise ChaosError(f"worker {self.plan.number} said nothing for {seconds:g} s")
        line = self.process.stdout.readline().decode().strip()
        if not line:
            raise ChaosError(f"worker {self.plan.number} ended: {self.errors.read_text()[-2000:]}")
        return line

    def end(self) -> None:
        """Kill it, and close what leads to it."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


class Crew:
    """All workers of a run; half of them are asyncio's. A context manager."""

    def __init__(self, folder: Path, plan: Plan, count: int) -> None:
        self._folder = folder
        self._plan = plan
        self._count = 0
        self.working: list[Worker] = []
        self.gone: list[Worker] = []
        for _ in range(count):
            self._start()
        for worker in self.working:
            worker.hear(START_SECONDS)

    def kill(self, worker: Worker) -> None:
        """SIGKILL, and another takes its place. It is there when this returns."""
        worker.end()
        self.working.remove(worker)
        self.gone.append(worker)
        self._start(worker.plan.is_async).hear(START_SECONDS)

    def quiet(self) -> None:
        """Wait until no worker is in the midst of a call, or begins another."""
        for worker in self.working:
            worker.tell("quiet")
        give_up_at = time.monotonic() + 3 * self._plan.deadline
        for worker in self.working:
            worker.hear(max(0.0, give_up_at - time.monotonic()))

    def copies(self, rooms: list[int]) -> dict[int, dict[int, int | None] | None]:
        """What each worker's mirror says of these rooms; None if it does not get to be current."""
        for worker in self.working:
            worker.tell(rooms)
        copies: dict[int, dict[int, int | None] | None] = {}
        for worker in self.working:
            answer = json.loads(worker.hear(SYNC_SECONDS + START_SECONDS))
            copies[worker.plan.number] = None if answer is None else dict(answer)
        return copies

    def calls(self) -> list[Done]:
        """Everything that all of them did."""
        everyone = self.gone + self.working
        return [done for one in everyone for done in history.read(Path(one.plan.file), one.plan.number)]

    def complaints(self) -> list[str]:
        """What workers have printed that is more than a mirror's word on its connection."""
        texts = (worker.errors.read_text(errors="replace") for worker in self.gone + self.working)
        return [text[-2000:] for text in texts if any(word in text for word in COMPLAINTS)]

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.working:
            worker.end()

    def _start(self, is_async: bool | None = None) -> Worker:
        number, self._count = self._count, self._count + 1
        plan = replace(
            self._plan,
            number=number,
            is_async=number % 2 == 1 if is_async is None else is_async,
            file=str(self._folder / f"worker-{number}.jsonl"),
            seed=f"{self._plan.seed} {number}",
        )
        errors = self._folder / f"worker-{number}.log"
        with errors.open("wb") as log:
            process = subprocess.Popen(  # noqa: S603 - our own program
                [sys.executable, "-m", "chaos.worker", plan.text()],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=ROOT,
                env=os.environ | {"PYTHONUNBUFFERED": "1"},
            )
        worker = Worker(plan, process, errors)
        self.working.append(worker)
        return worker


def pause(worker: Worker) -> None:
    """SIGSTOP."""
    worker.process.send_signal(signal.SIGSTOP)


def resume(worker: Worker) -> None:
    """SIGCONT."""
    worker.process.send_signal(signal.SIGCONT)
