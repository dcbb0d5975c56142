"""Publishes a client's changes to the table.

Each room's lives are sent in order. What a rank says of a room that the table has goes with the round; whatever else,
and what a round could not write, has a task for each room, so that the store batches them. A life that cannot be sent
goes back into the outbox.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable
from functools import partial

from redis_kvpoll.agent.merge import CREATING
from redis_kvpoll.agent.messages import STATUSES, ClientHello
from redis_kvpoll.agent.outbox import RoomLife
from redis_kvpoll.agent.session.former_lives import FormerLives
from redis_kvpoll.agent.session.request_ids import request_of
from redis_kvpoll.agent.session.room_tasks import RoomTasks
from redis_kvpoll.agent.session.table_member import MemberRoom, TableMember
from redis_kvpoll.agent.session.told import ToldRooms
from redis_kvpoll.errors import (
    KVPollError,
    LeaseLostError,
    OutcomeUnknownError,
    RoomBusyError,
    ServerRefusedError,
    StoreUnavailableError,
)
from redis_kvpoll.model import Entry, KVPoll

FIRST_RETRY_SECONDS = 0.02
"""First pause before a retry, which then doubles: other ranks usually clear a room within milliseconds."""
BUSY_RETRY_SECONDS = 1.0
"""Longest pause before retrying a room that other ranks still hold, or whose old lease has not expired."""
REJECTED_RETRY_SECONDS = 5.0
"""Longest pause before retrying a call that the server has rejected, for lack of memory or permission."""
REJECTED_LOG_SECONDS = 60.0
"""A rejection is logged only if there was none for this long."""
REASON_POLL_SECONDS = 0.01
"""Pause between reads of another rank's reason."""
REASON_SECONDS = 1.0
"""Longest search for it: the client's thread waits 0.25 s, but a stopped process does not say that it waits no more."""

logger = logging.getLogger("redis_kvpoll")


