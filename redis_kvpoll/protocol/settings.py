"""The settings that all stores of a namespace share.

A store with other settings is refused, because it would write to other shards or merge by another policy.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple, cast, get_args

from redis_kvpoll import validation
from redis_kvpoll.errors import InvalidInputError, NamespaceMismatchError
from redis_kvpoll.protocol import keys
from redis_kvpoll.protocol.script_call import FEED_TTL_MS, Call, CallContext, Identity, ScriptSpec
from redis_kvpoll.protocol.scripts import load
from redis_kvpoll.validation import Mode, Policy

SETTINGS = ScriptSpec(load("settings"), room_keys=(), reply=())
NAMES = ("schema", "policy", "shards", "mode", "feed_length")
SCHEMA = "3"
"""Incremented when keys or fields change so that older versions would misread them."""

_KNOWN = {
    "policy": get_args(Policy),
    "shards": frozenset(map(str, range(1, validation.MAX_SHARDS + 1))),
    "mode": get_args(Mode),
}
_FEED_LENGTH = re.compile(r"0|[1-9][0-9]{0,7}")

DEFAULT_FEED_LENGTH = 100_000
"""As in lua/settings.lua."""

TTL_MS = 7 * 24 * 3600 * 1000
"""A week: the settings of an unused namespace expire after it."""
RENEW_SECONDS = 3600.0
"""Far below the TTL, so that a namespace in use keeps its settings."""
RESTORE_SECONDS = 30.0
"""Between the renewals by heartbeats: so soon, settings that were evicted or deleted alone are there again."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of a namespace."""

    policy: Policy
    shards: int
    mode: Mode
    feed_length: int
    """Entries that a shard's feed keeps; 0 for no feed."""


class Namespace(NamedTuple):
    """A namespace and its settings, as they are stored; None for one that is missing."""

    namespace: str
    policy: str | None
    mode: str | None
    shards: int | None
    feed_length: int | None
    schema: str | None


def parse_namespace(name: str, reply: list[Any]) -> Namespace:
    """Return the settings in a reply, whatever they are."""
    texts = (None if word is None else word.decode("utf-8", "replace") for word in reply)
    stored = dict(zip(NAMES, texts, strict=True))
    shards, feed_length = (int(w) if w and w.isdigit() else None for w in (stored["shards"], stored["feed_length"]))
    return Namespace(name, stored["policy"], stored["mode"], shards, feed_length, stored["schema"])


@dataclass(frozen=True, slots=True)
class ExpectedSettings:
    """The settings that one store requires; None adopts the namespace's, else the default."""

    namespace: str
    policy: Policy | None
    shards: int | None
    mode: Mode | None
    feed_length: int | None
    read_only: bool = False
    """Whether the store reads the settings, and neither creates nor renews them."""

    @classmethod
    def checked(
        cls, namespace: Any, policy: Any, shards: Any, mode: Any, feed_length: Any, read_only: Any = False
    ) -> ExpectedSettings:
        """Return the settings from unchecked arguments, or raise InvalidInputError."""
        return cls(
            validation.namespace(namespace),
            validation.policy(policy),
            validation.shards(shards),
            validation.mode(mode),
            validation.feed_length(feed_length),
            validation.flag(read_only, "read_only"),
        )

    def call(self) -> Call:
        """Return the call that creates or renews the settings, or returns other ones unchanged."""
        required = [SCHEMA, self.policy or "", str(self.shards or ""), self.mode or "", _text(self.feed_length)]
        return Call(SETTINGS, self.namespace, [keys.settings(self.namespace)], [str(TTL_MS), *required])

    def reading(self) -> list[str]:
        """Return the command that reads the settings; its reply is like that of ``call``, or all None."""
        return ["HMGET", keys.settings(self.namespace), *NAMES]

    @property
    def does_without(self) -> bool:
        """Whether the store reads a table whose settings are gone: it writes nothing, and was told the shards."""
        return self.read_only and self.shards is not None

    def check_exists(self, operation: str, reply: list[Any]) -> None:
        """Raise InvalidInputError if the reply to ``reading`` is that of an absent namespace."""
        if not any(reply) and not self.does_without:
            what = f"namespace {self.namespace!r} does not exist, and a store with read_only=True"
            raise InvalidInputError(f"{operation}: {what} does not create it")

    def of_absent(self) -> Settings:
        """Return what the settings of a namespace that does not exist would be."""
        feed_length = DEFAULT_FEED_LENGTH if self.feed_length is None else self.feed_length
        return Settings(self.policy or "compat", self.shards or 1, self.mode or "none", feed_length)

    def read(self, reply: list[Any]) -> Settings:
        """Return the settings in a reply; raise NamespaceMismatchError if they are not the required ones."""
        if not any(reply) and self.does_without:
            return self.of_absent()
        stored = {name: (value or b"").decode("utf-8", "replace") for name, value in zip(NAMES, reply, strict=True)}
        if stored["schema"] != SCHEMA:  # not an argument of a store, so it cannot be adopted
            raise NamespaceMismatchError(self.namespace, "schema", None, stored["schema"])
        required = {"policy": self.policy, "shards": self.shards, "mode": self.mode, "feed_length": self.feed_length}
        for name, value in required.items():
            if value is not None and str(value) != stored[name]:
                raise NamespaceMismatchError(self.namespace, name, str(value), stored[name])
        # An adopted value must be a known one: the scripts treat every policy other than strict as compat.
        for name, known in _KNOWN.items():
            if stored[name] not in known:
                raise NamespaceMismatchError(self.namespace, name, None, stored[name])
        if not _FEED_LENGTH.fullmatch(stored["feed_length"]):
            raise NamespaceMismatchError(self.namespace, "feed_length", None, stored["feed_length"])
        policy, mode = cast("Policy", stored["policy"]), cast("Mode", stored["mode"])
        return Settings(policy, int(stored["shards"]), mode, int(stored["feed_length"]))

    def adopt(self, settings: Settings) -> ExpectedSettings:
        """Return these settings with the adopted values required, so that a loss of data cannot change them."""
        return replace(self, **asdict(settings))

    def context(self, settings: Settings, identity: Identity) -> CallContext:
        """Return the context for the calls of a store."""
        return CallContext(
            **asdict(identity),
            namespace=self.namespace,
            shards=settings.shards,
            policy=settings.policy,
            mode=settings.mode,
            feed_length=str(settings.feed_length),
            feed_ttl_ms="" if self.read_only else FEED_TTL_MS,
        )


def _text(number: int | None) -> str:
    return "" if number is None else str(number)
