"""What all users of a namespace must agree on, so that the table can neither be split nor mixed by mistake."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast, get_args

from redis_kvpoll import checks, keys
from redis_kvpoll.checks import Mode, Policy
from redis_kvpoll.commands.shape import Call, Layout
from redis_kvpoll.errors import NamespaceMismatchError
from redis_kvpoll.scripts import load

SCRIPT = load("settings")
NAMES = ("schema", "policy", "shards", "mode")
SCHEMA = "1"
"""Grows when the layout of keys or fields changes so that older versions would misread it."""

_KNOWN = {
    "policy": get_args(Policy),
    "shards": frozenset(map(str, range(1, checks.MAX_SHARDS + 1))),
    "mode": get_args(Mode),
}

TTL_MS = 7 * 24 * 3600 * 1000
RENEW_SECONDS = 3600.0
"""Far below the TTL, so that a namespace in use never loses its settings."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of a namespace."""

    policy: Policy
    shards: int
    mode: Mode


@dataclass(frozen=True, slots=True)
class Agreement:
    """What one store asks of its namespace; None adopts what is there, else the default."""

    namespace: str
    policy: Policy | None
    shards: int | None
    mode: Mode | None

    @classmethod
    def checked(cls, namespace: Any, policy: Any, shards: Any, mode: Any) -> Agreement:
        """The same from unchecked input."""
        return cls(checks.namespace(namespace), checks.policy(policy), checks.shards(shards), checks.mode(mode))

    def call(self) -> Call:
        asked = [SCHEMA, self.policy or "", str(self.shards or ""), self.mode or ""]
        return Call(SCRIPT, self.namespace, [keys.settings(self.namespace)], [str(TTL_MS), *asked], [], [])

    def read(self, reply: list[Any]) -> Settings:
        """The settings in the server's answer; NamespaceMismatchError when they are not what was asked for."""
        there = {name: (value or b"").decode("utf-8", "replace") for name, value in zip(NAMES, reply, strict=True)}
        asked = {"schema": SCHEMA, "policy": self.policy, "shards": self.shards, "mode": self.mode}
        for name, value in asked.items():
            if value is not None and str(value) != there[name]:
                raise NamespaceMismatchError(self.namespace, name, str(value), there[name])
        # What is adopted must be understood: scripts take any policy that is not strict for compat.
        for name, known in _KNOWN.items():
            if there[name] not in known:
                raise NamespaceMismatchError(self.namespace, name, None, there[name])
        return Settings(cast("Policy", there["policy"]), int(there["shards"]), cast("Mode", there["mode"]))

    def adopt(self, settings: Settings) -> Agreement:
        """The same, holding from now on to what was found: a server that lost its data must not change a layout."""
        return Agreement(self.namespace, settings.policy, settings.shards, settings.mode)

    def layout(self, settings: Settings, ttl_ms: str, terminal_ttl_ms: str) -> Layout:
        return Layout(self.namespace, settings.shards, settings.policy, settings.mode, ttl_ms, terminal_ttl_ms)
