"""The pauses between tries, for calls and for followers.

The first is about 10 ms, the time that a server on the same host needs to accept connections after a restart; the
longest is 0.25 s, so that 1,000 waiting clients do not overload a server after a restart.
"""

from __future__ import annotations

from redis.backoff import EqualJitterBackoff

_DOUBLINGS = 30
"""Far beyond the cap. After 1,024 of them the power of two fits no float: an outage of minutes has as many tries."""


class Backoff(EqualJitterBackoff):
    """Pauses that any number of failures has."""

    def __init__(self) -> None:
        super().__init__(cap=0.25, base=0.01)

    def compute(self, failures: int) -> float:
        """Return the seconds after so many failures in a row."""
        return float(super().compute(min(failures, _DOUBLINGS)))
