"""The session of an agent in a thread of the test's own process, where the test can look into it.

It takes the place of a connection to an agent: the same messages, in the same order.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable

from redis_kvpoll.agent.messages import ClientHello
from redis_kvpoll.agent.server.quiet import be_quiet
from redis_kvpoll.agent.session.session import TableSession

TICK_SECONDS = 0.25
COALESCE_SECONDS = 0.004
"""The pause after taking messages: those that arrive during it are taken together, and wake no thread."""

logger = logging.getLogger("redis_kvpoll")


def open_local(agent, hello, *callbacks, **others):
    """Take the place of open_channel."""
    be_quiet()
    return LocalChannel(hello.encode(), *callbacks, **others)


class LocalChannel:
    """A channel to a session in a thread, which is never away or full.

    ``on_tick`` is called four times a second, in that thread.
    """

    def __init__(
        self,
        hello: bytes,
        on_message: Callable[[int, bytes], object],
        on_connected: Callable[[bytes], object],
        on_away: Callable[[], object],
        *,
        on_writable: Callable[[], object],
        on_tick: Callable[[], object],
    ) -> None:
        self.session: TableSession | None = None
        self.hello = hello
        self._on_message = on_message
        self._on_connected = on_connected
        self._tick = on_tick
        self._sent: deque[tuple[int, bytes]] = deque()
        self._is_awake = False
        """Whether ``_deliver`` will run without being woken."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self.thread = threading.Thread(target=self._run, name="kvpoll-table", daemon=True)

    def poll(self):
        """Nothing waits for a poll here."""

    @property
    def is_connected(self) -> bool:
        """Whether its event loop runs."""
        return self._loop is not None

    def start(self) -> None:
        """Begin to connect. Returns at once."""
        self.thread.start()

    def send(self, kind: int, payload: bytes) -> bool:
        """Send a message, without waiting. False if it cannot be sent now."""
        if self._loop is None:
            return False
        self._sent.append((kind, payload))
        if not self._is_awake:
            self._is_awake = True
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._deliver)
        return True

    def close(self, timeout: float) -> None:
        """Wait for the thread's end, which the client has asked for; it waits for no server that is away."""
        if self._loop is not None and self.session is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self.session.give_up)
        if self.thread is not threading.current_thread():
            self.thread.join(timeout)

    def _deliver(self) -> None:
        if self._loop is None or self.session is None:
            return
        if not self._sent:
            self._is_awake = False
            if not self._sent:
                return
            self._is_awake = True  # a message came just before that
        while self._sent:
            self.session.received(*self._sent.popleft())
        self._loop.call_later(COALESCE_SECONDS, self._deliver)

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except Exception:
            logger.exception("redis_kvpoll: the thread of the status table has ended; report this traceback")
        finally:
            self._loop = None

    async def _main(self) -> None:
        self.session = TableSession(ClientHello.decode(self.hello), self._on_message)
        self._loop = asyncio.get_running_loop()
        ticking = asyncio.create_task(self._tick_on())
        self._on_connected(b"")
        await self.session.run()
        ticking.cancel()

    async def _tick_on(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            self._tick()
