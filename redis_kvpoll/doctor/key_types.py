"""Finds the keys that the rooms of a shard share and that have another type: set by hand, or by another program.

Some of them stop calls that this look does not make: ``due`` stops every heartbeat. So each is asked about, by a
command of the ACL rule for readers, which does not have TYPE.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from redis_kvpoll.doctor.facts import Facts
from redis_kvpoll.doctor.findings import Observation, problem, warning
from redis_kvpoll.doctor.node_view import Check
from redis_kvpoll.engine import remedies
from redis_kvpoll.engine.effects import Flow
from redis_kvpoll.engine.executor import Executor
from redis_kvpoll.errors import ServerRefusedError
from redis_kvpoll.protocol import keys

_OF_HASH, _OF_STREAM = ("HGET", "kind"), ("XREVRANGE", "+", "-", "COUNT", "1")
_OF_SORTED_SET = ("ZRANGEBYSCORE", "+inf", "-inf", "LIMIT", "0", "1")
_NO_LEASE = "no lease is taken, renewed or swept"


class _Kind(NamedTuple):
    name: Callable[[str], str]
    """Of the key of a shard."""
    reading: Sequence[str]
    """A command on it, without the key; none for what is read before this look."""
    effect: str
    """What its other type does."""
    after: str = ""
    """What follows its deletion."""


KINDS = {
    "settings": _Kind(
        keys.settings,
        (),
        "no process that starts can use the table",
        "the next heartbeat or process writes them again",
    ),
    "epoch": _Kind(keys.epoch, _OF_HASH, "every write is refused", "its processes restore, as after a loss of data"),
    "leases": _Kind(keys.leases, _OF_HASH, _NO_LEASE, "both, so that its processes restore, as after a loss of data"),
    "due": _Kind(keys.due, _OF_SORTED_SET, _NO_LEASE, "the next heartbeat writes it again"),
    "owned": _Kind(
        keys.owned,
        _OF_SORTED_SET,
        "no lease ends, and no room of a dead owner fails",
        "rooms that are open now are not listed again: watch them if their owner dies",
    ),
    "feed": _Kind(
        keys.feed,
        _OF_STREAM,
        "no changes are followed: no mirror, wait, tail or stats works",
        "the next change begins it anew",
    ),
    "failed": _Kind(keys.failed, _OF_STREAM, "failures are not told", "the next failure begins it anew"),
    "cleared": _Kind(keys.cleared, _OF_HASH, "a late replay may create again what was cleared"),
    "refused": _Kind(keys.refused, _OF_HASH, "refused writes are not counted"),
}
"""The keys that the rooms of a shard share, the worst first."""
HARMLESS = ("failed", "cleared", "refused")
"""They stop no change of a room, no lease and no reader of the feed."""


def is_for_type(error: ServerRefusedError) -> bool:
    """Whether the server has refused a command since its key has another type."""
    return error.__cause__ is not None and remedies.code_of(error.__cause__) == "WRONGTYPE"


def find_wrong_types(executor: Executor, tags: Iterable[str]) -> Flow[tuple[str, ...]]:
    """Return the names of the shards' shared keys that have another type, the first shard first."""
    found = []
    for tag in tags:
        for kind in KINDS.values():
            if not kind.reading:
                continue
            command, *arguments = kind.reading
            try:
                yield from executor.send_command("doctor", tag, [command, kind.name(tag), *arguments])
            except ServerRefusedError as error:
                if is_for_type(error):
                    found.append(kind.name(tag))
    return tuple(found)


def shared_first(check_rooms: Check) -> Check:
    """Return the check of the keys that rooms share, and if these are sound, of the rooms."""

    def check(facts: Facts) -> Observation:
        return _observation(facts.wrong_types) if facts.wrong_types else check_rooms(facts)

    return check


def _observation(names: Sequence[str]) -> Observation:
    """Return what the worst of these keys stops, and how to mend it."""
    by_kind = {name.rpartition(":")[2]: name for name in reversed(names)}
    worst = next(kind for kind in KINDS if kind in by_kind)
    name, effect, after = by_kind[worst], KINDS[worst].effect, KINDS[worst].after
    more = f", and {len(names) - 1:,} more" if len(names) > 1 else ""
    to_delete = [name, f"{name.removesuffix(worst)}epoch"] if worst == "leases" else [name]
    then = f" ({after})" if after else ""
    advice = f"redis-cli DEL {shlex.join(to_delete)}{then}; who writes to these keys?"
    level = warning if worst in HARMLESS else problem
    return level(f"{name} has another type, by hand or by another program: {effect}{more}", "kvpoll's types", advice)
