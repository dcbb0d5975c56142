"""``kvpoll namespaces``: the tables of a server."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from redis_kvpoll.cli import as_json, options
from redis_kvpoll.cli.exits import NOT_FOUND, leave
from redis_kvpoll.cli.found import warn_of_replica
from redis_kvpoll.cli.options import json_option, url_option
from redis_kvpoll.errors import printable

if TYPE_CHECKING:
    from redis_kvpoll.doctor.neighbours import Neighbours

COLUMNS = ("namespace", "policy", "mode", "shards", "feed_length", "schema")
SHOWN = 5


@click.command(short_help="List the tables of a server.")
@url_option
@json_option
def namespaces(url: str, wants_json: bool) -> None:
    """List the namespaces of a server, with their settings. It finds them by SCAN.

    stderr says how many keys the server has, how many of them are others', and which settings could not be read. The
    keys of other numbered databases than the URL's are counted, and not looked at.

    Exit status: 1 if there is none.
    """
    from redis_kvpoll.doctor.findings import plural
    from redis_kvpoll.doctor.neighbours import count_keys
    from redis_kvpoll.doctor.replica import read_replica
    from redis_kvpoll.sync.namespaces import list_namespaces
    from redis_kvpoll.transport.urls import parse

    found = list_namespaces(url, options.DEADLINE)
    if (replica := read_replica(url, options.DEADLINE)) is not None:
        warn_of_replica(replica, url)
    if wants_json:
        as_json.put({"namespaces": [one._asdict() for one in found], "replica": as_json.replica(replica)})
    if (there := count_keys(url, options.DEADLINE)) is not None:
        click.echo(f"The server has {plural(there.counts.total, 'key')}; {_whose(there)}", err=True)
    if unread := [one.namespace for one in found if not any(one[1:])]:
        why = "this user lacks their keys (kvpoll acl), or the keys are none of kvpoll's, or have just gone"
        more = f" and {len(unread) - SHOWN:,} more" if len(unread) > SHOWN else ""
        click.echo(f"Not read: the settings of {', '.join(unread[:SHOWN])}{more}: {why}", err=True)
    if not found:
        leave(NOT_FOUND, f"{parse(url).shown} has no namespace of kvpoll's: check --redis, or KVPOLL_URL")
    if wants_json:
        return
    rows = [tuple("" if cell is None else printable(str(cell)) for cell in one) for one in found]
    if sys.stdout.isatty():
        from redis_kvpoll.cli import terminal

        terminal.print_plain(COLUMNS, rows)
    else:
        for row in (COLUMNS, *rows):
            click.echo("\t".join(row))


def _whose(there: Neighbours) -> str:
    """Return whose the keys of a server are."""
    counts = there.counts
    if counts.wrong_number:
        return counts.wrong_number
    more = f"{counts.in_others}; of the {counts.here:,} in database {counts.database}, " if counts.elsewhere else ""
    others = f"{1 - there.share:.0%}"
    if others == "0%":
        return f"{more}nearly all are kvpoll's"
    return f"{more}about {others} are others': redis-cli --memkeys shows the largest"
