"""The same room in the table of the other side, as SGLang's plugin names the two."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from redis_kvpoll.cli.found import in_shell
from redis_kvpoll.cli.options import ROLES, open_table
from redis_kvpoll.errors import KVPollError
from redis_kvpoll.model import Entry, Owner

if TYPE_CHECKING:
    from redis_kvpoll.sync.store import StatusStore


class OtherRoom(NamedTuple):
    """What is known of a room in the other side's table."""

    namespace: str
    entry: Entry | None = None
    """None if it is not there, or was not read."""
    process: str = ""
    """The process of its owner, as ``host:pid``; empty if it is not known."""
    error: str = ""
    """Why it was not read; empty if it was."""


def other_side(namespace: str) -> str:
    """The namespace of the other side; empty if there is none."""
    for mine, theirs in (ROLES, ROLES[::-1]):
        if namespace.endswith(f"-{mine}"):
            return namespace.removesuffix(mine) + theirs
    return ""


def read_other_side(url: str, namespace: str, room: int) -> OtherRoom | None:
    """Read a room in the other side's table; None if there is no other side."""
    name = other_side(namespace)
    if not name:
        return None
    try:
        with open_table(url, name) as store:
            entry = store.entry(room) if store.settings() is not None else None
            return OtherRoom(name, entry, process_of(entry, leases(store, entry)) if entry is not None else "")
    except KVPollError as error:
        return OtherRoom(name, error=in_shell(error, name))


def leases(store: StatusStore, entry: Entry) -> list[Owner]:
    """The leases of a table, if the room has an owner."""
    return store.owners() if entry.owner or entry.rank_leases else []


def process_of(entry: Entry, owners: list[Owner]) -> str:
    """The process that has taken the lease of a room's owner last."""
    return next((one.process for one in reversed(owners) if one.name == entry.owner), "")
