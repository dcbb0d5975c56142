"""In a process with SGLang: the prefill side of requests, in one manager on dicts and one with the plugin."""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Iterator
from random import Random
from typing import Any

from sglang.srt.plugins import load_plugins

from bench.measure import Contender, Times, interleave
from bench.peers.way import wait_until
from bench.services import answers, free_ports
from bench.sglang.moments import TIMEOUT_SECONDS, wait_for
from bench.sglang.processes import Job
from redis_kvpoll.integrations.sglang.maps import StatusMap
from tests.sglang.managers import HOST, PAGES, CommonKVBootstrapServer, KVPoll, PrefillManager, Sender, Settings

PLAIN, PLUGIN = "dict", "plugin"
AT_ONCE = 8
"""Requests in progress, when paced."""
PAUSE = 0.0005
_POLLED = 100
_TIMES = 20


class Counted(dict[int, Any]):
    """A dict that counts what SGLang does with it."""

    operations = 0

    def _count(name: str) -> Any:  # type: ignore[misc] # noqa: N805 - it makes the methods below
        method = getattr(dict, name)

        def counting(self: Any, *words: Any) -> Any:
            Counted.operations += 1
            return method(self, *words)

        return counting

    __getitem__, __setitem__, __contains__ = _count("__getitem__"), _count("__setitem__"), _count("__contains__")
    get, pop, setdefault = _count("get"), _count("pop"), _count("setdefault")


