"""What sync and aio share of a store."""

from __future__ import annotations

from typing import Any

from redis_kvpoll._process import OfOneProcess
from redis_kvpoll.engine.executor import Executor
from redis_kvpoll.model import DataLosses


class StoreBase(OfOneProcess):
    """The parts of a store that make no call."""

    _executor: Executor
    _transport: Any
    """Its text is the server's address, without a password."""

    @property
    def data_losses(self) -> DataLosses:
        """How often this store has found that the server had lost data, and how many rooms it has restored."""
        return self._executor.recovery.losses.totals

    def __repr__(self) -> str:
        return f"<{type(self).__name__} namespace={self._executor.namespace!r} on {self._transport}>"
