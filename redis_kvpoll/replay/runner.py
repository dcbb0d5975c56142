"""Runs a replay: provides its server, starts the router process, and returns its report."""

from __future__ import annotations

import multiprocessing
import secrets
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from redis_kvpoll.errors import InvalidInputError, ReplayError
from redis_kvpoll.replay import router
from redis_kvpoll.replay.fault_plan import SIDES
from redis_kvpoll.replay.messages import Plan
from redis_kvpoll.replay.mirror_check import MirrorCheck
from redis_kvpoll.replay.report import Report
from redis_kvpoll.replay.router import ReplayProgress, Run
from redis_kvpoll.replay.side_table import open_store
from redis_kvpoll.transport.embedded import EmbeddedServer
from redis_kvpoll.transport.urls import parse
from redis_kvpoll.validation import Policy

TTL_SECONDS = 10.0
"""Short, so that the rooms of a killed worker expire during the replay."""

LEASE_SECONDS = 5.0
"""The default of ``StatusStore.lease``."""

CONNECT_SECONDS = 2.0
"""How long to try to reach the server before any process is started."""


@contextmanager
def server(url: str | None) -> Iterator[tuple[str, EmbeddedServer | None]]:
    """The URL to use: the given one, or that of a private server, which runs until the block ends."""
    if url is not None and parse(url).kind == "memory":
        raise InvalidInputError("memory:// is inside one process; a replay runs many: use embedded:// or a server")
    if url is not None and parse(url).kind != "embedded":
        yield url, None
    else:
        with EmbeddedServer() as embedded:
            yield embedded.url, embedded


def plan(url: str, policy: Policy, speed: float, fenced: bool) -> Plan:
    """The plan of a new replay, with its own namespaces."""
    lease = LEASE_SECONDS if fenced else None
    return Plan(url, f"replay-{secrets.token_hex(2)}", policy, speed, TTL_SECONDS, lease)


class ServerKiller:
    """Kills a private server several times during a replay, evenly spread over its requests."""

    def __init__(self, server: EmbeddedServer, times: int, requests: int) -> None:
        self._server = server
        self._due = [requests * number // (times + 1) for number in range(1, times + 1)]
        self.kills = 0

    def update(self, snapshot: ReplayProgress) -> None:
        """Kill the server if it is time to; on return it runs again, empty."""
        if self.kills < len(self._due) and snapshot.dispatched >= self._due[self.kills]:
            self.kills += 1
            self._server.restart()


def replay(run: Run, progress: Callable[[ReplayProgress], None]) -> Report:
    """Run a replay in its own processes; ``progress`` gets ten snapshots per second.

    Raises:
        ReplayError: it could not be completed; the message names the cause.
        StoreUnavailableError: the server is unreachable; no process was started.
    """
    for side in SIDES:
        with open_store(run.plan, side, CONNECT_SECONDS) as store:
            store.settings()
    with MirrorCheck(run.plan) as mirrors:
        report = _run(run, progress, mirrors)
    mirrors.add_to(report)
    return report


def _run(run: Run, progress: Callable[[ReplayProgress], None], mirrors: MirrorCheck) -> Report:
    """Start the router, and show its snapshots until its report comes."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=router.main, args=(run, theirs), name="kvpoll-router")
    with _no_interrupts():
        process.start()
    theirs.close()
    try:
        while True:
            message = ours.recv()
            if isinstance(message, Report):
                return message
            if isinstance(message, ReplayError):
                raise message
            progress(message)
            mirrors.compare(message.rooms)
    except EOFError:
        raise ReplayError("the router process died; its own message is above") from None
    finally:
        # The router sees the end of its pipe, and ends the workers and itself.
        ours.close()
        process.join(timeout=10)
        if process.is_alive():
            process.kill()
            process.join()


@contextmanager
def _no_interrupts() -> Iterator[None]:
    """Start processes that ignore Ctrl-C from the beginning, not only once they have set their own handler."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
