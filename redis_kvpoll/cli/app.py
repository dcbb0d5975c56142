"""The command kvpoll, and how errors reach a person: one sentence, and an exit status."""

from __future__ import annotations

from typing import Any

import click

from redis_kvpoll.cli import acl, feed, owners, replay, table
from redis_kvpoll.errors import KVPollError


class Group(click.Group):
    """Turns this library's errors into a sentence on stderr and exit status 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KVPollError as error:
            raise click.ClickException(str(error)) from None


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="redis-kvpoll")
def kvpoll() -> None:
    """Look at, and try out, a table of KV-transfer statuses in Redis.

    Exit status: 0 done; 1 it failed, and a sentence says why; 2 wrong usage; 3 a replay broke a promise.
    """


for command in (table.ls, table.show, table.clear, table.abort):
    kvpoll.add_command(command)
for command in (owners.owners, owners.reap, feed.tail, feed.history, acl.acl, replay.replay):
    kvpoll.add_command(command)
