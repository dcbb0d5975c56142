"""``kvpoll stats``: the numbers of a whole table, once or again and again."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from redis_kvpoll.cli import as_json
from redis_kvpoll.cli.durations import duration
from redis_kvpoll.cli.exits import pause
from redis_kvpoll.cli.found import found_table
from redis_kvpoll.cli.options import json_option, table_options
from redis_kvpoll.serve import documents

if TYPE_CHECKING:
    from redis_kvpoll.doctor.replica import ReplicaLink
    from redis_kvpoll.statistics.model import Snapshot
    from redis_kvpoll.sync.statistics import Statistics

SHARE = 0.5
"""A person waits, and the command ends: half of the server's time while it reads the table."""
REFUSED_SECONDS = 2.2
"""For how long one look watches the refused writes, if there are any. They are read once a second."""
PROGRESS_AFTER = 1.0
"""Seconds without a result, after which a line on stderr says how far it is."""


@click.command(short_help="Show the numbers of a whole table.")
@table_options
@click.option(
    "--since",
    type=duration,
    default="5m",
    show_default=True,
    metavar="TIME",
    help="How far back the feed is read, for durations, failures and reasons.",
)
@click.option(
    "--stuck",
    type=duration,
    default="60s",
    show_default=True,
    metavar="TIME",
    help="A live room without a change for this long is stuck.",
)
@click.option("--watch", is_flag=True, help="Show them again and again, until Ctrl-C.")
@click.option("--interval", type=duration, default="2s", show_default=True, metavar="TIME", help="For --watch.")
@json_option
def stats(url: str, namespace: str, since: float, stuck: float, watch: bool, interval: float, wants_json: bool) -> None:
    """Show the numbers of a whole table: rooms by status, rates, durations, stuck rooms, reasons of failures, owners.

    It reads the table once, with pauses, and the feed of the last --since: 100,000 rooms take some seconds. With
    --watch, it reads only the feed from then on.

    Exit status: 130 after Ctrl-C.
    """
    with found_table(url, namespace) as (store, replica):
        settings = store.settings()
        about = f"{settings.policy}, {_shards(settings.shards)}" if settings else ""
        if replica is not None:
            about += ", a replica" if replica.is_linked else ", a replica without its primary"
        with store.statistics(lookback=since, stuck_after=stuck, share=SHARE) as statistics:
            _show(statistics, about, replica, interval if watch else None, wants_json)


def _show(
    statistics: Statistics, about: str, replica: ReplicaLink | None, interval: float | None, wants_json: bool
) -> None:
    snapshot = _first(statistics)
    if interval is None and any(snapshot.refused.values()):
        pause(REFUSED_SECONDS)  # the server counts them, and does not know when each came
        snapshot = statistics.snapshot()
    while True:
        if wants_json:
            document = {**documents.snapshot(snapshot), "replica": as_json.replica(replica)}
            (as_json.put if interval is None else as_json.put_line)(document)
        else:
            from redis_kvpoll.cli import numbers

            if interval is not None and sys.stdout.isatty():
                click.clear()
            numbers.print_snapshot(snapshot, about)
        if interval is None:
            return
        sys.stdout.flush()
        pause(interval)
        snapshot = statistics.snapshot()


def _first(statistics: Statistics) -> Snapshot:
    """Wait until all rooms are known. A lost connection alone is no end: the follower reads on over the next one."""
    from redis_kvpoll.statistics.base import NotSyncedYetError

    is_terminal, said = sys.stderr.isatty(), False
    try:
        while True:
            try:
                return statistics.wait_synced(PROGRESS_AFTER)
            except NotSyncedYetError:
                if is_terminal:
                    said = True
                    click.echo(f"\r{statistics.snapshot().walked or 0:,} rooms read …", nl=False, err=True)
    finally:
        if said:
            click.echo("\r\x1b[K", nl=False, err=True)


def _shards(count: int) -> str:
    return f"{count} shard{'' if count == 1 else 's'}"
