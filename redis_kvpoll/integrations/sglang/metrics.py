"""Prometheus metrics of the link between one process and the table, if prometheus_client is installed (SGLang has it).

To add a metric: define it in ``_metrics``, and set it in ``LinkMetrics.update``.
"""

from __future__ import annotations

from functools import cache
from typing import Any


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
            "1 while the status table is current in this process, 0 while Redis is unreachable",
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
            "Rooms that decode has asked for, that had no sender, and that were ended after SGLang's own timeouts",
            labels,
        ),
    )


class LinkMetrics:
    """The metrics of one process, labelled with its role and owner."""

    def __init__(self, role: str, owner: str) -> None:
        found = _metrics()
        self._children = None if found is None else [metric.labels(role, owner) for metric in found]
        self._dropped = 0
        self._orphans = 0

    def update(self, is_up: bool, pending: int, dropped: int, orphans: int) -> None:
        """Set the current values; ``dropped`` and ``orphans`` are the totals of this process so far."""
        if self._children is not None:
            up, pending_rooms, dropped_rooms, orphaned_rooms = self._children
            up.set(int(is_up))
            pending_rooms.set(pending)
            dropped_rooms.inc(dropped - self._dropped)
            orphaned_rooms.inc(orphans - self._orphans)
            self._dropped, self._orphans = dropped, orphans
