"""Clients of an agent's sessions without processes: what they tell, and what they are told."""

from __future__ import annotations

import asyncio

from redis_kvpoll.agent import messages
from redis_kvpoll.agent.outbox import RoomLife
from tests.support import pace
from tests.support.told import encode


class Process:
    """A process, as its agent knows it."""

    def __init__(self, sessions, hello):
        self.told = asyncio.Queue()
        self.kinds = []
        """Of all messages so far."""
        self.silence = 0.0
        self.session = sessions.open_session(self, hello.encode())

    def send(self, kind, payload):
        for part in messages.decode_news(payload) if kind == messages.NEWS else [(kind, payload)]:
            self.kinds.append(part[0])
            self.told.put_nowait(part)

    def silent_for(self):
        return self.silence

    def change(self, room, *, number=1, **words):
        self.session.received(messages.CHANGE, encode(room, RoomLife(number, **words)))

    async def until(self, wanted):
        """Wait for a message; return its payload."""
        try:
            async with asyncio.timeout(pace.patience(20)):
                while True:
                    kind, payload = await self.told.get()
                    if kind == wanted:
                        return payload
        except TimeoutError:
            raise AssertionError(f"never told: {wanted}") from None

    async def until_opened(self):
        """Wait until the table has a life; return its room, number and generation."""
        [opened] = messages.decode_lives(await self.until(messages.OPENED))
        return opened
