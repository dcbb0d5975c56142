"""The application of the agents of these tests: it records all that its sessions learn, as lines of JSON."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from redis_kvpoll.agent import ring
from redis_kvpoll.agent.server import agent_sessions, process_death, sealed_memory

RECORD, ECHO, FLOOD, BREAK, STALL = range(5)
"""What a message asks for: to be recorded alone, to be sent back, as many messages as it says, an exception, a long
time."""


def record(event, **facts):
    """Append one line, in one write, so that the agents of a test can share the file."""
    line = json.dumps({"event": event, "agent": os.getpid(), **facts}) + "\n"
    descriptor = os.open(os.environ["AGENT_EVENTS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, line.encode())
    os.close(descriptor)


class Recorder:
    """A session."""

    def __init__(self, peer, hello):
        if hello == b"refuse":
            raise ValueError("this application refuses it")
        if hello == b"refuse oddly":
            raise ValueError("\udcff is no name")
        self.peer = peer
        self.name = hello.decode()
        record("opened", name=self.name, pid=peer.pid, uid=peer.uid, is_watched=peer.is_watched)
        if hello == b"early":
            peer.send(ECHO, b"before the welcome")

    def welcome(self):
        return b"welcome " + self.name.encode()

    def received(self, kind, payload):
        if kind == BREAK:
            raise RuntimeError("a session that fails")
        if kind == STALL:
            time.sleep(float(payload))
        if kind == FLOOD:
            for number in range(int(payload)):
                self.peer.send(RECORD, b"%06d" % number + bytes(1_000))
            return
        record("received", name=self.name, payload=payload[:40].decode(), length=len(payload))
        if kind == ECHO:
            self.peer.send(ECHO, payload)

    def ended(self, how):
        record("ended", name=self.name, how=how)


class Application:
    """All is told while there is no file with the ending .behind."""

    def open_session(self, peer, hello):
        return Recorder(peer, hello)

    def is_told(self):
        return not Path(os.environ["AGENT_EVENTS"] + ".behind").exists()

    async def close(self):
        record("closed")


def make():
    record("started", affinity=len(os.sched_getaffinity(0)), parent=os.getppid())
    return Application()


def make_without_peer_pidfd():
    """As on a kernel before 6.5."""
    process_death.SO_PEERPIDFD = -1
    return make()


def make_without_pidfd():
    """As with processes in a foreign PID namespace."""
    agent_sessions.open_watch = lambda *_: None
    return make()


def make_without_memfd_in_python():
    """As with the Python of uv or conda, which was built with a glibc before 2.27."""
    del os.memfd_create
    return make()


def make_without_memfd():
    """As on a host that has none."""

    def fail(_):
        raise OSError("no memory to share")

    sealed_memory.sealed_memory = fail
    return make()


def make_impatient():
    """A process whose connection has ended counts as one that lives at once."""
    agent_sessions.VANISHED_SECONDS = 0.1
    return make()


def make_without_rings():
    """As an agent that knows no rings, or on a CPU that allows none."""
    ring.is_supported = lambda: False
    return make()


def fail():
    raise RuntimeError("this application cannot be made")
