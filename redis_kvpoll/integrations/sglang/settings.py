"""What the environment says: one variable for each setting."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from redis_kvpoll import validation
from redis_kvpoll.engine.session import DEFAULT_DEADLINE, DEFAULT_TERMINAL_TTL, DEFAULT_TTL, StoreOptions
from redis_kvpoll.errors import InvalidInputError, printable

PREFIX = "KVPOLL_"
URL = PREFIX + "URL"


@dataclass(frozen=True, slots=True)
class Settings:
    """How a process takes part. Durations are seconds."""

    url: str
    namespace: str = "default"
    """Of the deployment; each role has its own: with -prefill and with -decode behind it."""
    lease: float = 5.0
    """After so long without a heartbeat a process is taken for dead, and its live rooms fail."""
    ttl: float = DEFAULT_TTL
    terminal_ttl: float = DEFAULT_TERMINAL_TTL
    deadline: float = DEFAULT_DEADLINE
    join: float = 10.0
    """What the start may take; then SGLang goes on without the table. More than ``deadline``, whose error says more."""
    shards: int | None = None
    feed_length: int | None = None

    def options(self, role: str) -> StoreOptions:
        """What a store of the role's namespace is made with. Policy strict: as SGLang's own rule since PR 24539."""
        return StoreOptions(
            namespace=f"{self.namespace}-{role}",
            ttl=self.ttl,
            terminal_ttl=self.terminal_ttl,
            deadline=self.deadline,
            policy="strict",
            shards=self.shards,
            feed_length=self.feed_length,
        )


SHORTEST_LEASE = 0.5
"""Seconds. A busy interpreter keeps the plugin's thread waiting for longer than a tenth of less."""


def _seconds(text: str) -> float:
    return validation.seconds(float(text), "a duration")


def _lease(text: str) -> float:
    seconds = _seconds(text)
    if seconds < SHORTEST_LEASE:
        raise ValueError(text)
    return seconds


TAKEN: Mapping[Callable[[str], Any], str] = {
    _seconds: "a number of seconds above 0",
    _lease: f"a number of seconds, {SHORTEST_LEASE:g} at least",
    int: "a whole number",
}
READERS: Mapping[str, Callable[[str], Any]] = {
    "NAMESPACE": str,
    "LEASE": _lease,
    "TTL": _seconds,
    "TERMINAL_TTL": _seconds,
    "DEADLINE": _seconds,
    "JOIN": _seconds,
    "SHARDS": int,
    "FEED_LENGTH": int,
}


def read(environment: Mapping[str, str]) -> Settings | None:
    """The settings, None without KVPOLL_URL; InvalidInputError names the variable that says nothing sensible."""
    url = environment.get(URL, "").strip()
    if not url:
        return None
    found: dict[str, Any] = {}
    for name, reader in READERS.items():
        text = environment.get(PREFIX + name, "").strip()
        if text:
            try:
                found[name.lower()] = reader(text)
            except (ValueError, InvalidInputError):
                what = TAKEN.get(reader, "text")
                raise InvalidInputError(f"{PREFIX}{name} is {what}, not {printable(text)!r}") from None
    return Settings(url, **found)
