"""A process's channel to its agent: it connects, connects again, and passes messages both ways.

Invariants:

- ``send`` and ``poll`` never wait and never raise, whatever the agent does. What ``send`` refuses is not sent; the
  caller keeps it.
- Messages arrive in the order in which they were sent, on whichever thread. Nothing arrives between ``on_away`` and
  the next ``on_connected``, and ``on_connected`` is the first call of a connection.
- Until ``on_connected`` returns, its thread alone can send: nothing comes before what it sends.

A thread of its own connects, calls the callbacks and asks the agent several times a second whether it is there. It
takes messages while nobody polls: beside a busy main thread it would get the interpreter only after 5 ms, so a caller
that wants to know more calls ``poll`` first, which takes well below a microsecond when nothing has come. What is not of
the ``polled_kinds`` then goes to the channel's thread, in the order among itself.

Each time that the thread wakes it takes the interpreter from the process's other threads. So it asks when a message has
woken it anyway, if it can, and the agent's answer is a number in shared memory.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Collection

from redis_kvpoll._fork import forkable
from redis_kvpoll.agent import frames
from redis_kvpoll.agent.client.failures import ConnectionFailures
from redis_kvpoll.agent.client.patience import DEFAULT_TIMING, AgentPatience, Timing
from redis_kvpoll.agent.client.source import AgentSource, ServicePath
from redis_kvpoll.agent.client.waiter import LinkWaiter
from redis_kvpoll.agent.link import Link, start_of

logger = logging.getLogger("redis_kvpoll")


class AgentChannel:
    """The channel. Callbacks run on its own thread, ``on_message`` also on the thread that polls; none may wait.

    ``polled_kinds`` are the kinds of which ``on_message`` may run on a thread that polls; by default all.
    ``hello`` may be replaced at any time: the next connection sends it.
    """

    def __init__(
        self,
        source: AgentSource | str | os.PathLike[str],
        hello: bytes,
        on_message: Callable[[int, bytes], None],
        on_connected: Callable[[bytes], None],
        on_away: Callable[[], None],
        *,
        on_writable: Callable[[], None] = lambda: None,
        on_tick: Callable[[], None] = lambda: None,
        polled_kinds: Collection[int] = range(frames.FIRST_CONTROL),
        timing: Timing = DEFAULT_TIMING,
    ) -> None:
        self.hello = hello
        self.send: Callable[[int, bytes], bool] = self._send
        """Sends a message; False if it cannot be sent now. After that, ``on_writable`` or ``on_connected`` is called.

        Of a connection with a ring, once every thread may send, it is the ring's: the shortest way of a message."""
        self._source: AgentSource = ServicePath(source) if isinstance(source, str | os.PathLike) else source
        self._on_message, self._on_connected, self._on_away = on_message, on_connected, on_away
        self._on_writable, self._on_tick = on_writable, on_tick
        self._polled_kinds = polled_kinds
        self._kept: deque[tuple[int, bytes]] = deque()
        """Messages that were polled, and are for the channel's thread."""
        self._timing = timing
        self._identity = os.urandom(16)
        self._link: Link | None = None
        """The connection since its welcome."""
        self._latest: Link | None = None
        """The connection, also before."""
        self._agent = 0
        self._newer_than = 0
        self._failures = ConnectionFailures(self._source, timing)
        self._patience = AgentPatience(timing)
        self._polls = self._polls_seen = 0
        self._next_tick = 0.0
        self._is_closing = False
        self._waiter = LinkWaiter()
        self._thread = threading.Thread(target=self._run, name="redis_kvpoll agent channel", daemon=True)

    def start(self) -> None:
        """Begin to connect. Returns at once."""
        self._waiter.open()
        forkable.add(self)
        self._thread.start()

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection that the agent has welcomed, and ``on_connected`` has returned."""
        return (link := self._link) is not None and link.greeter is None

    @property
    def agent(self) -> int:
        """The number of the agent of the last welcome; 0 before the first."""
        return self._agent

    def _send(self, kind: int, payload: bytes) -> bool:
        """Send a message, and have the channel's thread see to one that cannot be sent now."""
        link = self._link
        if link is None:
            return False
        if len(payload) > frames.MAX_MESSAGE:
            logger.error("redis_kvpoll: a message of %d bytes for the agent is dropped: it is too long", len(payload))
            return True
        is_sent = link.send(kind, payload)
        if link.wants_room or link.is_ended:
            self._waiter.wake()
        return is_sent

    def poll(self) -> None:
        """Take the messages that have come, on this thread, unless another one does so now."""
        self._polls += 1
        link = self._link
        if link is not None and link.has_new:
            link.receive(self._deliver)
            if link.is_ended:  # of which a message by the ring takes no notice
                self._waiter.wake()

    def close(self, timeout: float = 1.0) -> None:
        """Say goodbye, if it can be sent within the time, and end. No callback is called for that."""
        deadline = time.monotonic() + timeout
        while (link := self._link) is not None and not link.send(frames.GOODBYE, b""):
            if link.is_ended or time.monotonic() > deadline:
                break
            time.sleep(0.005)
        self._is_closing = True
        self._link, self.send = None, self._send
        if not self._waiter.is_open:
            return
        self._waiter.wake()
        if self._thread is not threading.current_thread():
            self._thread.join(max(0.0, deadline - time.monotonic()))

    def after_fork(self) -> None:
        """In a child: close the parent's socket, and leave its ring. The channel is away for good."""
        link, self._link, self._is_closing = self._latest, None, True
        self.send = self._send
        if link is not None:
            link.let_go()
        self._waiter.close()

    # The channel's thread.

    def _run(self) -> None:
        self._next_tick = time.monotonic() + self._timing.tick
        while not self._is_closing:
            try:
                connection, agent = self._source.connect(self._newer_than)
            except Exception as error:
                self._pause(self._failures.failed(str(error)))
                continue
            link = self._latest = Link(connection, agent)
            try:
                self._follow(link)
            finally:
                self._leave(link)
        self._waiter.close()

    def _follow(self, link: Link) -> None:
        """Serve a connection until it ends."""
        pid = os.getpid()
        hello = frames.Hello(pid, start_of(pid), self._identity, self._agent, self.hello)
        link.send(frames.HELLO, hello.pack())
        self._patience.begin()
        while not (link.is_ended or self._is_closing):
            has_room, received = self._wait(link), link.received
            if not link.receive(self._deliver) or (has_room and link.is_in_use):
                time.sleep(0.001)  # Another thread receives or sends now; the socket may stay ready until it is done.
            self._deliver_kept()
            if has_room:
                link.wants_room = False
                if link.flush() and self._link is link:
                    self._call(self._on_writable)
            if self._tick(is_awake=link.received != received):
                self._ask(link)

    def _wait(self, link: Link) -> bool:
        """Wait for a message, room or the next tick. Returns whether there is room for what was refused."""
        is_polled = link.is_welcome and self._polls != self._polls_seen
        self._polls_seen = self._polls
        left = max(0.0, self._next_tick - time.monotonic())
        return self._waiter.wait(link, min(left, self._timing.polled) if is_polled else left, is_reading=not is_polled)

    def _tick(self, is_awake: bool = False) -> bool:
        """Call ``on_tick`` if it is time, or, if a message has woken this thread, almost. Returns whether it was."""
        timing, now = self._timing, time.monotonic()
        if now < self._next_tick - (timing.tick - timing.early if is_awake else 0.0):
            return False
        self._next_tick = now + timing.tick
        self._call(self._on_tick)
        return True

    def _ask(self, link: Link) -> None:
        """Ask the agent whether it is there, or give it up."""
        if self._patience.is_over(link):
            self._failures.given_up(link.agent)
            link.is_ended = True
            if not link.is_in_use:  # Else it is this process that stands still.
                self._newer_than = max(self._newer_than, link.agent)
        elif link.is_welcome and not link.is_ended:
            link.questions += 1
            if link.has_lasted:
                self._failures.lasting()
            link.send(frames.PING, b"")

    def _deliver(self, link: Link, kind: int, payload: bytes) -> None:
        self._patience.begin()
        if kind < frames.FIRST_CONTROL:
            self._pass_on(kind, payload)
        elif kind == frames.WELCOME and not link.is_welcome:
            self._greet(link, frames.Welcome.unpack(payload))
        elif kind in (frames.SUPERSEDED, frames.REFUSED):
            link.refusal = payload.decode(errors="replace")
            link.is_ended = True

    def _pass_on(self, kind: int, payload: bytes) -> None:
        if threading.get_ident() == self._thread.ident:
            self._deliver_kept()
        elif kind not in self._polled_kinds:
            self._kept.append((kind, payload))
            self._waiter.wake()
            return
        self._call(self._on_message, kind, payload)

    def _deliver_kept(self) -> None:
        while self._kept:
            self._call(self._on_message, *self._kept.popleft())

    def _greet(self, link: Link, welcome: frames.Welcome) -> None:
        self._failures.welcomed(welcome.agent, former=self._agent)
        self._agent = link.agent = welcome.agent
        link.is_welcome = True
        link.greeter = threading.get_ident()
        self._link = link
        try:
            self._call(self._on_connected, welcome.payload)
        finally:
            link.greeter = None
            if link.ring is not None:
                link.ring.otherwise = self._send
                self.send = link.ring.write
            if self._link is not link:  # It was closed meanwhile, on another thread.
                self.send = self._send

    def _leave(self, link: Link) -> None:
        link.receive(self._deliver)  # What was sent before the end.
        was_connected, self._link, self.send = self._link is link, None, self._send
        link.end()
        self._deliver_kept()
        self._latest = None
        if self._is_closing:
            return
        if was_connected:
            self._call(self._on_away)
        self._pause(self._failures.ended(link))

    def _pause(self, seconds: float) -> None:
        """Wait before the next connection. Ticks go on."""
        end = time.monotonic() + seconds
        while not self._is_closing and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, max(0.0, self._next_tick - time.monotonic()), 0.1))
            self._tick()

    @staticmethod
    def _call(callback: Callable[..., None], *arguments: object) -> None:
        try:
            callback(*arguments)
        except Exception:
            logger.exception("redis_kvpoll: a callback of the agent's channel failed")
