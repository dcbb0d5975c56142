"""What a store does about one loss of data, for the log and for its counters. A store without rooms loses nothing."""

from __future__ import annotations

import logging
import time

from redis_kvpoll.model import DataLosses

logger = logging.getLogger("redis_kvpoll.recovery")


class DataLossLog:
    """The losses of data that a store has noticed. One loss is logged once, when all its rooms are restored."""

    def __init__(self, namespace: str) -> None:
        self.totals = DataLosses(0, 0)
        self._namespace = namespace
        self._noticed = ""
        self._rooms = 0
        self._restored = 0
        self._since = 0.0

    def noticed(self, what: str, rooms: int) -> None:
        """Note that a shard has lost data, and that so many rooms of this store may be concerned."""
        if not self._noticed:
            self._noticed, self._restored, self._since = what, 0, time.monotonic()
        if rooms and not self._rooms:
            self.totals = self.totals._replace(losses=self.totals.losses + 1)
        self._rooms += rooms

    def restored(self, rooms: int) -> None:
        """Count rooms that the server did not have as they were."""
        if rooms:
            self._restored += rooms
            self.totals = self.totals._replace(restored=self.totals.restored + rooms)

    def ended(self) -> None:
        """Log the loss, if there was one: every shard that is concerned is current again."""
        if self._rooms:
            logger.warning(
                "namespace %r lost data (noticed by another %s); restored in %.3f s: %d rooms, of %d held here",
                self._namespace,
                self._noticed,
                time.monotonic() - self._since,
                self._restored,
                self._rooms,
            )
        self._noticed, self._rooms = "", 0
