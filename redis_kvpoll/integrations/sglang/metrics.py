"""Prometheus metrics of the link between one process and the table, if prometheus_client is installed (SGLang has it).

To add a metric: define it in ``_metrics``, and set it in ``LinkMetrics.update``.
"""

from __future__ import annotations

import logging
from functools import cache
from typing import Any

logger = logging.getLogger("redis_kvpoll")


@cache
def _metrics() -> tuple[Any, ...] | None:
    """Return the metrics of this process, which Prometheus lets it define only once; None without prometheus_client."""
    try:
        from prometheus_client import Counter, Gauge
    except ImportError:
        return None
    labels = ("role", "owner")
    return (
        Gauge(
            "kvpoll_link_up",
            "1 while the status table is current in this process, 0 while its agent or Redis is unreachable",
            labels,
            multiprocess_mode="liveall",
        ),
        Gauge(
            "kvpoll_link_pending_rooms",
            "Rooms with changes that the status table does not have yet",
            labels,
            multiprocess_mode="liveall",
        ),
        Counter(
            "kvpoll_link_dropped_rooms_total",
            "Rooms that were opened and cleared during an outage and never reached the status table",
            labels,
        ),
        Counter(
            "kvpoll_link_orphaned_rooms_total",
            "Rooms that had no sender, and that were ended after SGLang's own timeouts",
            labels,
        ),
    )


class LinkMetrics:
    """The metrics of one process, labelled with its role and owner. They raise nothing: the table is worth more."""

    def __init__(self, role: str, owner: str) -> None:
        self._children: list[Any] | None = None
        try:
            if (found := _metrics()) is not None:
                self._children = [metric.labels(role, owner) for metric in found]
        except Exception:  # with several processes, their values are in files
            logger.exception("redis_kvpoll: the link has no metrics in this process")
        self._dropped = 0
        self._orphans = 0

    def update(self, is_up: bool, pending: int, dropped: int, orphans: int) -> None:
        """Set the current values; ``dropped`` and ``orphans`` are the totals of this process so far."""
        if self._children is None:
            return
        up, pending_rooms, dropped_rooms, orphaned_rooms = self._children
        try:
            up.set(int(is_up))
            pending_rooms.set(pending)
            dropped_rooms.inc(max(0, dropped - self._dropped))
            orphaned_rooms.inc(max(0, orphans - self._orphans))
        except Exception:  # as from a full disk: with several processes, their values are in files
            logger.exception("redis_kvpoll: the metrics of the link cannot be set, and stay as they are")
            self._children = None
        self._dropped, self._orphans = max(dropped, self._dropped), max(orphans, self._orphans)
