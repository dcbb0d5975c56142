"""An asyncio store, mirror or handle, used as a blocking one, while its event loop runs all the time in a thread.

The follower of the feed is a task: it must run between the calls of a test too.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable
from typing import Any

from redis_kvpoll import AsyncStatusStore, StatusStore
from redis_kvpoll.aio.room import AsyncRoom
from tests.support.own_threads import own_threads

PATIENCE = 300
"""Seconds; a call that takes longer has hung."""


class Loop:
    """An event loop in a thread. A context manager."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="the test's event loop", daemon=True)

    def __enter__(self) -> Loop:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)
        self._loop.close()

    def run(self, awaitable: Any) -> Any:
        async def wait() -> Any:
            return await awaitable

        return asyncio.run_coroutine_threadsafe(wait(), self._loop).result(PATIENCE)

    def make(self, maker: Callable[[], Any]) -> Any:
        async def make() -> Any:
            return maker()

        return self.run(make())

    def tasks(self) -> set[str]:
        async def names() -> set[str]:
            return {task.get_name() for task in asyncio.all_tasks()}

        return {name for name in self.run(names()) if name.startswith("kvpoll")}


class Looped:
    """Runs coroutine methods to their end in a loop; other methods are called directly."""

    def __init__(self, inner: Any, loop: Loop) -> None:
        self.inner = inner
        self._loop = loop

    def __enter__(self) -> Looped:
        """Enter a mirror or a lease; a store has nothing to enter."""
        self._loop.run(self.inner.__aenter__())
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.inner, {"close": "aclose"}.get(name, name))
        if name in ("mirror", "lease", "failures", "statistics"):
            return lambda *args, **options: Looped(method(*args, **options), self._loop)
        if not inspect.iscoroutinefunction(method):
            return method

        def call(*args: Any, **kwargs: Any) -> Any:
            value = self._loop.run(method(*args, **kwargs))
            return Looped(value, self._loop) if isinstance(value, AsyncRoom) else value

        return call


class Side:
    """Makes stores, blocking or asyncio, that are used alike and closed at the end. A context manager."""

    def __init__(self, kind: str) -> None:
        self.is_async = kind == "async"
        self.loop = Loop()
        self._made: list[Any] = []

    def __enter__(self) -> Side:
        self.loop.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        for store in self._made:
            store.close()
        left = self.loop.tasks() | {thread.name for thread in own_threads("kvpoll-follow", "kvpoll-lease")}
        self.loop.__exit__()
        assert not left, f"left behind: {left}"

    def over(self, server: Any, client_options: dict[str, Any] | None = None, **options: Any) -> Any:
        """A store on a server of the matrix."""
        of_client = client_options or {}
        if self.is_async:
            return self._keep(self.loop.make(lambda: AsyncStatusStore(server.async_client(**of_client), **options)))
        return self._keep(StatusStore(server.store_client(**of_client), **options))

    def open(self, url: str, **options: Any) -> Any:
        if self.is_async:
            return self._keep(self.loop.make(lambda: AsyncStatusStore.from_url(url, **options)))
        return self._keep(StatusStore.from_url(url, **options))

    def _keep(self, store: Any) -> Any:
        self._made.append(Looped(store, self.loop) if self.is_async else store)
        return self._made[-1]
