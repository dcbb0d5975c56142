"""Worker processes, forks of one that has imported SGLang: each bounded in time, and ended by its id."""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import select
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any, Self

SENDER, RANK, SCHEDULER = "bench.sglang.sender", "bench.sglang.rank", "bench.sglang.scheduler"
"""The modules of the workers. Each has a ``Worker``, whose methods are the commands. Only these import SGLang."""
IMPORT_SECONDS = 120.0
ANSWER_SECONDS = 60.0
END_SECONDS = 10.0
"""For an agent that is killed."""
_QUIET = {
    "SGLANG_HOST_IP": "127.0.0.1",
    "OMP_NUM_THREADS": "1",
    "PYTHONWARNINGS": "ignore",
    "TOKENIZERS_PARALLELISM": "false",
    "GLOO_SOCKET_IFNAME": "lo",
}

Job = Mapping[str, Any]


class WorkerError(OSError):
    """A process could not run a command. An OSError, as everything that ends a run with a message."""


@dataclass(frozen=True, slots=True)
class WorkerProcess:
    """A process, from its parent's side."""

    pipe: Connection[Any, Any]
    pid: int

    def send(self, name: str, *arguments: Any) -> Self:
        """Send a command without waiting for the answer."""
        self.pipe.send((name, arguments))
        return self

    def receive(self, seconds: float = ANSWER_SECONDS) -> Any:
        try:
            answer, error = self.pipe.recv() if self.pipe.poll(seconds) else (None, "no answer")
        except EOFError:
            error = "it has ended"
        if error:
            raise WorkerError(f"a process with SGLang: {error}")
        return answer

    def call(self, name: str, *arguments: Any) -> Any:
        return self.send(name, *arguments).receive()


def call_all(workers: list[WorkerProcess], name: str, *arguments: Any) -> list[Any]:
    """Run a command in all processes at the same time; return their answers."""
    for worker in workers:
        worker.send(name, *arguments)
    return [worker.receive() for worker in workers]


def context() -> ForkServerContext:
    """Return the context that processes are started from, with the environment that SGLang's import needs."""
    os.environ.update(_QUIET)
    for name in [name for name in os.environ if name.startswith("KVPOLL_")]:
        del os.environ[name]  # a run must not depend on the shell's settings
    found = get_context("forkserver")
    found.set_forkserver_preload([SENDER, RANK])
    return found


@contextlib.contextmanager
def own_agents() -> Iterator[None]:
    """Keep the agents of the processes that start in this block in a folder of their own, and end them with the block.

    By itself, an agent whose processes were killed waits for its server, which ends with the run.
    """
    with tempfile.TemporaryDirectory(prefix="kva", ignore_cleanup_errors=True) as folder:
        os.environ["XDG_RUNTIME_DIR"] = folder
        try:
            yield
        finally:
            for pid, log in _agents():
                _end_agent(pid, log)


def agent_seconds() -> float:
    """Return the CPU seconds that this run's agents have taken so far, as far as they run."""
    ticks = 0
    for pid, _ in _agents():
        with contextlib.suppress(OSError):
            stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(stat[11]) + int(stat[12])  # utime and stime; the first field here is the third one
    return ticks / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def on_its_own_cpu(worker: WorkerProcess, server: int | None) -> Iterator[None]:
    """Keep a process on one CPU, and its agent and the server on the others, as far as there are others.

    A host with GPUs has tens of CPUs. On two, the kernel has agent and server run on SGLang's while that sleeps, and
    then SGLang finds the caches cold: that is no work of its process.
    """
    cpus = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else []
    if len(cpus) < 2:
        yield
        return
    others = [pid for pid, _ in _agents()] + ([] if server is None else [server])
    _keep_on(cpus[:1], worker.pid)
    _keep_on(cpus[1:], *others)
    try:
        yield
    finally:
        _keep_on(cpus, worker.pid, *others)


def _keep_on(cpus: list[int], *pids: int) -> None:
    for pid in pids:
        with contextlib.suppress(OSError):  # it has ended
            for thread in Path(f"/proc/{pid}/task").iterdir():
                os.sched_setaffinity(int(thread.name), cpus)


def _agents() -> Iterator[tuple[int, Path]]:
    """Yield the process ids of this run's agents that run, and the log of each."""
    for log in Path(os.environ["XDG_RUNTIME_DIR"]).rglob("*.log"):
        for pid in map(int, re.findall(r"runs as process (\d+)", log.read_text())):
            if _writes(pid, log):
                yield pid, log


def _writes(pid: int, log: Path) -> bool:
    """Whether the process of that id runs and writes this log, and is no later one with the same id."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/fd/1").readlink() == log
    return False


def _end_agent(pid: int, log: Path) -> None:
    """Kill an agent, if the process of that id is still the one that writes this log; return once it has ended."""
    with contextlib.suppress(OSError), os.fdopen(os.pidfd_open(pid)) as process:  # the id is not used again meanwhile
        if _writes(pid, log):
            signal.pidfd_send_signal(process.fileno(), signal.SIGKILL)
            select.select([process], [], [], END_SECONDS)


@contextlib.contextmanager
def started(context: ForkServerContext, module: str, jobs: list[Job]) -> Iterator[list[WorkerProcess]]:
    """Start a process for each job; yield them when all are up, and kill them at the end."""
    workers: list[WorkerProcess] = []
    processes = []
    try:
        for job in jobs:
            ours, theirs = context.Pipe()
            processes.append(context.Process(target=_work, args=(module, job, theirs), daemon=True))
            processes[-1].start()
            workers.append(WorkerProcess(ours, processes[-1].pid or 0))
            theirs.close()
        for worker in workers:
            worker.receive(IMPORT_SECONDS)
        yield workers
    finally:
        for worker in workers:
            worker.pipe.close()
        for process in processes:
            process.kill()
            process.join()


def _work(module: str, job: Job, pipe: Connection[Any, Any]) -> None:
    """Run a process until the pipe ends, which it does however the other side ends."""
    worker = None
    with contextlib.suppress(EOFError, OSError):
        worker = _attempt(pipe, lambda: importlib.import_module(module).Worker(job), returns=False)
        while worker is not None:
            name, arguments = pipe.recv()
            _attempt(pipe, partial(getattr(worker, name), *arguments))
    os._exit(0)  # SGLang's own exit would wait for other processes, which have ended


def _attempt(pipe: Connection[Any, Any], call: Callable[[], Any], returns: bool = True) -> Any:
    try:
        answer = call()
    except Exception as error:
        pipe.send((None, repr(error)[:500] or "an error"))
        return None
    pipe.send((answer if returns else None, ""))
    return answer
