"""Many followers in one process: each sends what a real one sends while it follows, and does nothing with the replies.

A process for each follower would measure the scheduler of a machine with few CPUs. tests/bench/test_simulated.py holds
the commands to those of a real mirror and a real follower of failures. Left out are the resync at the beginning, the
sweep for ghosts (one EXISTS every 5 s for up to 250 rooms) and the hourly look at the settings.
"""

from __future__ import annotations

import contextlib
import heapq
import multiprocessing
import selectors
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

import hiredis

from redis_kvpoll.protocol import keys
from redis_kvpoll.protocol.feed_ids import number_of, text_of
from redis_kvpoll.replica import failures, follow, session
from redis_kvpoll.replica.continuity import Continuity

Kind = Literal["mirror", "failures"]

FEED_LENGTH = 100_000
_READY_SECONDS = 30.0
_RECEIVED = 1 << 16


@dataclass(slots=True)
class Feed:
    """What some followers follow, and from where."""

    kind: Kind
    namespace: str
    position: str
    followers: int

    @property
    def key(self) -> str:
        return (keys.feed if self.kind == "mirror" else keys.failed)(self.namespace)


@dataclass(slots=True)
class _Follower:
    socket: socket.socket
    feed: str
    heartbeat: float
    position: int
    continuity: Continuity
    reader: Any = field(default_factory=hiredis.Reader)
    replies: list[Any] = field(default_factory=list)
    expected: int = 0
    asked_at: float = 0.0
    looks: bool = False
    reads: int = 0
    known_at: list[float] = field(default_factory=list)
    """When each entry came."""

    def ask(self, now: float) -> None:
        """Send the next read, as FollowerSession._read_on does."""
        self.asked_at, self.looks = now, self.continuity.due(now)
        block_ms = self.continuity.wait_ms(int(self.heartbeat * 1000), now)
        words = ["XREAD", "COUNT", str(session.ENTRIES), "BLOCK", str(block_ms)]
        commands = [[*words, "STREAMS", self.feed, text_of(self.position)]]
        commands += self.continuity.commands() if self.looks else []
        self.expected, self.replies = len(commands), []
        self.socket.sendall(b"".join(map(_packed, commands)))

    def receive(self, now: float) -> bool:
        """Take what has come; whether the read is over."""
        self.reader.feed(_received(self.socket))
        while len(self.replies) < self.expected and (reply := self.reader.gets()) is not False:
            self.replies.append(reply)
        if len(self.replies) < self.expected:
            return False
        found, *look = self.replies
        if isinstance(found, Exception) or (self.looks and not self.continuity.holds(look)):
            raise RuntimeError(f"a follower cannot read on in {self.feed}: {found}")
        entries = next(iter(found.values())) if found else []
        if entries:
            self.position = number_of(entries[-1][0])
            self.known_at += [now] * len(entries)
        self.continuity.read([self.position], len(entries), self.looks, len(entries) < session.ENTRIES, self.asked_at)
        self.reads += 1
        return True


def run(url: str, feeds: Sequence[Feed], pipe: Connection[Any, Any]) -> None:
    """Follow until the pipe says so or closes; then send the moments at which each follower knew each entry."""
    with contextlib.ExitStack() as stack:
        followers = [_connect(url, feed, stack) for feed in feeds for _ in range(feed.followers)]
        _follow(followers, pipe, stack.enter_context(selectors.DefaultSelector()))
        with contextlib.suppress(EOFError):
            pipe.recv()
            pipe.send([(one.feed, one.reads, one.known_at) for one in followers])


def _follow(followers: list[_Follower], pipe: Connection[Any, Any], selector: selectors.BaseSelector) -> None:
    selector.register(pipe, selectors.EVENT_READ)
    # Real followers begin at different moments, and so do their heartbeats.
    start = time.monotonic()
    waiting = [(start + one.heartbeat * at / len(followers), at) for at, one in enumerate(followers)]
    heapq.heapify(waiting)
    for at, one in enumerate(followers):
        selector.register(one.socket, selectors.EVENT_READ, at)
    unasked = len(followers)
    while True:
        now = time.monotonic()
        while waiting and waiting[0][0] <= now:
            one = followers[heapq.heappop(waiting)[1]]
            unasked -= one.asked_at == 0.0
            one.ask(now)
            if not unasked:
                pipe.send("ready")
                unasked = -1
        for key, _ in selector.select(max(0.0, waiting[0][0] - time.monotonic()) if waiting else None):
            if key.fileobj is pipe:
                return
            one, now = followers[key.data], time.monotonic()
            if one.receive(now):
                quick = now - one.asked_at < 2 * session.COALESCE_DELAY
                heapq.heappush(waiting, (now + session.COALESCE_DELAY if quick else now, key.data))


def _received(connection: socket.socket) -> bytes:
    if not (data := connection.recv(_RECEIVED)):
        raise ConnectionError("the server has closed a simulated follower's connection")
    return data


def _packed(words: Sequence[str]) -> bytes:
    arguments: Any = tuple(words)
    packed: bytes = hiredis.pack_command(arguments)
    return packed


def _connect(url: str, feed: Feed, stack: contextlib.ExitStack) -> _Follower:
    place = urlsplit(url)
    if place.scheme == "unix":
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(place.path)
    else:
        connection = socket.create_connection((place.hostname, place.port or 6379))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    stack.enter_context(connection)
    login = ["AUTH", unquote(place.username or "default"), unquote(place.password)] if place.password else []
    database = "" if place.scheme == "unix" else place.path.strip("/")
    reader = hiredis.Reader()
    for command in (["HELLO", "3", *login], ["SELECT", database or "0"]):
        connection.sendall(_packed(command))
        while (reply := reader.gets()) is False:
            reader.feed(_received(connection))
        if isinstance(reply, Exception):
            raise reply
    continuity = Continuity([feed.key], FEED_LENGTH, session.ENTRIES)
    continuity.start([number_of(feed.position.encode())])
    heartbeat = follow.HEARTBEAT if feed.kind == "mirror" else failures.HEARTBEAT
    return _Follower(connection, feed.key, heartbeat, number_of(feed.position.encode()), continuity)


class Simulator:
    """The process of some simulated followers; they follow from entry on. A context manager."""

    def __init__(self, url: str, feeds: Sequence[Feed]) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=run, args=(url, feeds, theirs), daemon=True)
        self._process.start()
        theirs.close()

    def __enter__(self) -> Simulator:
        if not self._pipe.poll(_READY_SECONDS):
            raise TimeoutError("the simulated followers do not begin")
        self._pipe.recv()
        return self

    def stop(self) -> list[tuple[str, int, list[float]]]:
        """End it; return each follower's feed, its reads, and when it knew each entry."""
        try:
            self._pipe.send("stop")
            found: list[tuple[str, int, list[float]]] = self._pipe.recv()
        except (EOFError, OSError):
            raise RuntimeError("a simulated follower failed; its process has said why") from None
        return found

    def __exit__(self, *_: object) -> None:
        self._pipe.close()
        self._process.join(5)
        self._process.kill()
        self._process.join()
