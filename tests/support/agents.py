"""Agents and their clients as real processes, in a folder of their own; see tests/agent/application.py."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections import deque
from pathlib import Path

from redis_kvpoll.agent import frames, shared_memory
from redis_kvpoll.agent.client.channel import AgentChannel, Timing
from redis_kvpoll.agent.client.launch import Launcher
from redis_kvpoll.agent.client.source import connect_to
from redis_kvpoll.agent.link import start_of
from redis_kvpoll.agent.rendezvous import Rendezvous
from redis_kvpoll.agent.ring import RingWriter
from tests.support import pace
from tests.support.real import until

APPLICATION = "tests.agent.application"
PROJECT = Path(__file__).parents[2]


class Recorded:
    """A channel in this process, and what its callbacks were told, in order."""

    def __init__(self, source, hello=b"here", **options):
        self.calls = []
        self.threads = set()
        self.lock = threading.Lock()
        self.channel = AgentChannel(
            source,
            hello,
            lambda kind, payload: self._add("message", kind, payload),
            lambda payload: self._add("connected", payload),
            lambda: self._add("away"),
            on_writable=lambda: self._add("writable"),
            **options,
        )

    def _add(self, *call):
        with self.lock:
            self.calls.append(call)
            self.threads.add(threading.current_thread().name)

    def named(self, name):
        return [call for call in self.calls if call[0] == name]

    def messages(self):
        return [call[2] for call in self.named("message")]

    def send(self, kind, payload):
        """Send a message as soon as the channel takes it; it refuses one while its own thread sends."""
        until(lambda: self.channel.send(kind, payload), "room for a message")

    def start(self):
        self.channel.start()
        until(lambda: self.channel.is_connected, "a connection")
        return self


class Raw:
    """A connection without a channel, to do what a channel does not."""

    def __init__(self, path, channel=b"c" * 16, name=b"raw", versions=frames.VERSIONS):
        self.socket = connect_to(path)
        if name is not None:
            hello = frames.Hello(os.getpid(), start_of(os.getpid()), channel, 0, name, versions)
            self.send(frames.HELLO, hello.pack())

    def send(self, kind, payload):
        for packet in frames.packets(kind, payload):
            self.socket.send(packet)

    def answer(self):
        self.socket.settimeout(60)
        return frames.Assembler().add(self.socket.recv(100_000))

    def memory(self):
        """The descriptor of the shared memory, which comes with the welcome."""
        self.socket.settimeout(60)
        packet, (descriptor,), *_ = socket.recv_fds(self.socket, 100_000, 1)
        assert packet[0] == frames.WELCOME
        return descriptor

    def ring(self):
        """What a process writes to, its memory, and the agent's page. Nobody wakes the agent."""
        descriptor = self.memory()
        page, memory = shared_memory.attach(descriptor)
        os.close(descriptor)
        return RingWriter(memory, page, threading.Lock(), deque(), lambda: None), memory, page


class StandIn:
    """What listens in an agent's place, in this process: a test answers for it."""

    def __init__(self, path):
        self.path = str(path)
        self._connections = []
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(self.path)
        self._listener.listen(64)
        self._listener.settimeout(pace.seconds(20))

    def accept(self):
        """The next connection, once it has said hello and was welcomed."""
        connection, _ = self._listener.accept()
        self._connections.append(connection)
        connection.settimeout(pace.seconds(20))
        assert frames.Assembler().add(connection.recv(100_000))[0] == frames.HELLO
        connection.send(frames.HEADER.pack(frames.WELCOME, 0) + frames.Welcome(1).pack())
        return connection

    def close(self):
        for one in (self._listener, *self._connections):
            one.close()


class Engine:
    """One engine: its agents, clients and recorded events."""

    name = "an engine: 0"

    def __init__(self, folder):
        self.folder = folder
        self.file = folder / "events"
        self._clients = []
        self._channels = []
        self._sockets = []

    def launcher(self, function="make", idle=60.0, name=None):
        return Launcher(name or self.name, f"{APPLICATION}:{function}", (f"--idle={idle}", f"--limit={60 * idle}"))

    def channel(self, hello=b"here", source=None, start=True, **options):
        """A channel of this process, connected."""
        options.setdefault("timing", patient())
        recorded = Recorded(source or self.launcher(), hello, **options)
        self._channels.append(recorded.channel)
        return recorded.start() if start else recorded

    def closing(self, channel):
        """The channel, which is closed in the end, whatever becomes of the test: else it starts agents for ever."""
        self._channels.append(channel)
        return channel

    def raw(self, **options):
        """A connection to the newest agent."""
        raw = Raw(self.rendezvous.socket_path(self.rendezvous.newest()), **options)
        self._sockets.append(raw.socket)
        return raw

    def client(self, name, *options):
        """A process with a channel, connected."""
        command = [sys.executable, "-m", "tests.agent.client", name, self.name, *options]
        client = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=PROJECT)
        self._clients.append(client)
        assert client.stdout.readline() == "connected\n"
        return client

    def events(self, event=None, **facts):
        """The recorded events, perhaps only some."""
        text = self.file.read_text() if self.file.exists() else ""
        lines = text.rpartition("\n")[0].splitlines()  # the last line may be half written
        wanted = facts | ({"event": event} if event else {})
        return [found for found in map(json.loads, lines) if wanted.items() <= found.items()]

    def until(self, event, **facts):
        """Wait for an event; returns the first."""
        return until(lambda: self.events(event, **facts), f"{event} {facts}", 30)[0]

    def agents(self):
        """The ids of all agents there were, in order."""
        return [started["agent"] for started in self.events("started")]

    @property
    def rendezvous(self):
        return Rendezvous(self.name)

    def close(self):
        for raw in self._sockets:
            raw.close()
        for channel in self._channels:
            channel.close(pace.seconds(1))
        for client in self._clients:
            client.kill()
            client.communicate()
        for process in [*self.agents(), *(event["pid"] for event in self.events("holds"))]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        until(lambda: not any(map(is_alive, self.agents())), "the ends of the agents")
        shutil.rmtree(self.folder)


@contextlib.contextmanager
def engine(monkeypatch):
    """A new engine. Its folder has a short path: the address of a socket has room for 107 bytes."""
    folder = Path(tempfile.mkdtemp(prefix="kva"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    monkeypatch.setenv("AGENT_EVENTS", str(folder / "events"))
    made = Engine(folder)
    try:
        yield made
    finally:
        made.close()


def patient(**options):
    """The timing of a channel that does not give up an agent because this machine is busy."""
    return Timing(**{"unanswered": round(8 * pace.factor()), "unwelcome": 1_000} | options)


def is_alive(pid):
    """Whether a process runs; a zombie does not."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def tell(client, command, answer):
    """Tell a client process something, and wait until it has done it."""
    client.stdin.write(command + "\n")
    client.stdin.flush()
    assert client.stdout.readline() == answer + "\n"


def kill_with_messages(engine, count, *options):
    """Kill a client, the victim, while the agent stands still and has read none of its messages."""
    client = engine.client("victim", f"--messages={count}", *options)
    (agent,) = engine.agents()
    os.kill(agent, signal.SIGSTOP)
    tell(client, "send", "sent")
    client.kill()
    client.wait()
    os.kill(agent, signal.SIGCONT)


def learned_of_victim(engine):
    """Return what the session of the victim learned, in order."""
    return [event.get("how", event.get("payload")) for event in engine.events(name="victim")[1:]]


def pair():
    """Two connected sockets of the kind that agents use."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