class Worker:
    """Both managers. Job: ``environment``, the plugin's settings."""

    def __init__(self, job: Job) -> None:
        logging.basicConfig(level=logging.WARNING)
        self._random = Random(11)  # noqa: S311 - ids
        # The one with the plugin first: the hook stays in the process.
        self._managers = {PLUGIN: manager_with(job["environment"]), PLAIN: manager_with({})}
        plugged = self._managers[PLUGIN]
        if not isinstance(plugged.request_status, StatusMap):
            raise TypeError(f"the plugin did not join: request_status is a {type(plugged.request_status).__name__}")
        self._worker = plugged.kvpoll_worker
        self._opened: Any = None

    def operations(self) -> int:
        """Return how many table operations a request takes."""
        manager = self._managers[PLAIN]
        names = ("request_status", "failure_records", "req_to_decode_prefix_len")
        kept = {name: getattr(manager, name) for name in names}
        for name in names:
            setattr(manager, name, Counted())
        self._live(PLAIN, 1)
        for name, table in kept.items():
            setattr(manager, name, table)
        return Counted.operations

    # sender.poll()

    def polls(self, rounds: int) -> Times:
        """Return the seconds of a call, over many senders in turn."""
        contenders = []
        for how in self._managers:
            opened, waiting = self._senders(how, ()), self._senders(how, (KVPoll.WaitingForInput, KVPoll.Transferring))
            for name, senders in (("Bootstrapping", opened), ("Transferring", waiting)):
                contenders.append(
                    Contender(f"{name} {how}", _polling(senders), len(senders) * _TIMES, self._await_idle)
                )
        return interleave(contenders, rounds)

    def _senders(self, how: str, statuses: tuple[int, ...]) -> list[Any]:
        manager = self._managers[how]
        senders = [self._sender(how) for _ in range(_POLLED)]
        for sender in senders:
            for status in statuses:
                manager.update_status(sender.bootstrap_room, status)
        return senders

    # A request's life

    def lives(self, rounds: int, count: int, is_paced: bool) -> dict[str, Times]:
        """Return the seconds of a request in SGLang's thread, by the clock and of CPU, and the other threads' CPU.

        Those are the plugin's and SGLang's idle ones. Paced: with time between the steps, as between a scheduler's
        rounds.
        """
        found: dict[str, Times] = {figure: {how: [] for how in self._managers} for figure in ("clock", "own", "beside")}
        run = self._pace if is_paced else self._live
        for number in range(-1, rounds):  # the first is to warm up
            for how in sorted(self._managers, reverse=number % 2 == 0):
                self._await_idle()
                before = time.process_time() - time.thread_time()
                clock, own = run(how, count)
                self._await_idle()
                beside = time.process_time() - time.thread_time() - before
                if number >= 0:
                    for figure, seconds in (("clock", clock), ("own", own), ("beside", beside)):
                        found[figure][how].append(seconds / count)
        return found

    def idle(self, seconds: float) -> float:
        """Return the CPU seconds of all threads in a second without requests."""
        self._await_idle()
        before = time.process_time()
        time.sleep(seconds)
        return (time.process_time() - before) / seconds

    def _pace(self, how: str, count: int) -> tuple[float, float]:
        """Take requests through their steps with pauses; return the seconds and CPU seconds of all steps."""
        clock = own = 0.0
        waiting = [self._life(how) for _ in range(count)]
        under_way = deque(waiting.pop() for _ in range(min(AT_ONCE, count)))
        while under_way:
            life = under_way.popleft()
            start, own_start = time.perf_counter(), time.thread_time()
            goes_on = next(life, False)
            own += time.thread_time() - own_start
            clock += time.perf_counter() - start
            if goes_on:
                under_way.append(life)
            elif waiting:
                under_way.append(waiting.pop())
            time.sleep(PAUSE)
        return clock, own

    def _live(self, how: str, count: int) -> tuple[float, float]:
        """Take requests through their steps one after the other; return the same."""
        start, own_start = time.perf_counter(), time.thread_time()
        for _ in range(count):
            for _ in self._life(how):
                pass
        return time.perf_counter() - start, time.thread_time() - own_start

    def _life(self, how: str) -> Iterator[bool]:
        """Do what the scheduler, bootstrap thread and transfer worker do for one request, step by step."""
        manager = self._managers[how]
        sender = self._sender(how)
        room = sender.bootstrap_room
        yield True
        manager.req_to_decode_prefix_len[room] = 5
        manager.update_status(room, KVPoll.WaitingForInput)
        yield True
        if sender.poll() != KVPoll.WaitingForInput or sender.pop_decode_prefix_len() != 5:
            raise ValueError(f"{how}: room {room} is not waiting with its length")
        sender.send(PAGES)
        yield True
        manager.update_status(room, KVPoll.Transferring)
        yield True
        manager.conclude_transfer(bootstrap_room=room, status=KVPoll.Success)
        yield True
        if sender.poll() != KVPoll.Success:
            raise ValueError(f"{how}: room {room} has not succeeded")
        sender.clear()

    # Until the table has it

    def open_at(self, room: int, at: float) -> float:
        """Make a room's sender at a moment; return when that was."""
        wait_for(at)
        start = time.monotonic()
        self._opened = self._sender(PLUGIN, room)
        return start

    def advance_at(self, at: float) -> float:
        """Advance that room at a moment; return when that was."""
        wait_for(at)
        start = time.monotonic()
        self._managers[PLUGIN].update_status(self._opened.bootstrap_room, KVPoll.WaitingForInput)
        return start

    def end(self) -> None:
        self._opened.clear()
        self._await_idle()

    def _sender(self, how: str, room: int | None = None) -> Any:
        sender = Sender(self._managers[how], "", room or self._random.randrange(10**18, 2**63))
        sender.init(len(PAGES), 0)
        return sender

    def _await_idle(self) -> None:
        """Return when the plugin has published everything."""
        wait_until(lambda: self._worker.is_idle, TIMEOUT_SECONDS)


def _polling(senders: list[Any]) -> Any:
    def poll() -> None:
        for _ in range(_TIMES):
            for sender in senders:
                sender.poll()

    return poll


def manager_with(environment: dict[str, str]) -> Any:
    """Return a manager of an instance of its own; with the plugin if the environment has its settings."""
    (port,) = free_ports(1)
    CommonKVBootstrapServer(HOST, port)
    wait_until(lambda: answers(port))
    os.environ.update(environment)
    load_plugins()
    manager = PrefillManager(Settings("prefill", port))
    for name in environment:
        del os.environ[name]
    return manager
