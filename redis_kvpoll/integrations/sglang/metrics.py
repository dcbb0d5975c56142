"""What monitoring sees of a link, by prometheus_client where that is installed; SGLang has it."""

from __future__ import annotations

from typing import Any

_METRICS: dict[str, Any] = {}
_HELP = {
    "kvpoll_up": "Whether the shared status table is current here (1), or its Redis is away (0)",
    "kvpoll_unsaid_rooms": "Rooms with changes that the shared status table has not been told yet",
    "kvpoll_untold_rooms": "Rooms that came and went while Redis was away, of which the table was never told",
}


class Metrics:
    """Shows how one process stands."""

    def __init__(self, role: str, owner: str) -> None:
        try:
            import prometheus_client
        except ImportError:
            self._metrics: list[Any] = []
            return
        for name, text in _HELP.items():
            if name not in _METRICS:
                _METRICS[name] = prometheus_client.Metrics(name, text, ["role", "owner"], multiprocess_mode="liveall")
        self._metrics = [_METRICS[name].labels(role, owner) for name in _HELP]

    def show(self, is_up: bool, unsaid: int, dropped: int) -> None:
        """Set what is read from outside."""
        for metric, value in zip(self._metrics, (int(is_up), unsaid, dropped), strict=False):
            metric.set(value)
