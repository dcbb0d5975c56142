"""What the commands share: how a table is named, and opened to be looked at."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import click

from redis_kvpoll import validation
from redis_kvpoll.errors import InvalidInputError
from redis_kvpoll.protocol import keys
from redis_kvpoll.protocol.settings import Settings
from redis_kvpoll.sync.store import StatusStore

F = TypeVar("F", bound=Callable[..., Any])

ROLES = ("prefill", "decode")
"""What SGLang's plugin puts behind KVPOLL_NAMESPACE, which an operator's shell may have from the same file."""
DEADLINE = 2.0
"""Seconds. A person at a terminal would rather hear soon that the server is away."""


def table_options(command: F) -> F:
    """--redis and --namespace."""
    options = (
        click.option(
            "-n",
            "--namespace",
            envvar="KVPOLL_NAMESPACE",
            default="default",
            show_default=True,
            show_envvar=True,
            metavar="NAME",
            help="The table's namespace.",
        ),
        click.option(
            "--redis",
            "url",
            envvar="KVPOLL_URL",
            default="redis://localhost:6379/0",
            show_default=True,
            show_envvar=True,
            metavar="URL",
            help="The server.",
        ),
    )
    return functools.reduce(lambda wrapped, option: option(wrapped), options, command)


class Room(click.ParamType[int]):
    """A room id on the command line."""

    name = "room"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            if not str(value).isdecimal():
                raise ValueError
            return validation.room(int(value))
        except (InvalidInputError, ValueError):
            self.fail(f"{value!r} is not a room id: a room id is an int from 0 to 2^63-1", param, ctx)


def open_table(url: str, namespace: str, deadline: float = DEADLINE) -> StatusStore:
    """A store that adopts the namespace as it is."""
    return StatusStore.from_url(url, namespace=namespace, deadline=deadline)


def is_in_use(store: StatusStore, url: str, namespace: str) -> bool:
    """Whether anybody uses the namespace; if not, say so.

    Looking must not be using: a store's first command writes the settings that later users must agree with.
    """
    if store.settings() is not None:
        return True
    roles = [name for role in ROLES if _settings(url, name := f"{namespace}-{role}") is not None]
    others = "Those in use, on the same server: redis-cli --scan --pattern '" + keys.ALL_SETTINGS + "'"
    if roles:
        others = "SGLang has a namespace for each role: " + " or ".join(f"-n {name}" for name in roles)
    click.echo(f"Nobody uses namespace {namespace!r}: it has no rooms and no settings.\n{others}", err=True)
    return False


def _settings(url: str, namespace: str) -> Settings | None:
    try:
        with open_table(url, namespace) as store:
            return store.settings()
    except InvalidInputError:  # with the role it is too long for a name
        return None
