"""``/api/...``: the same knowledge as the pages, as JSON. docs/operations.md lists the addresses."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

from starlette.exceptions import HTTPException

from redis_kvpoll import validation
from redis_kvpoll.errors import InvalidInputError
from redis_kvpoll.model import Entry, KVPoll
from redis_kvpoll.protocol.feed import Change
from redis_kvpoll.protocol.settings import SCHEMA
from redis_kvpoll.serve import documents
from redis_kvpoll.serve.screens.base import Page
from redis_kvpoll.serve.watch import Watch
from redis_kvpoll.statistics.model import BOUNDS, LIVE, RoomRow

MOST_ROOMS = 1000
STATUSES = {status.name.lower(): status for status in KVPoll}


def namespaces(watches: Mapping[str, Watch]) -> dict[str, Any]:
    """Return each namespace with its settings and its state."""
    return {"namespaces": [_namespace(watch) for watch in watches.values()]}


def _namespace(watch: Watch) -> dict[str, Any]:
    settings = watch.settings
    return {
        "namespace": watch.name,
        "policy": settings.policy if settings else None,
        "mode": settings.mode if settings else None,
        "shards": settings.shards if settings else None,
        "feed_length": settings.feed_length if settings else None,
        "schema": SCHEMA if settings else None,
        "state": watch.state.word,
        "text": watch.state.text,
        "detail": watch.state.detail,
        "server": watch.examination.server or None,
        "server_version": watch.examination.server_version or None,
    }


def stats(watch: Watch) -> dict[str, Any]:
    """Return the numbers of a namespace: those of ``kvpoll stats``, and the buckets of the durations."""
    snapshot = watch.snapshot
    content: dict[str, Any] = plain(documents.snapshot(snapshot))
    for name, found in (("status_seconds", snapshot.status_durations), ("room_seconds", snapshot.room_durations)):
        for status, histogram in found.items():
            content[name][status.name] |= {"bounds": list(BOUNDS), "counts": list(histogram.counts)}
    more = {"state": watch.state.word, "walked": snapshot.walked, "refusals_seen": plain(snapshot.refusals_seen)}
    return content | more


def owners(watch: Watch) -> dict[str, Any]:
    """Return the leases of a namespace."""
    snapshot = watch.snapshot
    found = [plain(documents.owner(each)) for each in snapshot.owners]
    return {"namespace": watch.name, "at": snapshot.at, "owners": found}


def doctor(watch: Watch, server: str) -> dict[str, Any]:
    """Return what the doctor's last look has found. ``server`` is the URL without its password."""
    found = documents.findings(watch.examination.findings)
    return {"server": server, "namespace": watch.name, "examined_at": watch.examined_at, "findings": found}


async def rooms(page: Page, limit: int) -> dict[str, Any]:
    """Return the rooms that the address asks for, those that are at their status for the longest first.

    ``matching`` is how many there are of them; None where counting them would take a look at each room of the table.
    A list of ended rooms takes such a look, so it waits for its turn, and raises BusyError if too many wait.
    """
    watch, owner = page.watch, page.query.get("owner") or None
    statuses, longer_than = _statuses(page), _longer_than(page)
    are_live = set(statuses) <= set(LIVE)
    async with nullcontext() if are_live else watch.list_turns.take():
        found = watch.rows(statuses, longer_than, owner, min(limit, MOST_ROOMS))
    snapshot, statistics = watch.snapshot, watch.statistics
    is_counted = owner is None and (not longer_than or are_live)
    return {
        "namespace": watch.name,
        "at": snapshot.at,
        "synced": snapshot.synced,
        "lag_seconds": plain(snapshot.lag_seconds),
        "total": statistics.count(KVPoll) if statistics else snapshot.total,
        "matching": statistics.count(statuses, longer_than=longer_than) if statistics and is_counted else None,
        "rooms": [_row(row) for row in found],
    }


def _row(row: RoomRow) -> dict[str, Any]:
    """A room as the statistics know it."""
    names = {"ttl": "ttl_seconds"}
    return {names.get(name, name): value for name, value in plain(row).items()}


def _statuses(page: Page) -> list[KVPoll]:
    """The statuses that the address names in any case, with commas between them; the live ones if it names none."""
    words = page.query.get("status", "")
    if not words:
        return list(LIVE)
    if unknown := [word for word in words.split(",") if word.lower() not in STATUSES]:
        raise HTTPException(400, f"status: {unknown[0][:80]!r} is not one of {', '.join(KVPoll.__members__)}")
    return list(dict.fromkeys(STATUSES[word.lower()] for word in words.split(",")))


def _longer_than(page: Page) -> float:
    """The seconds of ``longer_than``; those of ``kvpoll serve --stuck-after`` with ``stuck``."""
    text = page.query.get("longer_than", "")
    if not text:
        return page.watch.snapshot.stuck_after if page.query.get("stuck") else 0.0
    try:
        return validation.seconds_or_zero(float(text), "longer_than")
    except (ValueError, InvalidInputError):
        raise HTTPException(400, f"longer_than: {text[:80]!r} is not a number of seconds") from None


def room(entry: Entry, changes: list[Change], now: float) -> dict[str, Any]:
    """Return a room with its changes; ``now`` is the server's time."""
    found: dict[str, Any] = plain(documents.entry(entry, now))
    return found | {"changes": [plain(documents.change(change)) for change in changes]}


def plain(value: Any) -> Any:
    """Return a value as JSON has it: statuses by name, room ids as text, and no infinity."""
    if isinstance(value, KVPoll):
        return value.name
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _with_text_room({field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)})
    if isinstance(value, Mapping):
        return _with_text_room(
            {str(plain(name)): plain(each) for name, each in value.items() if not isinstance(name, tuple)}
        )
    if isinstance(value, tuple | list | frozenset | set):
        return [plain(each) for each in value]
    return value


def _with_text_room(found: dict[str, Any]) -> dict[str, Any]:
    """A room id has 64 bits: a number of JavaScript has 53."""
    if isinstance(found.get("room"), int):
        found["room"] = str(found["room"])
    return found
