"""Opens the table that a command is about; if it is not there, says why, as far as the server knows.

Invariant: no command but replay creates a namespace. A table whose settings alone are gone is read, and not written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, NamedTuple

import click

from redis_kvpoll.cli import options
from redis_kvpoll.cli.exits import NOT_FOUND, leave
from redis_kvpoll.cli.options import ROLES, open_table
from redis_kvpoll.errors import (
    CorruptEntryError,
    InvalidInputError,
    KVPollError,
    NamespaceMismatchError,
    ServerRefusedError,
    printable,
)

if TYPE_CHECKING:
    from redis_kvpoll.doctor.replica import ReplicaLink
    from redis_kvpoll.protocol.settings import Settings
    from redis_kvpoll.sync.store import StatusStore

SHOWN = 5
LIST_SECONDS = 1.0
"""For how long namespaces are looked for, to name them."""


class OpenTable(NamedTuple):
    """The table of a namespace that exists."""

    store: StatusStore
    replica: ReplicaLink | None
    """The replica that is read; None for a primary."""


@contextmanager
def found_table(url: str, namespace: str, writes: str = "") -> Iterator[OpenTable]:
    """Open a table, or exit with status 1 if the namespace does not exist. stderr says that a replica is read.

    ``writes`` is the name of a command that writes: on a replica, and without settings, it ends here. A refusal names
    it, too: what a server refuses first to a user who may not write is a read, as it renews the settings.
    """
    from redis_kvpoll.doctor.replica import read_replica

    with ExitStack() as stack:
        store = stack.enter_context(open_table(url, namespace, writes=bool(writes)))
        if is_gone := _settings_or_exit(store, url, namespace) is None:
            stack.close()  # the server's clients are counted, and this is none of them
        if (replica := read_replica(url, options.DEADLINE)) is not None:  # first: it may be why nothing is there
            warn_of_replica(replica, url, writes)
        if is_gone:
            shards = _shards_without_settings(url, namespace, writes)
            store = stack.enter_context(open_table(url, namespace, bool(writes), shards))
        try:
            yield OpenTable(store, replica)
        except CorruptEntryError as error:
            raise click.ClickException(in_shell(error, namespace)) from error
        except ServerRefusedError as error:
            if not writes:
                raise
            what = error if str(error).startswith(writes) else f"{writes}: {error}"
            other = f"; {writes} writes: if this user shall only read, name another one in --redis"
            raise ServerRefusedError(f"{what}{other if is_denied(error) else ''}") from error


def is_denied(error: KVPollError) -> bool:
    """Return whether the server refused a call because the user lacks a right."""
    from redis_kvpoll.engine.remedies import code_of

    return error.__cause__ is not None and code_of(error.__cause__) == "NOPERM"


def _settings_or_exit(store: StatusStore, url: str, namespace: str) -> Settings | None:
    """Return the settings of a namespace, None if it has none; exit if the user may not read them.

    The user of some tables is refused a namespace that is mistyped, too. The names of others' keys tell that.
    """
    try:
        return store.settings()
    except ServerRefusedError as error:
        if not is_denied(error) or not (hint := _hint_of_names(url, namespace)):
            raise
        leave(NOT_FOUND, f"Error: {error}\n{hint}")


def _hint_of_names(url: str, namespace: str) -> str:
    """Return which namespaces there are, if this one is none of them; else, and if that is not known, nothing."""
    from redis_kvpoll.sync.namespaces import list_namespaces

    try:
        names = [one.namespace for one in list_namespaces(url, options.DEADLINE, LIST_SECONDS)]
    except KVPollError:
        return ""
    roles = [name for role in ROLES if (name := f"{namespace}-{role}") in names]
    if not names or namespace in names:
        return ""
    return _of_roles(roles) if roles else _of_names(names)


def _of_roles(names: list[str]) -> str:
    return "SGLang uses one namespace per role: " + " or ".join(f"-n {name}" for name in names)


def _of_names(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN:,} more (kvpoll namespaces)" if len(names) > SHOWN else ""
    return f"This server has: {', '.join(f'-n {name}' for name in names[:SHOWN])}{more}"


def in_shell(error: KVPollError, namespace: str) -> str:
    """Return the text of an error; that of a corrupt room with the command for its remedy, a call from Python."""
    more = f" (here: kvpoll clear {error.room} -n {namespace})" if isinstance(error, CorruptEntryError) else ""
    return printable(f"{error}{more}")


def _shards_without_settings(url: str, namespace: str, writes: str) -> int:
    """Return the shards of a table whose settings are gone, by the keys that are left of it, or exit."""
    from redis_kvpoll.doctor import traces
    from redis_kvpoll.transport.urls import parse

    left = traces.read_traces(url, namespace, options.DEADLINE)
    if left is None:
        what = f"namespace {namespace!r} not found on {parse(url).shown}: it has no rooms and no settings."
        leave(NOT_FOUND, "\n".join((what, *_hints(url, namespace))))
    found, back = printable(traces.described(namespace, left.alive)), traces.when_back(left.alive)
    if writes:
        leave(NOT_FOUND, f"Error: {writes}: {found}; {back}: then run it again")
    click.echo(f"{found}; {back}", err=True)
    return left.shards


def warn_of_replica(replica: ReplicaLink, url: str, writes: str = "") -> None:
    """Say on stderr that a replica is read; exit if the command writes."""
    if writes:
        what = f"{writes}: this server is a replica of {replica.primary}, and takes no writes"
        advice = f"use --redis {url_of_primary(url, replica.primary)}" if replica.is_linked else replica.described
        leave(NOT_FOUND, f"Error: {what}: {advice}")
    what = f"{replica.described}; trust no state here"
    if replica.is_linked:
        heard = f"it heard of it {replica.behind:.0f} s ago, so " if replica.behind is not None else ""
        what = f"{heard}what it shows may be a moment old"
    click.echo(f"this server is a replica of {replica.primary}: {what}", err=True)


def url_of_primary(url: str, primary: str) -> str:
    """Return the URL of a replica with its primary's host and port, and ``***`` for user and password."""
    from redis_kvpoll.transport.urls import parse

    target = parse(url)
    scheme, _, rest = target.shown.partition("://")
    if scheme == "unix":
        return f"redis://{primary}/{target.options.get('db', 0)}"
    before, at, after = rest.rpartition("@")
    return f"{scheme}://{before}{at}{primary}{after[len(re.split('[/?]', after)[0]) :]}"


