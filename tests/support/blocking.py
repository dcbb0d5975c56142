"""An asyncio store, used as a blocking one, so that one test serves both."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

from redis_kvpoll import AsyncStatusStore
from redis_kvpoll.aio.room import AsyncRoom


class Blocking:
    """Calls each method of ``store``, or of a room's handle, to its end in ``runner``'s event loop."""

    def __init__(self, store: AsyncStatusStore | AsyncRoom, runner: asyncio.Runner) -> None:
        self.inner = store
        self.runner = runner

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.inner, {"close": "aclose"}.get(name, name))
        if not callable(method):
            return method

        def call(*args: Any, **kwargs: Any) -> Any:
            answer = method(*(_bare(arg) for arg in args), **kwargs)
            value = self.runner.run(_drain(answer) if hasattr(answer, "__aiter__") else _await(answer))
            return Blocking(value, self.runner) if isinstance(value, AsyncRoom) else value

        return call

    def __enter__(self) -> Blocking:
        return self

    def __exit__(self, *error: Any) -> None:
        self.runner.run(self.inner.__aexit__(*error))

    def __eq__(self, other: object) -> bool:
        return bool(self.inner == _bare(other))

    def __hash__(self) -> int:
        return hash(self.inner)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the handle itself, not this wrapper."""
        return self.inner.__reduce__()  # type: ignore[no-any-return]


def _bare(value: Any) -> Any:
    """The wrapped store or room, if it is wrapped."""
    return value.inner if isinstance(value, Blocking) else value


async def _await(answer: Any) -> Any:
    return await answer if inspect.isawaitable(answer) else answer


async def _drain(answer: Any) -> Any:
    return iter([item async for item in answer])
