"""``kvpoll owners`` and ``reap``: the owners of rooms, their leases, and failing the rooms of lost owners."""

from __future__ import annotations

import sys
import time

import click

from redis_kvpoll.cli import as_json
from redis_kvpoll.cli.durations import human
from redis_kvpoll.cli.options import json_option, need_namespace, open_table, table_options
from redis_kvpoll.cli.rows import local_time
from redis_kvpoll.errors import printable
from redis_kvpoll.model import Owner

COLUMNS = ("owner", "since", "heartbeat", "state", "live rooms", "failed rooms", "reason")


@click.command(short_help="List lease owners and their states.")
@table_options
@json_option
def owners(url: str, namespace: str, wants_json: bool) -> None:
    """List lease owners with their last heartbeat and state; into a pipe, as tab-separated lines.

    States: alive; expired: no heartbeat within its lease; suspected: a sweep found the lease expired; lost: a later
    sweep found it still expired, and the owner's live rooms fail. Lost owners are listed for an hour.
    """
    with open_table(url, namespace) as store:
        need_namespace(store, url, namespace)
        found = store.owners()
    if wants_json:
        as_json.put({"namespace": namespace, "at": time.time(), "owners": [as_json.owner(one) for one in found]})
    elif not found:
        click.echo(f"Namespace {namespace!r} has no leases.")
    elif sys.stdout.isatty():
        from redis_kvpoll.cli import terminal

        terminal.print_owners(COLUMNS, [(owner.state, cells(owner)) for owner in found])
    else:
        for line in (COLUMNS, *map(cells, found)):
            click.echo("\t".join(line))


@click.command(short_help="Fail the live rooms of lost owners.")
@table_options
def reap(url: str, namespace: str) -> None:
    """Check once the leases that are due, and fail the live rooms of lost owners.

    The processes with leases do this all the time; run it by hand only if none is left. Run it twice: the first
    check marks the owner of an expired lease as suspected, a later one fails its rooms.
    """
    with open_table(url, namespace, writes=True) as store:
        need_namespace(store, url, namespace)
        failed = store.reap()
        suspected = [owner for owner in store.owners() if owner.state == "suspected"]
    click.echo(f"Failed {failed:,} room{'' if failed == 1 else 's'} of lost owners.")
    for owner in suspected:
        click.echo(
            f"Suspected {printable(owner.name)}, owner of {owner.rooms:,} live room{'' if owner.rooms == 1 else 's'}: "
            f"last heartbeat at {local_time(owner.last_heartbeat_at)}, with a lease of {owner.ttl:g} s."
        )
    if suspected:
        seconds = max(0.6, *(2 * owner.heartbeat for owner in suspected))
        click.echo(
            f"Run it again in {seconds:g} s or later: it then fails the rooms of owners without a heartbeat since."
        )


def cells(owner: Owner) -> tuple[str, ...]:
    """An owner's cells in the order of COLUMNS."""
    heartbeat = f"{human(max(0.0, time.time() - owner.last_heartbeat_at))} ago" if owner.last_heartbeat_at else ""
    return (
        printable(owner.name),
        local_time(owner.since),
        heartbeat,
        owner.state,
        f"{owner.rooms:,}",
        f"{owner.failed:,}" if owner.state == "lost" else "",
        printable(owner.reason),
    )
