"""The session of one client: when it joins the table, when it ends, and the messages to and from the client.

It knows the client by its messages alone, and runs in an event loop: of a thread, or of another process. Whatever
happens to Redis, it takes what the client tells, and keeps it, merged and bounded, until it is in the table. What it
has in the table is in joined_table.

To add a message: its kind in messages, and its handler in ``received``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import traceback
from collections.abc import Callable, Collection
from contextlib import AsyncExitStack

from redis_kvpoll.agent import messages
from redis_kvpoll.agent.messages import ClientHello
from redis_kvpoll.agent.session.client_news import ClientNews
from redis_kvpoll.agent.session.joined_table import JoinedTable
from redis_kvpoll.agent.session.lease import SHUTDOWN_SECONDS, LeaseEnd
from redis_kvpoll.agent.session.outage import Outage
from redis_kvpoll.agent.session.refusals import refusal
from redis_kvpoll.agent.session.rounds import Rounds
from redis_kvpoll.agent.session.session_ending import SessionEnding, publish_rest
from redis_kvpoll.agent.session.shared_table import SharedTables
from redis_kvpoll.agent.session.told import ToldRooms
from redis_kvpoll.agent.session_state import SessionState

MONITOR_SECONDS = 0.25
"""Pause between checks whether the server is reachable, and reports to the client, each of which wakes it."""
REJOIN_SECONDS = 1.0
"""Pause before a client that has joined before tries it again."""

NAME_TAKEN = "another process has joined as {}: give each process its own name (in SGLang, its host and port)"

logger = logging.getLogger("redis_kvpoll")


class TableSession:
    """The session of one client.

    ``send`` sends it a message, and neither waits nor raises. ``silent_for`` gives the seconds since it was heard. It
    shares its tables with the other sessions of ``tables``.
    """

    def __init__(
        self,
        hello: ClientHello,
        send: Callable[[int, bytes], object],
        silent_for: Callable[[], float] = lambda: 0.0,
        tables: SharedTables | None = None,
    ) -> None:
        self.hello = hello
        self._news = ClientNews(send)
        self.rooms = ToldRooms(self._wake, self._news.deliver_reason, self._room_began)
        self.table: JoinedTable | None = None
        """None while it does not try to join."""
        self._send = send
        self._tables = tables or SharedTables()
        self._rounds: Rounds | None = None
        self._end = SessionEnding(silent_for, had_session=bool(hello.former))
        self._joining: asyncio.Task[JoinedTable] | None = None
        self._is_up = False
        self._outage = Outage(hello.name, self._news.log)
        self.rooms.outbox.on_dropped = self._room_dropped

    # The client's side

    def received(self, kind: int, payload: bytes) -> None:
        """Take a message of the client's."""
        if kind == messages.CHANGE:
            self.rooms.change(*messages.decode_change(payload))
        elif kind == messages.HOLD:
            self.rooms.hold(*messages.decode_life(payload))
        elif kind == messages.WANT_REASON:
            room, _, is_wanted, _ = messages.decode_life(payload)
            self.rooms.want_reason(room, is_wanted and not self._end.has_begun.is_set())
        elif kind == messages.READ_FAILURE and self.table is not None and self.table.others is not None:
            room, number, *_ = messages.decode_life(payload)
            self.table.others.read(room, number)
        elif kind == messages.LEAVE:
            self.end(LeaseEnd.LEAVE)

    def end(self, how: LeaseEnd, *, may_be_dead: bool = False) -> None:
        """Publish what is pending, and end. The first call decides how.

        One with ``may_be_dead`` is provisional, as only the client's connection has ended: the next call decides. If
        another session takes over, nothing more is sent: what is opened now might never be cleared.
        """
        self._end.tell(how, may_be_dead=may_be_dead)
        self.rooms.awaiting_reason.clear()  # no thread of the client waits any more
        if self._end.is_taken_over:
            if self._joining is not None:
                self._joining.cancel()
            if self.table is not None:
                self.table.publisher.stop()

    def give_way(self) -> None:
        """End, as the owner has another session from now on. A client that is here is told that this is not its own."""
        is_here = not self._end.has_begun.is_set()
        self.end(LeaseEnd.KEEP)
        if is_here:
            if self.table is not None:
                self.table.fail_lives()
            self._send(messages.REFUSED, messages.encode_words(NAME_TAKEN.format(self.hello.owner), ""))

    def give_up(self) -> None:
        """Wait for Redis no longer: the agent ends."""
        self._end.is_given_up.set()
        if self._joining is not None:
            self._joining.cancel()

    # Its run

    async def run(self, after: Collection[asyncio.Task[None]] = ()) -> None:
        """Join the table once former sessions have ended, and stay until the client leaves.

        A client that has joined before is not refused: it has rooms in the table, whose ends must be told.
        """
        try:
            while self._end.has_to_join:
                try:
                    async with AsyncExitStack() as stack:
                        if (table := await self._join(stack, after)) is None:
                            return
                        self._end.has_joined = True
                        await self._run_until_end(table)
                except Exception as error:
                    if self._end.has_joined or not self.hello.former:
                        raise
                    await self._pause(error)
        except Exception as error:
            if self._end.has_joined:
                logger.exception("redis_kvpoll: %s left the status table because of a bug", self.hello.name)
                self._send(messages.BROKEN, messages.encode_words(traceback.format_exc()))
            else:
                self._send(messages.REFUSED, messages.encode_words(*refusal(error)))
        finally:
            self._send(messages.LEFT, b"")

    async def _join(self, stack: AsyncExitStack, after: Collection[asyncio.Task[None]]) -> JoinedTable | None:
        """Join the table until the stack closes; return None if another session has taken over."""
        joining = self._joining = asyncio.create_task(self._enter(stack, after))
        try:
            async with asyncio.timeout(self.hello.join):
                await asyncio.wait([joining])
        finally:
            if joining.cancel():
                await asyncio.wait([joining])
        return None if joining.cancelled() else joining.result()

    async def _enter(self, stack: AsyncExitStack, after: Collection[asyncio.Task[None]]) -> JoinedTable:
        if after:
            await asyncio.wait(after)
        shared = await stack.enter_async_context(self._tables.table_of(self.hello))
        table = self.table = JoinedTable(self.hello, shared, self._end, self.rooms, self._news, self._send)
        await table.join(stack)
        self._rounds = shared.rounds
        self._wake()
        return table

    async def _pause(self, error: Exception) -> None:
        """Wait a moment for a server that does not let the client join again."""
        news = self._end.is_given_up if self._end.has_begun.is_set() else self._end.has_begun
        self._outage.cannot_join(error)
        self._report()
        self.table = None  # its connections are closed
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(REJOIN_SECONDS):
                await news.wait()

    async def _run_until_end(self, table: JoinedTable) -> None:
        self._is_up = table.is_synced
        self._report()
        self._send(messages.JOINED, b"")
        running = [
            asyncio.create_task(task) for task in (table.replace_lost_leases(self._report), self._monitor(table))
        ]
        ending = asyncio.create_task(self._finish(table))
        try:
            ended, _ = await asyncio.wait([ending, *running], return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                task.result()  # raises what has ended it
            self._report()
        finally:
            for task in (ending, *running):
                task.cancel()
            table.publisher.stop()  # first: what is opened without the lease would have no owner
        if self._end.awaits_death:
            await table.lease.abandon()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.hello.lease + SHUTDOWN_SECONDS):
                    await self._end.is_known.wait()

    async def _finish(self, table: JoinedTable) -> None:
        """Return once the table has what it must have before the lease ends. The client need not wait for Redis."""
        await self._end.has_begun.wait()
        if self._end.how is not LeaseEnd.KEEP:
            await publish_rest(table, self._end, lambda: self._send(messages.LEFT, b""))

    async def _monitor(self, table: JoinedTable) -> None:
        """Follow whether the server is reachable, and resume publishing when it is again."""
        while True:
            self._is_up = table.is_synced
            if self._is_up and not table.lease.is_lost:
                table.publisher.resume()
            self._outage.note(self._is_up and table.is_writable, table.trouble)
            if table.others is not None:
                table.others.tidy()
            self._report()
            await asyncio.sleep(MONITOR_SECONDS)

    # To the client

    def _report(self) -> None:
        """Tell the client what the table has now, if that is news."""
        pending = len(self.rooms.outbox)
        is_idle = not pending and self.table is not None and self.table.publisher.is_idle
        is_up, is_reachable = self._is_up, not self._outage.is_logged
        state = SessionState(self.rooms.received, is_idle, is_up, is_reachable, pending, self.rooms.outbox.dropped)
        self._news.send(state, self.table.lease.state if self.table is not None else None)

    # What its rooms call

    def _room_began(self, room: int, number: int, opened_at: float) -> None:
        if self.table is not None and self.table.others is not None:
            self.table.others.room_began(room, number, opened_at)

    def _room_dropped(self, room: int, number: int) -> None:
        self._news.ended(room, number)
        if self.table is not None:
            self.table.forget(room)

    def _wake(self) -> None:
        if self._rounds is not None:
            self._rounds.join(self._publish)

    def _publish(self) -> None:
        """Publish what has changed: a round has begun."""
        if self.table is not None:
            self.table.publisher.publish(self.rooms.outbox.take_changed())
