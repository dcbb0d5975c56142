"""In a process with SGLang: a loop like its scheduler's, beside requests on a dict, or on a table.

A round of the loop is 1 ms of Python and 2 ms of sleep. The steps of each request are spread over its life.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from heapq import heappop, heappush
from random import Random
from typing import Any
from unittest.mock import patch

from bench.peers.way import wait_until
from bench.sglang.moments import TIMEOUT_SECONDS
from bench.sglang.processes import Job
from bench.sglang.rounds import AGENT, PLAIN, THREAD
from bench.sglang.sender import Worker as SenderWorker
from bench.sglang.sender import manager_with
from redis_kvpoll.agent.client import open_channel
from tests.support.local_channel import open_local

WORK_SECONDS = 0.001
SLEEP_SECONDS = 0.002
STEPS = 5
LIVES = (0.02, 0.2)
"""A request's life, in seconds: the least and the most."""


class Worker(SenderWorker):
    """Three managers. Job: ``environment``, the plugin's settings."""

    def __init__(self, job: Job) -> None:
        self._random = Random(13)  # noqa: S311 - ids and times
        environment = job["environment"]
        self._managers = {
            AGENT: manager_with(environment),
            THREAD: _in_a_thread(environment | {"KVPOLL_NAMESPACE": f"{environment['KVPOLL_NAMESPACE']}.thread"}),
            PLAIN: manager_with({}),
        }
        self._opened = None
        self._turns = _turns_of(WORK_SECONDS)

    def rounds(self, how: str, rate: int, seconds: float) -> tuple[float, float]:
        """Run the loop beside so many requests a second; return its rounds a second, and the CPU seconds that the
        requests' steps and the process's other threads take: not the loop's own, which differ by chance."""
        steps = self._steps(how, rate, seconds)
        due = next(steps, None)
        before, start = time.process_time() - time.thread_time(), time.monotonic()
        count, stepped = 0, 0.0
        while (now := time.monotonic() - start) < seconds:
            begun = time.thread_time()
            while due is not None and due[0] <= now:
                next(due[1], None)
                due = next(steps, None)
            stepped += time.thread_time() - begun
            _work(self._turns)
            time.sleep(SLEEP_SECONDS)
            count += 1
        taken = time.monotonic() - start
        beside = time.process_time() - time.thread_time() - before
        while due is not None:
            next(due[1], None)
            due = next(steps, None)
        self._await_all()
        return count / taken, stepped + beside

    def _steps(self, how: str, rate: int, seconds: float) -> Iterator[tuple[float, Iterator[bool]]]:
        """Yield the steps of all requests: when each is due, and the life that it is a step of."""
        heap: list[tuple[float, int, Iterator[bool]]] = []
        for number in range(int(rate * seconds)):
            begin, length = number / rate, self._random.uniform(*LIVES)
            life = self._life(how)
            for step in range(STEPS + 1):
                heappush(heap, (begin + length * step / STEPS, number, life))
        while heap:
            at, _, life = heappop(heap)
            yield at, life

    def _await_all(self) -> None:
        """Return when the tables have everything."""
        for how in (AGENT, THREAD):
            wait_until(lambda how=how: self._managers[how].kvpoll_worker.is_idle, TIMEOUT_SECONDS)  # type: ignore[misc]


def _in_a_thread(environment: dict[str, str]) -> Any:
    """Return a manager whose session runs in a thread of its process, in place of an agent."""
    with patch.object(open_channel, "open_channel", open_local):
        return manager_with(environment)


def _work(turns: int) -> int:
    total = 0
    for number in range(turns):
        total += number & 3
    return total


def _turns_of(seconds: float) -> int:
    """Return how many turns of ``_work`` take so long alone."""
    turns, best = 20_000, float("inf")
    for _ in range(20):
        start = time.perf_counter()
        _work(turns)
        best = min(best, time.perf_counter() - start)
    return round(turns * seconds / best)
