"""The same room in the table of the other side, as SGLang's plugin names the two."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import click

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


def say_where_live(url: str, namespace: str, rooms: list[int], is_new: bool = True) -> None:
    """Say on stderr which of some aborted rooms the other side still has live: there nothing was aborted.

    SGLang follows a new failure at once. One that was there before the abort, it may not have followed.
    """
    name = other_side(namespace)
    if not name or not rooms:
        return
    follows = "SGLang follows; other programs need " if namespace.endswith("-decode") else ""
    follows = follows if is_new else "if it stays so, "
    if len(rooms) == 1:
        other = read_other_side(url, namespace, rooms[0])
        if other is not None and other.error:
            click.echo(f"whether {name} has it, too, is not known: {other.error}", err=True)
        elif other is not None and other.entry is not None and not other.entry.status.is_terminal:
            more = f"{follows}kvpoll abort {rooms[0]} -n {name}"
            click.echo(f"in {name} it is still {other.entry.status.name}: {more}", err=True)
        return
    try:
        live = _live(url, name, rooms)
    except KVPollError as error:
        click.echo(f"whether {name} has them, too, is not known: {in_shell(error, name)}", err=True)
        return
    if live:
        more = f"{follows}kvpoll abort {live[0]} -n {name}" + (", and so for each" if len(live) > 1 else "")
        click.echo(f"in {name} {len(live):,} of them {'is' if len(live) == 1 else 'are'} still live: {more}", err=True)


def _live(url: str, name: str, rooms: list[int]) -> list[int]:
    """Return which rooms are live in a table. A corrupt one counts as live, as for an abort."""
    from redis_kvpoll.sync.operators import rows_of

    with open_table(url, name) as store:
        if store.settings() is None:
            return []
        return [row.room for row in rows_of(store, rooms) if row.status is None or not row.status.is_terminal]


def leases(store: StatusStore, entry: Entry) -> list[Owner]:
    """The leases of a table, if the room has an owner."""
    return store.owners() if entry.owner or entry.rank_leases else []


def process_of(entry: Entry, owners: list[Owner]) -> str:
    """The process that has taken the lease of a room's owner last."""
    return next((one.process for one in reversed(owners) if one.name == entry.owner), "")
