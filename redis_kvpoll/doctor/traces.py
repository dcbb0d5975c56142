"""What is left of a namespace whose settings are gone: evicted or deleted alone, they hide a table that lives.

Invariant: it reads a bounded number of keys by their names, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from redis_kvpoll.doctor import node_look
from redis_kvpoll.engine.effects import Send
from redis_kvpoll.model import Owner
from redis_kvpoll.protocol import keys, owner_listing
from redis_kvpoll.protocol.settings import RESTORE_SECONDS
from redis_kvpoll.sync.connect import transport_from_url
from redis_kvpoll.validation import MAX_SHARDS

FIRST, CHUNK = 4, 64
"""If none of the first shards has a key, there are none. Then so many are looked for at a time."""
SHOWN = 3

Ask = Callable[[str, Sequence[str]], Any]
"""Sends a command to a shard's server, and returns the reply."""


class Traces(NamedTuple):
    """A table without settings."""

    shards: int
    """As many as its keys show."""
    alive: tuple[Owner, ...]


def count_shards(namespace: str, ask: Ask) -> int:
    """Return how many shards the keys of a namespace show; 0 if there are none."""
    if ask(namespace, _exists(namespace)):
        return 1
    count = 0
    for first, last in ((0, FIRST), *((at, min(at + CHUNK, MAX_SHARDS)) for at in range(FIRST, MAX_SHARDS, CHUNK))):
        tags = [(number, f"{namespace}/{number}") for number in range(first, last)]
        there = [number for number, tag in tags if ask(tag, _exists(tag))]
        if not there:
            break
        count = there[-1] + 1
    return count


def _exists(tag: str) -> list[str]:
    """Return the command that counts the keys of a shard whose names are known."""
    names = (keys.epoch, keys.leases, keys.due, keys.owned, keys.feed, keys.failed)
    return ["EXISTS", *(name(tag) for name in names)]


def read_traces(url: str, namespace: str, seconds: float) -> Traces | None:
    """Return what is left of a namespace; None if there is nothing, or the server does not let this user look."""
    transport = transport_from_url(url, seconds)

    def ask(tag: str, words: Sequence[str]) -> Any:
        return transport.perform(Send(tag, list(words), seconds))

    try:
        shards = count_shards(namespace, ask)
        if not shards:
            return None
        home = keys.home(namespace, shards)
        clock = ask(home, ["TIME"])
        now = int(clock[0]) + int(clock[1]) / 1e6
        found = owner_listing.parse_owners(owner_listing.words_of(ask(home, ["HGETALL", keys.leases(home)])), now)
        return Traces(shards, tuple(owner for owner in found if owner.state == "alive"))
    except node_look.FAILURES:
        return None
    finally:
        transport.close()


def described(namespace: str, alive: Iterable[Owner]) -> str:
    """Return what it means that the settings alone are gone, in words."""
    names = sorted({owner.name for owner in alive})
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    who = f"alive: {', '.join(names[:SHOWN])}{more}" if names else "no owner is alive"
    return f"the settings of namespace {namespace!r} are gone (evicted or deleted), its table is not; {who}"


def when_back(alive: Iterable[Owner]) -> str:
    """Return who writes the settings again, and when, in words."""
    if any(alive):
        return f"a heartbeat of an owner writes them again within {RESTORE_SECONDS:.0f} s"
    return "the next process that opens a store writes them again, with its own arguments"
