"""What all users of a namespace must agree on, so that the table can neither be split nor mixed by mistake."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any, cast, get_args

from redis_kvpoll import validation
from redis_kvpoll.errors import NamespaceMismatchError
from redis_kvpoll.protocol import keys
from redis_kvpoll.protocol.script_call import Call, CallContext, Identity, ScriptSpec
from redis_kvpoll.protocol.scripts import load
from redis_kvpoll.validation import Mode, Policy

SETTINGS = ScriptSpec(load("settings"), keys=(), reply=())
NAMES = ("schema", "policy", "shards", "mode", "feed_length")
SCHEMA = "2"
"""Grows when the context of keys or fields changes so that older versions would misread it."""

_KNOWN = {
    "policy": get_args(Policy),
    "shards": frozenset(map(str, range(1, validation.MAX_SHARDS + 1))),
    "mode": get_args(Mode),
}
_FEED_LENGTH = re.compile(r"0|[1-9][0-9]{0,7}")

TTL_MS = 7 * 24 * 3600 * 1000
RENEW_SECONDS = 3600.0
"""Far below the TTL, so that a namespace in use never loses its settings."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of a namespace."""

    policy: Policy
    shards: int
    mode: Mode
    feed_length: int
    """Entries that the feed of a shard keeps; 0 when there is none."""


@dataclass(frozen=True, slots=True)
class ExpectedSettings:
    """What one store asks of its namespace; None adopts what is there, else the default."""

    namespace: str
    policy: Policy | None
    shards: int | None
    mode: Mode | None
    feed_length: int | None

    @classmethod
    def checked(cls, namespace: Any, policy: Any, shards: Any, mode: Any, feed_length: Any) -> ExpectedSettings:
        """The same from unchecked input."""
        return cls(
            validation.namespace(namespace),
            validation.policy(policy),
            validation.shards(shards),
            validation.mode(mode),
            validation.feed_length(feed_length),
        )

    def call(self) -> Call:
        asked = [SCHEMA, self.policy or "", str(self.shards or ""), self.mode or "", _text(self.feed_length)]
        return Call(SETTINGS, self.namespace, [keys.settings(self.namespace)], [str(TTL_MS), *asked])

    def read(self, reply: list[Any]) -> Settings:
        """The settings in the server's answer; NamespaceMismatchError when they are not what was asked for."""
        there = {name: (value or b"").decode("utf-8", "replace") for name, value in zip(NAMES, reply, strict=True)}
        if there["schema"] != SCHEMA:  # no argument of a store, so there is nothing to adopt
            raise NamespaceMismatchError(self.namespace, "schema", None, there["schema"])
        asked = {"policy": self.policy, "shards": self.shards, "mode": self.mode, "feed_length": self.feed_length}
        for name, value in asked.items():
            if value is not None and str(value) != there[name]:
                raise NamespaceMismatchError(self.namespace, name, str(value), there[name])
        # What is adopted must be understood: scripts take any policy that is not strict for compat.
        for name, known in _KNOWN.items():
            if there[name] not in known:
                raise NamespaceMismatchError(self.namespace, name, None, there[name])
        if not _FEED_LENGTH.fullmatch(there["feed_length"]):
            raise NamespaceMismatchError(self.namespace, "feed_length", None, there["feed_length"])
        policy, mode = cast("Policy", there["policy"]), cast("Mode", there["mode"])
        return Settings(policy, int(there["shards"]), mode, int(there["feed_length"]))

    def adopt(self, settings: Settings) -> ExpectedSettings:
        """The same, holding from now on to what was found: a server that lost its data must not change a context."""
        return ExpectedSettings(self.namespace, settings.policy, settings.shards, settings.mode, settings.feed_length)

    def context(self, settings: Settings, identity: Identity) -> CallContext:
        return CallContext(
            **asdict(identity),
            namespace=self.namespace,
            shards=settings.shards,
            policy=settings.policy,
            mode=settings.mode,
            feed_length=str(settings.feed_length),
        )


def _text(number: int | None) -> str:
    return "" if number is None else str(number)
