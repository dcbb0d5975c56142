"""The worker processes of one run: started, killed, stopped, replaced, and asked for their mirrors."""

from __future__ import annotations

import json
import signal
import time
from dataclasses import replace
from pathlib import Path

from chaos import history
from chaos.children import Child, launch
from chaos.history import CallRecord
from chaos.worker import SYNC_SECONDS, Plan

START_SECONDS = 20.0
ERROR_WORDS = ("Traceback", "Warning", "Exception ignored", "failed unexpectedly", "Fatal")


WorkerProcess = Child[Plan]


class WorkerPool:
    """All workers of a run; half of them use asyncio. A context manager.

    Args:
        has_plain: a plain client (see chaos.plain) runs beside the workers.
    """

    def __init__(self, folder: Path, plan: Plan, count: int, has_plain: bool = False) -> None:
        self._folder = folder
        self._plan = plan
        self._count = 0
        self.running: list[WorkerProcess] = []
        self.ended: list[WorkerProcess] = []
        self._plain: list[WorkerProcess] = []
        try:
            if has_plain:
                self._plain.append(self._launch("chaos.plain", replace(plan, file=str(folder / "plain.jsonl"))))
            for _ in range(count):
                self._start()
            for worker in self.running + self._plain:
                worker.receive(START_SECONDS)
        except BaseException:  # one of them does not start
            self.__exit__()
            raise

    def kill(self, worker: WorkerProcess) -> None:
        """Kill a worker with SIGKILL and start another in its place; returns when that one is ready."""
        worker.end()
        self.running.remove(worker)
        self.ended.append(worker)
        self._start(worker.plan.is_async).receive(START_SECONDS)

    def quiesce(self) -> None:
        """Wait until no worker makes a call any more."""
        for worker in self.running + self._plain:
            worker.send("quiesce")
        give_up_at = time.monotonic() + 3 * self._plan.deadline
        for worker in self.running + self._plain:
            worker.receive(max(0.0, give_up_at - time.monotonic()))

    def copies(self, rooms: list[int]) -> dict[str, dict[int, int | None] | None]:
        """These rooms in each mirror, by the names of worker and mirror; None if the mirror does not become synced."""
        for worker in self.running:
            worker.send(rooms)
        copies: dict[str, dict[int, int | None] | None] = {}
        for worker in self.running:
            for number, copy in enumerate(json.loads(worker.receive(SYNC_SECONDS + START_SECONDS))):
                copies[f"{worker.plan.number}, mirror {number}"] = None if copy is None else dict(copy)
        return copies

    def calls(self) -> list[CallRecord]:
        """The recorded calls of all workers."""
        workers = self.ended + self.running
        return [record for one in workers for record in history.read(Path(one.plan.file), one.plan.number)]

    def plain_calls(self) -> list[CallRecord]:
        """The recorded calls of the plain client."""
        return [record for one in self._plain for record in history.read(Path(one.plan.file), one.plan.number)]

    def error_output(self) -> list[str]:
        """What workers printed to stderr, apart from mirrors' warnings about their connection."""
        texts = (worker.errors.read_text(errors="replace") for worker in self.ended + self.running + self._plain)
        return [text[-2000:] for text in texts if any(word in text for word in ERROR_WORDS)]

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.running + self._plain:
            worker.end()

    def _start(self, is_async: bool | None = None) -> WorkerProcess:
        number, self._count = self._count, self._count + 1
        plan = replace(
            self._plan,
            number=number,
            is_async=number % 2 == 1 if is_async is None else is_async,
            file=str(self._folder / f"worker-{number}.jsonl"),
            seed=f"{self._plan.seed} {number}",
        )
        worker = self._launch("chaos.worker", plan)
        self.running.append(worker)
        return worker

    def _launch(self, module: str, plan: Plan) -> WorkerProcess:
        return launch(module, plan, Path(plan.file))


def pause(worker: WorkerProcess) -> None:
    """Send SIGSTOP."""
    worker.process.send_signal(signal.SIGSTOP)


def resume(worker: WorkerProcess) -> None:
    """Send SIGCONT."""
    worker.process.send_signal(signal.SIGCONT)
