"""What lives as long as the process: the watches of the namespaces, the viewers, the actions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import version
from urllib.parse import parse_qsl

from prometheus_client import CollectorRegistry
from starlette.exceptions import HTTPException
from starlette.requests import Request

from redis_kvpoll import validation
from redis_kvpoll.aio.store import AsyncStatusStore
from redis_kvpoll.serve.actions import RoomActions
from redis_kvpoll.serve.config import ServeConfig
from redis_kvpoll.serve.credentials import Credentials
from redis_kvpoll.serve.examine import Examine
from redis_kvpoll.serve.hub import Hub
from redis_kvpoll.serve.metrics import TableCollector
from redis_kvpoll.serve.screens.base import Page
from redis_kvpoll.serve.watch import Watch
from redis_kvpoll.transport.urls import parse

DEADLINE = 2.0
"""Seconds for a call to Redis: a person waits, and the page says at once that there is no answer."""
MAX_BODY = 10_000
"""Bytes of a form: a room's number and a reason."""
HUNG_AFTER = 60.0
"""Seconds without a turn of a watch, after which the process counts as hung."""

ExamineOf = Callable[[str, str], Examine]
"""Returns the doctor of a namespace, on the server of a URL."""


class Service:
    """One process of ``kvpoll serve``."""

    def __init__(self, config: ServeConfig, examine_of: ExamineOf | None = None) -> None:
        self.config = config
        self.credentials = Credentials(config.users)
        self.hub = Hub()
        self.version = version("redis-kvpoll")
        self.server = parse(config.url).shown
        self.watches = {}
        for name in config.namespaces:
            examine = examine_of(config.url, name) if examine_of else None
            self.watches[name] = Watch(self._store(config.url, name), name, config.stuck_after, examine)
        self.actions: RoomActions | None = None
        if config.allow_actions and config.actions_url:
            url = config.actions_url
            self.actions = RoomActions({name: self._store(url, name, writes=True) for name in config.namespaces})
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(TableCollector(self.watches, config.max_owners, self.version))

    @staticmethod
    def _store(url: str, name: str, writes: bool = False) -> AsyncStatusStore:
        return AsyncStatusStore.from_url(url, namespace=name, deadline=DEADLINE, read_only=not writes)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Follow all namespaces during the block."""
        async with AsyncExitStack() as stack:
            for watch in self.watches.values():
                stack.push_async_callback(watch.store.aclose)
            if self.actions is not None:
                stack.push_async_callback(self.actions.close)
            tasks = [asyncio.create_task(watch.run(), name=f"watch {name}") for name, watch in self.watches.items()]
            try:
                yield
            finally:
                self.hub.close()
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    def is_hung(self) -> bool:
        """Whether a watch has stood still for long."""
        return any(time.monotonic() - watch.ticked_at > HUNG_AFTER for watch in self.watches.values())

    def unready(self) -> list[str]:
        """Return why the numbers are not current, without saying of which table."""
        words = {watch.state.word for watch in self.watches.values()} - {"synced", "absent"}
        return sorted(UNREADY[word] for word in words)

    def page(self, request: Request) -> Page:
        """Return which namespace and room a request asks for; raises HTTPException (404) if there is none such."""
        return self.page_of(dict(request.query_params), request.path_params.get("room"))

    def page_of(self, query: dict[str, str], room: str | None = None) -> Page:
        """The same, of a query and the part of the path that names a room."""
        name = query.pop("n", "") or self.config.namespaces[0]
        if name not in self.watches:
            raise HTTPException(404, f"namespace {name!r} is not served here")
        number = None if room is None else _checked_room(room)
        return Page(self.config, self.watches, self.watches[name], query, number)


UNREADY = {
    "away": "Redis does not answer, or refuses the calls",
    "late": "the change feed is read late",
    "reading": "the table is being read",
}


def _checked_room(text: str) -> int:
    number = validation.room_in_text(text)
    if number is None:
        raise HTTPException(404, f"{text[:80]!r} is not a room id: a room id is an int from 0 to 2^64-1")
    return number


async def read_form(request: Request) -> dict[str, str]:
    """Return the fields of a form; raises HTTPException (413) if it is too long."""
    body = await read_body(request)
    return dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))


async def read_body(request: Request) -> bytes:
    """Return the body of a request; raises HTTPException (413) if it is too long."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY:
            raise HTTPException(413, "the request is too long")
    return body