def _hints(url: str, namespace: str) -> Iterator[str]:
    """Yield where to look: what the server says of lost data, and the namespaces that there are."""
    from redis_kvpoll.doctor.absence import why_absent
    from redis_kvpoll.sync.namespaces import list_namespaces

    roles = [name for role in ROLES if _exists(url, name := f"{namespace}-{role}")]
    why = "" if roles else why_absent(url, options.DEADLINE)
    advice = "if it is right, start the table's processes again" if why else "check --redis, or KVPOLL_URL"
    names, nothing = [], f"No namespace was found by this URL: {advice}"
    try:
        names = [] if roles else [one.namespace for one in list_namespaces(url, options.DEADLINE, LIST_SECONDS)]
    except KVPollError as error:
        nothing = f"Which namespaces this server has is not known: {error}"
    if why:
        yield why
    if roles:
        yield _of_roles(roles)
    elif names:
        yield _of_names(names)
    else:
        yield nothing


def _exists(url: str, namespace: str) -> bool:
    """Return whether a namespace is known to exist: this user may have no right to ask for it."""
    try:
        with open_table(url, namespace) as store:
            return store.settings() is not None
    except NamespaceMismatchError:  # another version has made it
        return True
    except (InvalidInputError, ServerRefusedError):  # with the role appended, the name may be too long
        return False
