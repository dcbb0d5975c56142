"""The agent's side of its connections, in the event loop of the test: descriptors, and what waits for room."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import resource
import socket
import time
from pathlib import Path

import pytest

from redis_kvpoll.agent import frames
from redis_kvpoll.agent.client.source import connect_to
from redis_kvpoll.agent.ring import SIZE
from redis_kvpoll.agent.server import acceptor, agent_sessions
from redis_kvpoll.agent.server.agent_server import AgentServer, ServerTiming
from redis_kvpoll.agent.server.peer_socket import MAX_PACKETS
from tests.agent.application import RECORD
from tests.support import agents, calls, pace

COUNT = 20


class Listener(socket.socket):
    """A listening socket that counts how often it was asked for a connection."""

    asked = 0

    def accept(self):
        self.asked += 1
        return super().accept()


class Session:
    def __init__(self, peer, events):
        self.peer = peer
        self.events = events
        self.received_payloads = []

    def welcome(self):
        return b""

    def received(self, kind, payload):
        self.received_payloads.append(payload)

    def ended(self, how):
        self.events.append(how)


@pytest.fixture
def path(tmp_path, monkeypatch):
    """Relative, as the address of a socket has room for 107 bytes."""
    monkeypatch.chdir(tmp_path)
    return "agent.sock"


@pytest.fixture
async def server(path):
    """A server that blocks as soon as nothing comes, with its listener, and the sessions that it has opened."""
    listener = Listener(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(path)
    listener.listen(2 * COUNT)
    sessions, events, newest = [], [], [True]

    def open_session(peer, hello):
        sessions.append(Session(peer, events))
        return sessions[-1]

    timing = ServerTiming(quiet=0.0, check=0.05)
    server = AgentServer(listener, open_session, is_newest=lambda: newest[0], timing=timing)
    server.listener, server.sessions, server.events, server.newest = listener, sessions, events, newest
    running = asyncio.create_task(server.run())
    yield server
    server.stop()
    await running


def descriptors():
    """Those of this process that are no files: their numbers, and what they are."""
    found = set()
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found.add((path.name, str(path.readlink())))
    return {(number, what) for number, what in found if not what.startswith("/")}


class Timers:
    """The timers of the event loop that a test lets run out: those of a tenth of a second and more."""

    def __init__(self, monkeypatch):
        self._waiting = []
        loop = asyncio.get_running_loop()
        call_later = loop.call_later

        def note(delay, callback, *args, **options):
            if delay <= 0.1:
                return call_later(delay, callback, *args, **options)
            self._waiting.append((delay, callback, args))
            return None

        monkeypatch.setattr(loop, "call_later", note)

    def run_out(self, seconds):
        """Let so many seconds go by."""
        for delay, callback, args in self._waiting:
            if delay <= seconds:
                callback(*args)


async def test_bug_in_one_connection_leaves_the_others(server, path, monkeypatch, caplog):
    """Nobody else would be heard any more."""
    open_watch = agent_sessions.open_watch

    def watch(connection, hello):
        if hello.payload == b"bug":
            raise RuntimeError("a bug")
        return open_watch(connection, hello)

    monkeypatch.setattr(agent_sessions, "open_watch", watch)
    with contextlib.closing(agents.Raw(path, name=b"bug").socket):
        await calls.until(lambda: "a bug" in caplog.text, "the bug is logged")
        with contextlib.closing(agents.Raw(path).socket):
            await calls.until(lambda: server.sessions, "a session")
        await calls.until(lambda: server.is_idle, "the other connection is closed")


async def test_death_may_be_told_seconds_after_the_sockets_end(server, path, monkeypatch):
    """The kernel releases the files of the process meanwhile. What it said last is published until then."""
    reading, writing = os.pipe()
    monkeypatch.setattr(agent_sessions, "open_watch", lambda *_: reading)
    timers = Timers(monkeypatch)
    raw = agents.Raw(path)
    await calls.until(lambda: server.sessions, "a session")
    raw.socket.close()
    await calls.until(lambda: server.is_idle, "the connection is closed")
    timers.run_out(2.0)
    os.close(writing)  # the kernel's word
    await calls.until(lambda: server.events, "an event")
    assert server.events == ["killed"]


async def test_process_without_a_watch_vanishes_after_a_second(server, path, monkeypatch):
    """Before that, what it said last is published."""
    monkeypatch.setattr(agent_sessions, "open_watch", lambda *_: None)
    timers = Timers(monkeypatch)
    agents.Raw(path).socket.close()
    await calls.until(lambda: server.sessions and server.is_idle, "a session that has ended")
    assert server.events == []
    timers.run_out(1.0)
    assert server.events == ["vanished"]


async def test_process_gone_before_its_welcome_leaves_nothing(server, path):
    """The counter that goes with the welcome is a descriptor, which cannot be sent any more. The watches stay, as the
    process with these connections lives."""
    gc.collect()  # it closes what other tests have left
    before = descriptors()
    for number in range(COUNT):
        agents.Raw(path, channel=b"%016d" % number).socket.close()
    await calls.until(lambda: len(server.sessions) == COUNT and server.is_idle, "all have come and gone")
    assert len(descriptors() - before) == COUNT


async def joined(server, path, **options):
    """A connection, its session, and what it writes to."""
    raw = agents.Raw(path, **options)
    before = len(server.sessions)
    await calls.until(lambda: len(server.sessions) > before, "a session")
    return raw, server.sessions[-1], raw.ring()[0]


@pytest.mark.parametrize("end", ["its socket ends", "it connects again", "it dies"])
async def test_all_of_a_ring_is_read_before_the_end(server, path, monkeypatch, end):
    """Also what is more than is read in one turn."""
    reading, writing = os.pipe()
    monkeypatch.setattr(agent_sessions, "open_watch", lambda *_: os.dup(reading))
    raw, session, writer = await joined(server, path)
    payloads = [b"%d" % number for number in range(5 * MAX_PACKETS)]
    assert all(writer.write(RECORD, payload) for payload in payloads)
    if end == "its socket ends":
        raw.socket.close()
        await calls.until(lambda: server.is_idle, "the end of the connection")
    elif end == "it connects again":
        other, *_ = await joined(server, path)
        other.socket.close()
    else:
        os.close(writing)
        await calls.until(lambda: server.events == ["killed"], "its death")
    assert session.received_payloads == payloads
    raw.socket.close()
    os.close(reading)
    if end != "it dies":
        os.close(writing)


async def test_ring_is_read_in_turns(server, path):
    """Nobody waits until a process that writes without end has written all."""
    raw, busy, writer = await joined(server, path)
    other, beside, its_writer = await joined(server, path, channel=b"d" * 16)
    while writer.write(RECORD, b""):
        pass
    assert its_writer.write(RECORD, b"beside")
    raw.send(frames.PING, b"")
    await calls.until(lambda: beside.received_payloads, "the other's message")
    assert len(busy.received_payloads) <= 3 * MAX_PACKETS
    await calls.until(lambda: len(busy.received_payloads) == SIZE // 8, "the rest")
    raw.socket.close()
    other.socket.close()


async def test_what_is_written_as_the_agent_falls_asleep_is_read(server, path, monkeypatch):
    """The process cannot know yet that it must wake the agent, and the agent has just looked."""
    raw, session, writer = await joined(server, path)
    show_sleep = session.peer.show_sleep

    def write_before(sleep):
        monkeypatch.undo()
        assert writer.write(RECORD, b"just now")
        show_sleep(sleep)

    monkeypatch.setattr(session.peer, "show_sleep", write_before)
    raw.send(frames.PING, b"")
    await calls.until(lambda: session.received_payloads == [b"just now"], "the message")
    raw.socket.close()


async def test_what_waits_for_room_goes_when_there_is_room(server, path):
    """Though the process says nothing meanwhile, and the session sent it at a time of its own."""
    raw = agents.Raw(path)
    raw.socket.setblocking(False)
    await calls.until(lambda: server.sessions, "a session")
    peer, sent = server.sessions[0].peer, 0
    while not peer.has_queued:
        assert peer.send(RECORD, b"%06d" % sent + bytes(1_000))
        sent += 1
    for _ in range(sent):
        assert peer.send(RECORD, b"%06d" % sent + bytes(1_000))
        sent += 1
    loop, came = asyncio.get_running_loop(), []
    async with asyncio.timeout(pace.patience(30)):
        while len(came) < sent:
            kind, payload = frames.Assembler().add(await loop.sock_recv(raw.socket, 10_000))
            came += [payload[:6]] if kind == RECORD else []
    raw.socket.close()
    assert not peer.has_queued


async def test_listener_rests_when_there_is_no_descriptor_left(server, path, caplog, monkeypatch):
    """It stays readable; to ask it again and again would take a CPU from the engine. Who waits is served later.

    It may be so for days, and the log says so once a minute.
    """
    monkeypatch.setattr(acceptor, "PAUSE_SECONDS", 0.01)
    loop = asyncio.get_running_loop()
    raw = connect_to(path)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    os.close(free := os.dup(raw.fileno()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    began = loop.time()
    try:
        await calls.until(lambda: server.listener.asked, "it is asked")
        for _ in range(5_000):
            await asyncio.sleep(0)
        await calls.until(lambda: server.listener.asked > 2, "it is asked again")
        assert server.listener.asked <= 2 + (loop.time() - began) / 0.01
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    await calls.until(lambda: not server.is_idle, "a connection")
    assert caplog.text.count("no process can join") == 1
    raw.close()


async def test_one_that_stood_still_ends_before_its_tasks_go_on(server, path):
    """They might send what the newer agent's processes have taken back. Here the task is due first."""
    raw = agents.Raw(path)
    await calls.until(lambda: server.sessions, "a session")

    async def go_on():
        await asyncio.sleep(0.001)
        server.events.append("a task went on")

    task = asyncio.create_task(go_on())
    await asyncio.sleep(0)
    server.newest[0] = False
    time.sleep(0.06)  # noqa: ASYNC251 - the process stands still
    await task
    assert server.events == ["superseded", "a task went on"]
    raw.socket.close()
