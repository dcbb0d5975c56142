"""Prints what the commands say with ``--json``. docs/reference has a schema of each; a test holds them to it.

What the API of ``kvpoll serve`` says, too, is in serve/documents.py.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from redis_kvpoll.errors import CorruptEntryError, printable
from redis_kvpoll.model import Entry, RoomRow
from redis_kvpoll.serve import documents

if TYPE_CHECKING:
    from redis_kvpoll.doctor.replica import ReplicaLink


def put(value: Any) -> None:
    """Print a document."""
    click.echo(json.dumps(value, indent=2, allow_nan=False))


def put_line(value: Any) -> None:
    """Print a document of a stream on one line."""
    click.echo(json.dumps(value, allow_nan=False))


def room(row: RoomRow | None, entry: Entry | CorruptEntryError | None, now: float) -> dict[str, Any]:
    """One room in a list, or by itself."""
    if isinstance(entry, Entry):
        return documents.entry(entry, now)
    number = entry.room if entry is not None else row.room if row is not None else None
    return {"room": number, "status": None, "corrupt": printable(entry.found) if entry is not None else None}


def head(namespace: str, link: ReplicaLink | None) -> dict[str, Any]:
    """What the documents of one table begin with: its name, and the replica that was read."""
    return {"namespace": namespace, "replica": replica(link)}


def replica(one: ReplicaLink | None) -> dict[str, Any] | None:
    """The replica that was read; None for a primary."""
    if one is None:
        return None
    return {"primary": one.primary, "linked": one.is_linked, "seconds_behind": one.behind}
