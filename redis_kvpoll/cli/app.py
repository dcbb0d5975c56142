"""The command group ``kvpoll``, which prints an error as one sentence and sets the exit status.

Invariant: ``--help``, ``--version``, shell completion and a command's own ``--help`` load neither redis nor asyncio
nor rich. So the group knows its commands by name and imports a command's module only to run it, and those modules
import the store, rich and the replay in functions.

To add a command: write it in a module of ``commands``, and add its line to COMMANDS.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any, NamedTuple

import click

from redis_kvpoll.cli.exits import interruptible
from redis_kvpoll.errors import InvalidInputError, KVPollError


class CommandInfo(NamedTuple):
    """Where a command is, and its line in ``kvpoll --help``; the command has the same name as its function."""

    module: str
    short_help: str


COMMANDS = {
    "abort": CommandInfo("bulk", "Fail one room, or all that match, with all their ranks."),
    "acl": CommandInfo("acl", "Print the ACL rule of the Redis user that kvpoll needs."),
    "agent": CommandInfo("agent", "Run an engine's agent as a service."),
    "board": CommandInfo("monitoring", "Print the board for Grafana."),
    "clear": CommandInfo("bulk", "Remove one room, or all that match, from the table."),
    "completion": CommandInfo("completion", "Print the completion script of a shell."),
    "doctor": CommandInfo("doctor", "Examine a table and its server, and say what to do."),
    "find": CommandInfo("listing", "Find the rooms of a request."),
    "history": CommandInfo("feed", "Show the changes of one room."),
    "ls": CommandInfo("listing", "List the rooms of a table, by filters."),
    "namespaces": CommandInfo("namespaces", "List the tables of a server."),
    "owners": CommandInfo("owners", "List lease owners and their states."),
    "reap": CommandInfo("owners", "Fail the live rooms of lost owners."),
    "replay": CommandInfo("replay", "Replay traffic over a table, with faults."),
    "rules": CommandInfo("monitoring", "Print the alerts for Prometheus."),
    "serve": CommandInfo("serve", "Serve metrics, probes and a page."),
    "show": CommandInfo("room", "Show one room in full, with its timeline."),
    "stats": CommandInfo("stats", "Show the numbers of a whole table."),
    "tail": CommandInfo("feed", "Print changes as they happen, until Ctrl-C."),
    "wait": CommandInfo("room", "Wait until a room has ended, or is at a status."),
}


def load(name: str) -> click.Command:
    """The command itself; imports its module."""
    command: click.Command = getattr(import_module(f"redis_kvpoll.cli.commands.{COMMANDS[name].module}"), name)
    return command


class LazyGroup(click.Group):
    """Lists commands from COMMANDS, loads the one that runs, and prints this library's errors as one sentence."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        return name, load(command.name) if command and command.name else None, rest

    def invoke(self, ctx: click.Context) -> Any:
        if os.environ.get("NO_COLOR"):  # rich heeds it by itself
            ctx.color = False
        try:
            with interruptible():
                return super().invoke(ctx)
        except KVPollError as error:
            from redis_kvpoll.cli.options import CREDENTIALS_FILE
            from redis_kvpoll.transport.password_file import named

            kind = click.UsageError if isinstance(error, InvalidInputError) else click.ClickException
            raise kind(named(str(error), ctx.meta.get(CREDENTIALS_FILE, ""))) from None


@click.group(
    cls=LazyGroup,
    commands={name: click.Command(name, short_help=command.short_help) for name, command in COMMANDS.items()},
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="redis-kvpoll")
def kvpoll() -> None:
    """Inspect a table of KV-transfer statuses in Redis, and test it under traffic.

    Exit status: 0 all is well; 1 not found, refused, or no answer (stderr says why); 2 wrong usage; 3
    something needs attention: a room Failed, or doctor warns; 4 doctor found a problem; 130 Ctrl-C. For replay: 3 a
    guarantee was violated, 4 the machine is too slow.
    """
