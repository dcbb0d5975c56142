"""The plugin's settings, which come from the environment: one variable each.

To add one: a field of PluginSettings, its parser in PARSERS, and a row in docs/sglang.md (a test compares them).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from redis_kvpoll import validation
from redis_kvpoll.engine.store_options import DEFAULT_DEADLINE, DEFAULT_TERMINAL_TTL, DEFAULT_TTL, StoreOptions
from redis_kvpoll.errors import InvalidInputError, printable
from redis_kvpoll.integrations.sglang.startup import URL, is_enabled

PREFIX = "KVPOLL_"


@dataclass(frozen=True, slots=True)
class PluginSettings:
    """The settings of one process. Durations are seconds."""

    url: str
    password_file: str = ""
    """Where the password is, if it is not in the URL."""
    namespace: str = "default"
    """The deployment's name; its tables are in the namespaces with -prefill and -decode appended."""
    lease: float = 5.0
    """Without a heartbeat for this long a process counts as lost, and its live rooms fail."""
    ttl: float = DEFAULT_TTL
    terminal_ttl: float = DEFAULT_TERMINAL_TTL
    deadline: float = DEFAULT_DEADLINE
    join: float = 10.0
    """The time limit for joining at the start. Longer than ``deadline``, whose error has more detail than a timeout."""
    shards: int | None = None
    feed_length: int | None = None
    long_hold: bool = True
    """Decode: whether pages of a request that the table has failed are held until SGLang would have given them away."""

    agent: str = ""
    """The socket of an agent that runs as a service; without one, an instance's first process starts its agent."""

    def options(self, role: str) -> StoreOptions:
        """Return the options of a store of the role's namespace. Policy strict is SGLang's own rule since 0.5.20."""
        return StoreOptions(
            namespace=f"{self.namespace}-{role}",
            ttl=self.ttl,
            terminal_ttl=self.terminal_ttl,
            deadline=self.deadline,
            policy="strict",
            shards=self.shards,
            feed_length=self.feed_length,
        )


MIN_LEASE_SECONDS = 0.5
"""Below it, a busy interpreter may delay the plugin's thread by more than a heartbeat, a tenth of the lease."""


PRIVATE = ("memory", "embedded")
"""Schemes of a table that belongs to one store: not even the two stores of one agent would share it."""


def _seconds(text: str) -> float:
    return validation.seconds(float(text), "a duration")


def _lease(text: str) -> float:
    seconds = _seconds(text)
    if seconds < MIN_LEASE_SECONDS:
        raise ValueError(text)
    return seconds


def _shards(text: str) -> int | None:
    return validation.shards(int(text))


def _feed_length(text: str) -> int | None:
    """Refuse 0 here: a store would write it into the settings of a new namespace, where SGLang could never join."""
    if int(text) == 0:
        raise ValueError(text)
    return validation.feed_length(int(text))


def _switch(text: str) -> bool:
    return {"0": False, "1": True}[text]


EXPECTED: Mapping[Callable[[str], Any], str] = {
    _seconds: "a number of seconds above 0",
    _lease: f"a number of seconds, at least {MIN_LEASE_SECONDS:g}",
    _shards: f"a whole number from 1 to {validation.MAX_SHARDS:,}",
    _feed_length: f"a whole number from 1 to {validation.MAX_FEED_LENGTH:,}",
    _switch: "0 or 1",
}
PARSERS: Mapping[str, Callable[[str], Any]] = {
    "PASSWORD_FILE": str,
    "NAMESPACE": str,
    "LEASE": _lease,
    "TTL": _seconds,
    "TERMINAL_TTL": _seconds,
    "DEADLINE": _seconds,
    "JOIN": _seconds,
    "SHARDS": _shards,
    "FEED_LENGTH": _feed_length,
    "LONG_HOLD": _switch,
    "AGENT": str,
}


def read(environment: Mapping[str, str]) -> PluginSettings | None:
    """Return the settings; None without KVPOLL_URL. InvalidInputError names a variable with an invalid value."""
    if not is_enabled(environment):
        return None
    url = environment[URL].strip()
    if url.partition("://")[0] in PRIVATE:
        raise InvalidInputError(f"{URL} is {printable(url)}, a table that no other process sees: name a server")
    found: dict[str, Any] = {}
    for name, parser in PARSERS.items():
        text = environment.get(PREFIX + name, "").strip()
        if text:
            try:
                found[name.lower()] = parser(text)
            except (KeyError, ValueError, InvalidInputError):
                expected = EXPECTED.get(parser, "text")
                raise InvalidInputError(f"{PREFIX}{name} must be {expected}, not {printable(text)!r}") from None
    return PluginSettings(url, **found)
