"""Whether what a watch knows of its table is current: in one word, and in one sentence for people."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import NamedTuple

from redis_kvpoll.doctor.findings import Finding, Level
from redis_kvpoll.errors import KVPollError, StoreUnavailableError
from redis_kvpoll.serve import formats
from redis_kvpoll.statistics.model import Snapshot

LATE = 5.0
"""Seconds of lag from which on the page says that it is behind."""
NOT_FOUND = (
    "No process has opened it. SGLang's plugin appends the role to its KVPOLL_NAMESPACE: prod-prefill and prod-decode."
)

GONE = (
    "It was here before: its data is gone (FLUSHALL, a restart, evictions), or it has expired. The tab Doctor says "
    "more within a minute."
)


class State(NamedTuple):
    """Whether the numbers are current, in one word and one sentence."""

    word: str
    """synced, late, reading, absent, away."""
    tone: str
    text: str
    detail: str = ""
    """What the server or the network said."""


class ReadFailure(NamedTuple):
    """Why the settings cannot be read, and since when."""

    since: float
    text: str
    is_silence: bool
    """Whether there is no answer. Else the server refuses the call, or the table is of another schema."""

    @classmethod
    def of(cls, error: KVPollError) -> ReadFailure:
        return cls(time.time(), str(error), isinstance(error, StoreUnavailableError))

    @property
    def state(self) -> State:
        silence = f"Redis does not answer since {formats.clock(self.since)} UTC"
        return State("away", "bad", silence if self.is_silence else "The table cannot be read", self.text)


def state_of(
    snapshot: Snapshot, failure: ReadFailure | None, is_absent: bool, was_there: bool, findings: Iterable[Finding]
) -> State:
    """Return what the last snapshot and the last reading of the settings show; ``findings`` are the doctor's.

    ``was_there`` tells whether an earlier reading found the settings.
    """
    if failure is not None:
        return failure.state
    if is_absent and not snapshot.total:
        for each in findings:
            if each.check == "settings" and each.level is Level.PROBLEM:  # they alone are gone, or all data is
                return State("absent", "bad", each.found, each.advice)
        if was_there:
            return State("absent", "bad", "Namespace not found", GONE)
        return State("absent", "warn", "Namespace not found", NOT_FOUND)
    if snapshot.error is not None:
        return State("away", "bad", "The table cannot be read", snapshot.error)
    if not snapshot.synced:
        walked = "" if snapshot.walked is None else f": {formats.count(snapshot.walked)} rooms so far"
        return State("reading", "warn", f"Reading the table{walked}")
    behind = f"{formats.duration(snapshot.lag_seconds)} behind"
    if not snapshot.has_feed:
        return State("synced", "warn", f"Read once a minute, as this namespace keeps no feed; {behind}")
    if snapshot.lag_seconds > LATE:
        return State("late", "warn", f"Late: {behind}")
    return State("synced", "good", f"Synced, {behind}")
