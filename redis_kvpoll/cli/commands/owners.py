"""``kvpoll owners`` and ``reap``: the owners of rooms, their leases, and failing the rooms of lost owners."""

from __future__ import annotations

import sys

import click

from redis_kvpoll.cli import as_json
from redis_kvpoll.cli.clock import ServerClock
from redis_kvpoll.cli.found import found_table
from redis_kvpoll.cli.options import json_option, table_options
from redis_kvpoll.cli.owner_rows import COLUMNS, cells, fold
from redis_kvpoll.cli.rows import local_time
from redis_kvpoll.errors import printable
from redis_kvpoll.serve import documents


@click.command(short_help="List lease owners and their states.")
@table_options
@json_option
def owners(url: str, namespace: str, wants_json: bool) -> None:
    """List lease owners with their last heartbeat and state; into a pipe, as tab-separated lines.

    States: alive; expired: no heartbeat within its lease; suspected: a sweep found the lease expired; lost: a later
    sweep found it still expired, and the owner's live rooms fail. Lost owners are listed for an hour; several lost
    leases of one name are one line, with the times of the last. --json has each of them.
    """
    with found_table(url, namespace) as (store, replica):
        found = store.owners()
    now = ServerClock(url).now()
    if wants_json:
        head = {"namespace": namespace, "at": now, "replica": as_json.replica(replica)}
        as_json.put({**head, "owners": [documents.owner(one) for one in found]})
    elif not found:
        click.echo(f"Namespace {namespace!r} has no leases.")
    elif sys.stdout.isatty():
        from redis_kvpoll.cli import terminal

        terminal.print_owners(COLUMNS, [(group[-1].state, cells(group, now)) for group in fold(found)])
    else:
        for line in (COLUMNS, *(cells(group, now) for group in fold(found))):
            click.echo("\t".join(line))


@click.command(short_help="Fail the live rooms of lost owners.")
@table_options
def reap(url: str, namespace: str) -> None:
    """Check once the leases that are due, and fail the live rooms of lost owners.

    The processes with leases do this all the time; run it by hand only if none is left. Run it twice: the first
    check marks the owner of an expired lease as suspected, a later one fails its rooms.
    """
    with found_table(url, namespace, "reap") as (store, _):
        failed = store.reap()
        suspected = [owner for owner in store.owners() if owner.state == "suspected"]
    click.echo(f"Failed {failed:,} room{'' if failed == 1 else 's'} of lost owners.")
    for owner in suspected:
        click.echo(
            f"Suspected {printable(owner.name)}, owner of {owner.rooms:,} live room{'' if owner.rooms == 1 else 's'}: "
            f"last heartbeat at {local_time(owner.last_heartbeat_at)}, with a lease of {owner.ttl:g} s."
        )
    if suspected:
        seconds = max(0.6, *(max(2 * owner.heartbeat, 0.35 * owner.ttl) for owner in suspected))
        click.echo(
            f"Run it again in {seconds:g} s or later: it then fails the rooms of owners without a heartbeat since."
        )
