"""Processes with SGLang in them, forks of one that has imported it: each bounded in time, and ended by its id."""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from typing import Any, Self

SENDER, RANK = "bench.sglang.sender", "bench.sglang.rank"
"""What a process is: modules with a ``Worker``, whose methods are what it can be told. Only these import SGLang."""
IMPORT_SECONDS = 120.0
ANSWER_SECONDS = 60.0
_QUIET = {
    "SGLANG_HOST_IP": "127.0.0.1",
    "OMP_NUM_THREADS": "1",
    "PYTHONWARNINGS": "ignore",
    "TOKENIZERS_PARALLELISM": "false",
    "GLOO_SOCKET_IFNAME": "lo",
}

Job = Mapping[str, Any]


class WorkerError(OSError):
    """A process could not do what it was told; OSError, as for all that ends a run with a sentence."""


@dataclass(frozen=True, slots=True)
class Member:
    """A process that works for us."""

    pipe: Connection[Any, Any]

    def tell(self, name: str, *words: Any) -> Self:
        """Give an order whose answer is heard later."""
        self.pipe.send((name, words))
        return self

    def hear(self, seconds: float = ANSWER_SECONDS) -> Any:
        try:
            answer, error = self.pipe.recv() if self.pipe.poll(seconds) else (None, "it said nothing")
        except EOFError:
            error = "it is gone"
        if error:
            raise WorkerError(f"a process with SGLang: {error}")
        return answer

    def do(self, name: str, *words: Any) -> Any:
        return self.tell(name, *words).hear()


def tell_all(members: list[Member], name: str, *words: Any) -> list[Any]:
    """The answers of all, who work at the same time."""
    for member in members:
        member.tell(name, *words)
    return [member.hear() for member in members]


def context() -> ForkServerContext:
    """From which processes are made. What it sets, SGLang's import needs."""
    os.environ.update(_QUIET)
    for name in [name for name in os.environ if name.startswith("KVPOLL_")]:
        del os.environ[name]  # a run is not to depend on who has set what
    found = get_context("forkserver")
    found.set_forkserver_preload([SENDER, RANK])
    return found


@contextlib.contextmanager
def hired(context: ForkServerContext, module: str, jobs: list[Job]) -> Iterator[list[Member]]:
    """A process for each job, all of them up."""
    members: list[Member] = []
    processes = []
    try:
        for job in jobs:
            ours, theirs = context.Pipe()
            members.append(Member(ours))
            processes.append(context.Process(target=_work, args=(module, job, theirs), daemon=True))
            processes[-1].start()
            theirs.close()
        for member in members:
            member.hear(IMPORT_SECONDS)
        yield members
    finally:
        for member in members:
            member.pipe.close()
        for process in processes:
            process.kill()
            process.join()


def _work(module: str, job: Job, pipe: Connection[Any, Any]) -> None:
    """A process's whole life: until the pipe ends, which it does however the other side dies."""
    worker = None
    with contextlib.suppress(EOFError, OSError):
        worker = _attempt(pipe, lambda: importlib.import_module(module).Worker(job), is_told=False)
        while worker is not None:
            name, words = pipe.recv()
            _attempt(pipe, partial(getattr(worker, name), *words))
    os._exit(0)  # without SGLang's farewells: some wait for other processes, which are gone


def _attempt(pipe: Connection[Any, Any], what: Callable[[], Any], is_told: bool = True) -> Any:
    try:
        answer = what()
    except Exception as error:
        pipe.send((None, repr(error)[:500] or "an error"))
        return None
    pipe.send((answer if is_told else None, ""))
    return answer
