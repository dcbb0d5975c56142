"""``python -m bench.agent``: what an agent's connections cost, without a table behind them.

The agent has the asyncio store loaded, as one with a table has. Times depend on the machine. There are budgets for
memory, and for what a client adds.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from redis_kvpoll.agent.client.channel import AgentChannel
from redis_kvpoll.agent.client.launch import Launcher
from redis_kvpoll.agent.server.agent_sessions import AgentSession
from redis_kvpoll.agent.server.peer_socket import Peer

STARTS, MESSAGES, ROUND_TRIPS, POLLS = 5, 5_000, 500, 200_000
SPACING = 0.001
"""Seconds between two messages: about what 200 requests a second of five changes need."""
IGNORED, ECHO = range(2)
AGENT_MIB, CLIENT_MIB, CLIENT_MS = 60, 3, 50
"""Budgets."""
CLIENT = "import redis_kvpoll.agent.client.channel, redis_kvpoll.agent.client.launch"
MEASURE = """
import dataclasses, logging, pathlib, socket, subprocess, threading, time
def resident():
    return int(pathlib.Path("/proc/self/status").read_text().partition("VmRSS:")[2].split()[0])
before, began = resident(), time.perf_counter()
{}
print(resident() - before, time.perf_counter() - began)
"""
"""Beside modules that every engine has loaded."""


class _Echo:
    """A session."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer

    def welcome(self) -> bytes:
        return str(os.getpid()).encode()

    def received(self, kind: int, payload: bytes) -> None:
        if kind == ECHO:
            self._peer.send(ECHO, payload)

    def ended(self, how: str) -> None:
        pass


class _Application:
    """An application of such sessions."""

    def open_session(self, peer: Peer, _: bytes) -> AgentSession:
        return _Echo(peer)

    def is_told(self) -> bool:
        return True

    async def close(self) -> None:
        pass


def make() -> _Application:
    """Make the application, in the agent."""
    import_module("redis_kvpoll.aio.store")
    return _Application()


class _Client:
    """A connected channel."""

    def __init__(self, engine: str) -> None:
        self.answers = 0
        self.agent = 0
        self._connected = threading.Event()
        launcher = Launcher(engine, "bench.agent:make", ("--idle=0.2",))
        self.channel = AgentChannel(launcher, b"", self._answer, self._connect, self._connected.clear)
        began = time.perf_counter()
        self.channel.start()
        self._connected.wait()
        self.start_seconds = time.perf_counter() - began

    def _answer(self, _kind: int, _payload: bytes) -> None:
        self.answers += 1

    def _connect(self, welcome: bytes) -> None:
        self.agent = int(welcome)
        self._connected.set()

    def round_trip(self) -> float:
        """Return the seconds of one message there and back, taken by a caller that polls."""
        wanted, began = self.answers + 1, time.perf_counter()
        self.channel.send(ECHO, b"x" * 40)
        while self.answers < wanted:
            self.channel.poll()
            time.sleep(0.0002)
        return time.perf_counter() - began


def main() -> int:
    """Measure and print; returns the exit status: 1 if a budget is exceeded."""
    with tempfile.TemporaryDirectory(prefix="kva") as folder:
        os.environ["XDG_RUNTIME_DIR"] = folder
        starts, memory = zip(*(_start(f"start {number}") for number in range(STARTS)), strict=True)
        client = _Client("bench")
        sends, polling = _spaced(client)
        message = _together(client)
        round_trips = [client.round_trip() for _ in range(ROUND_TRIPS)]
        polls = _per_call(client.channel.poll, POLLS)
        client.channel.close()
    added_memory, added_seconds = _added_to_a_process()
    rows = [
        ("an agent's start, until its welcome", f"{1e3 * statistics.median(starts):.0f} ms", True),
        ("an agent's memory (RSS)", f"{max(memory):.0f} MiB", max(memory) <= AGENT_MIB),
        ("what a client adds: memory", f"{added_memory:.1f} MiB", added_memory <= CLIENT_MIB),
        ("what a client adds: start", f"{1e3 * added_seconds:.0f} ms", 1e3 * added_seconds <= CLIENT_MS),
        ("send, CPU of the caller's thread", f"{1e6 * sends:.1f} us", True),
        ("the agent's CPU while its clients are busy", f"{100 * polling:.1f} %", True),
        ("the agent's CPU for each of many messages", f"{1e6 * message:.1f} us", True),
        ("poll, when nothing has come", f"{1e9 * polls:.0f} ns", True),
        ("there and back, to a caller that polls", f"{1e3 * statistics.median(round_trips):.1f} ms", True),
    ]
    for name, figure, is_within in rows:
        sys.stdout.write(f"{name:42} {figure:>10}{'' if is_within else '  over its budget'}\n")
    return 0 if all(is_within for *_, is_within in rows) else 1


def _start(engine: str) -> tuple[float, float]:
    client = _Client(engine)
    status = Path(f"/proc/{client.agent}/status").read_text()
    memory = int(status.partition("VmRSS:")[2].split()[0]) / 1024
    client.channel.close()
    return client.start_seconds, memory


def _spaced(client: _Client) -> tuple[float, float]:
    """Return the caller's CPU seconds for a message sent at a distance, and the agent's CPU for each second of that."""
    mine, before, began = 0.0, _cpu(client.agent), time.perf_counter()
    for _ in range(MESSAGES):
        start = time.thread_time()
        client.channel.send(IGNORED, b"x" * 40)
        mine += time.thread_time() - start
        time.sleep(SPACING)
    return mine / MESSAGES, (_cpu(client.agent) - before) / (time.perf_counter() - began)


def _together(client: _Client) -> float:
    """Return the agent's CPU seconds for a message, a hundred at a time."""
    before, sent = _cpu(client.agent), 0
    while sent < 4 * MESSAGES:
        sent += sum(client.channel.send(IGNORED, b"x" * 40) for _ in range(100))
        time.sleep(5 * SPACING)
    return (_cpu(client.agent) - before) / sent


def _per_call(call: Callable[[], None], calls: int) -> float:
    began = time.thread_time()
    for _ in range(calls):
        call()
    return (time.thread_time() - began) / calls


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _added_to_a_process() -> tuple[float, float]:
    """Return the MiB and seconds that the client's modules add to a process."""
    found = [
        subprocess.run([sys.executable, "-c", MEASURE.format(CLIENT)], capture_output=True, text=True, check=True)  # noqa: S603
        for _ in range(STARTS)
    ]
    memory, seconds = zip(*(map(float, each.stdout.split()) for each in found), strict=True)
    return statistics.median(memory) / 1024, statistics.median(seconds)


if __name__ == "__main__":
    sys.exit(main())