class OutboxPublisher:
    """Publishes the changes of one client.

    ``on_opened`` is called with each room, its life and generation once the table has it, and ``on_ended`` with each
    room and life that is over, once the table has all of it that it will ever have.
    """

    def __init__(
        self,
        member: TableMember,
        rooms: ToldRooms,
        hello: ClientHello,
        on_opened: Callable[[int, int, int], object],
        on_ended: Callable[[int, int], object] = lambda room, number: None,
        log: Callable[[int, str], object] = logger.log,
    ) -> None:
        self.on_found_failed: Callable[[int, int, Entry], object] = lambda room, number, entry: None
        """Called with a room and life that the table had as Failed when it was opened, or taken over."""
        self.is_online = asyncio.Event()
        """Cleared by a call that finds the server unreachable: then changes wait in the outbox."""
        self._member = member
        self._rooms, self._outbox = rooms, rooms.outbox
        self._hello = hello
        self._former = FormerLives(member, hello)
        self._on_opened, self._on_ended = on_opened, on_ended
        self._log = log
        self._handles: dict[int, tuple[int, MemberRoom]] = {}
        """By room: the number of the life that the table knows, and its handle."""
        self._tasks = RoomTasks(self._publish_room)
        self._said: dict[int, RoomLife] = {}
        """By room: what a round has of it."""
        self._answered = asyncio.Event()
        self._is_stopped = False
        self._rejected_at = -math.inf

    @property
    def is_idle(self) -> bool:
        """Whether no room is being published."""
        return self._tasks.is_idle and not self._said

    @property
    def awaits_answer(self) -> bool:
        """Whether the server has been asked for something and has not answered yet."""
        return bool(self._said) or self._tasks.awaits_answer

    def published_life(self, room: int) -> int | None:
        """Return the number of a room's current life if the table knows it, else None."""
        number, _ = self._handles.get(room, (None, None))
        return number if number is not None and number == self._rooms.current_life(room) else None

    def life_of(self, room: int, generation: int) -> int | None:
        """Return the number of a room's current life if the table has it with this generation, else None."""
        _, handle = self._handles.get(room, (None, None))
        return self.published_life(room) if handle is not None and handle.generation == generation else None

    def publish(self, rooms: list[int]) -> None:
        """Publish what these rooms have in the outbox; while the server is unreachable it stays there."""
        if self.is_online.is_set():
            for room in rooms:
                if room not in self._tasks and room not in self._said and not self._join_round(room):
                    self._tasks.start(room)

    def resume(self) -> None:
        """Publish all that is pending: the server is reachable again."""
        if not self.is_online.is_set() and not self._is_stopped:
            self.is_online.set()
            self.publish([*self._outbox.rooms(), *self._rooms.awaiting_reason])

    def stop(self) -> None:
        """Publish nothing more, for good; what was under way may be in the table or not."""
        self._is_stopped = True
        self.is_online.clear()
        self._tasks.cancel()

    async def flush(self) -> None:
        """Publish everything before returning; while the server is unreachable, this waits."""
        while (pending := self._outbox.rooms()) or not self.is_idle:
            if pending:
                await self.is_online.wait()
                self.publish(pending)
            while not self.is_idle:
                self._answered.clear()
                await (self._answered.wait() if self._tasks.is_idle else self._tasks.wait())

    def _join_round(self, room: int) -> bool:
        """Have a round write a room's changes. False if they need more than that."""
        number, handle = self._handles.get(room, (0, None))
        if handle is None or room in self._rooms.awaiting_reason:
            return False
        life = self._outbox.take(room)
        if life is None:
            return True
        status = KVPoll(life.status) if life.status in STATUSES else None
        has_change = status is not None or life.length is not None or life.is_over
        is_said = False
        if life.number == number and has_change and (not life.reason or status is KVPoll.Failed):
            on_answer = partial(self._round_answered, room, life)
            with contextlib.suppress(KVPollError):  # its task sees to it
                is_said = handle.say(status, life.reason, life.length, life.is_over, on_answer)
        if is_said:
            self._said[room] = life
        else:
            self._outbox.put_back(room, life)
        return is_said

    def _round_answered(self, room: int, life: RoomLife, error: Exception | None) -> None:
        del self._said[room]
        self._answered.set()
        if error is None and life.is_over:
            self._handles.pop(room, None)
            self._on_ended(room, life.number)
        elif error is not None:
            self._outbox.put_back(room, life)
            if self.is_online.is_set():
                self._tasks.start(room)
        if self._outbox.has(room) or room in self._rooms.awaiting_reason:
            self.publish([room])

    async def _publish_room(self, room: int) -> None:
        is_busy = False
        try:
            while self.is_online.is_set():
                if room in self._rooms.awaiting_reason:
                    await self._fetch_reason(room)
                life = self._outbox.take(room)
                if life is None:
                    return
                sent = await self._publish_life(room, life, is_busy)
                if sent is not None and sent.is_over:
                    is_busy = sent.is_new and not sent.generation  # it was given up
                    self._on_ended(room, sent.number)
        except Exception:
            logger.exception("redis_kvpoll: room %d was not published because of a bug; report this traceback", room)

    async def _publish_life(self, room: int, life: RoomLife, is_busy: bool) -> RoomLife | None:
        """Send a life, with retries, and return it with what came meanwhile; without a server it is put back. If the
        room ``is_busy``, as a former life was given up for that, one that is over as well is not tried again."""
        pause = FIRST_RETRY_SECONDS
        while True:
            try:
                await self._send(room, life)
                return life
            except (StoreUnavailableError, OutcomeUnknownError):
                self.is_online.clear()
            except LeaseLostError:
                await self._tasks.pause(pause)  # until the session has failed the lost rooms and taken a new lease
            except RoomBusyError:
                if is_busy and life.is_new and life.is_over:
                    return life
                await self._tasks.pause(pause)
                pause = min(pause * 2, BUSY_RETRY_SECONDS)
            except ServerRefusedError as error:
                self._log_rejected(error)
                await self._tasks.pause(pause)
                pause = min(pause * 2, REJECTED_RETRY_SECONDS)
            except KVPollError as error:
                self._log_rejected(error)
                if not life.drop_part():
                    return life  # The table takes nothing of it; else what is left is tried now.
            self._outbox.put_back(room, life)
            if not self.is_online.is_set():
                return None
            latest = self._outbox.take(room)
            if latest is None:
                return None
            life = latest
            if life.is_new and life.is_over and pause >= BUSY_RETRY_SECONDS:
                return life  # it ended before its room was free or the server accepted it

    async def _send(self, room: int, life: RoomLife) -> None:
        """Send a whole life. The prefix length comes before the status, as SGLang relies on this order."""
        number, handle = self._handles.get(room, (0, None))
        status = KVPoll(life.status) if life.status in STATUSES else None
        if life.is_new and number != life.number:
            handle = None
            if life.generation:
                entry = await self._member.store.entry(room)
                handle = await self._former.adopt(life, entry)
                if handle is None and not await self._former.may_open_again(room, life, entry):
                    return
                if handle is not None and entry is not None and entry.status is KVPoll.Failed:
                    self.on_found_failed(room, life.number, entry)
            if handle is None:
                first = status if life.status in CREATING and life.length is None else KVPoll.Bootstrapping
                handle = await self._open(room, life, first or KVPoll.Bootstrapping)
                status = None if status is first else status
                if handle.has_failed:
                    await self._find_failed(room, life.number, handle.generation)
            self._handles[room] = life.number, handle
            life.is_new = False  # if the connection is lost before the rest is sent, it is not opened again
            self._on_opened(room, life.number, handle.generation)
        elif number != life.number or handle is None:
            return  # the table has failed this life, as this process lost its lease
        if status is not None or life.length is not None:
            await handle.write(status, life.reason, life.length)
        if life.reason and life.status is None:
            await handle.record_failure(life.reason)
        if life.is_over:
            if room in self._rooms.awaiting_reason:
                await self._fetch_reason(room)
            await handle.clear()
            self._handles.pop(room, None)

    async def _open(self, room: int, life: RoomLife, status: KVPoll) -> MemberRoom:
        try:
            return await self._member.open(room, request_of(self._hello, life), status)
        except (StoreUnavailableError, OutcomeUnknownError):  # either may be executed: an opening is safe to retry
            life.may_be_open = True
            raise

    async def _find_failed(self, room: int, number: int, generation: int) -> None:
        """Pass on a failure that no follower tells, because the table had it before the room was opened here."""
        entry = await self._member.store.entry(room)
        if entry is not None and entry.generation == generation and entry.status is KVPoll.Failed:
            self.on_found_failed(room, number, entry)

    async def _fetch_reason(self, room: int) -> None:
        """Read until another rank has recorded a reason or no thread waits for it. The last clear removes it."""
        give_up_at = time.monotonic() + REASON_SECONDS
        with contextlib.suppress(KVPollError):
            while room in self._rooms.awaiting_reason:
                if time.monotonic() > give_up_at:
                    self._rooms.want_reason(room, False)
                    return
                if reason := await self._member.store.failure_reason(room):
                    self._rooms.deliver_reason(room, reason)
                    return
                await asyncio.sleep(REASON_POLL_SECONDS)

    def reset(self) -> list[tuple[int, int]]:
        """Forget the lives that the table has failed; return the current ones, as (room, number).

        Other changes wait until ``resume``.
        """
        self.is_online.clear()
        lives = [(room, number) for room in list(self._handles) if (number := self.published_life(room)) is not None]
        self._handles.clear()
        return lives

    def _log_rejected(self, error: KVPollError) -> None:
        last, self._rejected_at = self._rejected_at, time.monotonic()
        if self._rejected_at - last > REJECTED_LOG_SECONDS:
            self._log(logging.ERROR, f"the status table rejected a change; the program continues without it: {error}")
