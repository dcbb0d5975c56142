"""What the commands share: the options that name a table, and the function that opens it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from redis_kvpoll import validation
from redis_kvpoll.errors import InvalidInputError
from redis_kvpoll.transport.password_file import VARIABLE, with_password

if TYPE_CHECKING:
    from redis_kvpoll.sync.store import StatusStore


F = TypeVar("F", bound=Callable[..., Any])

ROLES = ("prefill", "decode")
"""What SGLang's plugin appends to KVPOLL_NAMESPACE, which an operator's shell may have from the same file."""
CREDENTIALS_FILE = "redis_kvpoll.credentials_file"
"""In a context's meta: the file with the password of --redis."""
DEADLINE = 2.0
"""Seconds; shorter than a store's default, because a person waits."""


def _url_of_server(context: click.Context, parameter: click.Parameter, url: str) -> str:
    """The URL, with the password of KVPOLL_PASSWORD_FILE if it comes from the environment, too."""
    if url in ("memory://", "embedded://"):
        raise click.UsageError(f"{url} would be a new table, which no other process sees: name a server (--redis)")
    path = os.environ.get(VARIABLE, "").strip()
    if not path or context.get_parameter_source(parameter.name or "") is not ParameterSource.ENVIRONMENT:
        return url
    try:
        found = with_password(url, path)
    except InvalidInputError as error:
        raise click.UsageError(str(error)) from None
    context.meta[CREDENTIALS_FILE] = path
    return found


def url_option(command: F) -> F:
    """Add --redis."""
    return click.option(
        "--redis",
        "url",
        envvar="KVPOLL_URL",
        default="redis://localhost:6379/0",
        show_default=True,
        show_envvar=True,
        metavar="URL",
        callback=_url_of_server,
        help="The server. KVPOLL_PASSWORD_FILE names a file with the password for KVPOLL_URL.",
    )(command)


def table_options(command: F) -> F:
    """Add --redis and --namespace."""
    return click.option(
        "-n",
        "--namespace",
        envvar="KVPOLL_NAMESPACE",
        default="default",
        show_default=True,
        show_envvar=True,
        metavar="NAME",
        help="The table's namespace.",
    )(url_option(command))


def json_option(command: F) -> F:
    """Add --json."""
    return click.option("--json", "wants_json", is_flag=True, help="Print JSON; docs/reference has its schema.")(
        command
    )


def room_id(text: str) -> int:
    """The room id in a command line argument: decimal, or hexadecimal with 0x as in spans and logs."""
    if (room := validation.room_in_text(text)) is None:
        what = f"{text!r} is not a room id: a room id is an int from 0 to 2^64-1, or 0x…"
        raise click.BadParameter(f"{what} (for the id of a request: kvpoll find)")
    return room


def open_table(url: str, namespace: str, writes: bool = False, shards: int | None = None) -> StatusStore:
    """A store with the settings that the namespace has; one that only reads, unless the command ``writes``."""
    from redis_kvpoll.sync.store import StatusStore

    return StatusStore.from_url(url, namespace=namespace, deadline=DEADLINE, read_only=not writes, shards=shards)
