"""An asyncio store, used as a blocking one, so that one test serves both."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

from redis_kvpoll import AsyncStatusStore


class Blocking:
    """Calls each method of ``store`` to its end in ``runner``'s event loop."""

    def __init__(self, store: AsyncStatusStore, runner: asyncio.Runner) -> None:
        self._store = store
        self._runner = runner

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, {"close": "aclose"}.get(name, name))
        if not callable(method):
            return method

        def call(*args: Any, **kwargs: Any) -> Any:
            answer = method(*args, **kwargs)
            return self._runner.run(_drain(answer) if hasattr(answer, "__aiter__") else _await(answer))

        return call


async def _await(answer: Any) -> Any:
    return await answer if inspect.isawaitable(answer) else answer


async def _drain(answer: Any) -> Any:
    return iter([item async for item in answer])
