"""``kvpoll acl``: the ACL rule of a Redis user with the permissions that this library needs, and no others."""

from __future__ import annotations

import click

from redis_kvpoll import validation
from redis_kvpoll.cli.options import ROLES
from redis_kvpoll.protocol import acl as rules


@click.command(short_help="Print the ACL rule of the Redis user that kvpoll needs.")
@click.option(
    "-n",
    "--namespace",
    "namespaces",
    metavar="NAME",
    multiple=True,
    help="Allow only this namespace; can be repeated. By default all of them.",
)
@click.option(
    "--roles",
    is_flag=True,
    help="NAME is a deployment of SGLang (KVPOLL_NAMESPACE): allow its two tables, NAME-prefill and NAME-decode.",
)
@click.option(
    "--user",
    metavar="NAME",
    help=f"The user's name.  [default: {rules.DEFAULT_USER}; with --read-only {rules.DEFAULT_READER}]",
)
@click.option("--aclfile", is_flag=True, help="Print a line for the server's aclfile or configuration instead.")
@click.option("--read-only", is_flag=True, help="A user who can only read: ls, show, owners, history, tail and others.")
def acl(namespaces: tuple[str, ...], roles: bool, user: str | None, aclfile: bool, read_only: bool) -> None:
    """Print the ACL rule of a Redis user with the permissions that this library needs, and no others.

    Paste it into redis-cli with a password in place of PASSWORD; without ">PASSWORD" an existing user keeps its own.
    SGLang needs --roles: each role also reads the failures of the other one.
    The command contacts no server. The rule works with Redis 6.2 or newer, and with Valkey.
    """
    if roles:
        if not namespaces:
            raise click.UsageError("--roles needs -n NAME: the KVPOLL_NAMESPACE of the deployment")
        namespaces = tables_of(namespaces)
    command = "user" if aclfile else "ACL SETUSER"
    click.echo(f"{command} {_user(user, read_only)} on >PASSWORD {rules.rule(namespaces, read_only)}")
    click.echo("Replace PASSWORD with your own.", err=True)


def tables_of(deployments: tuple[str, ...]) -> tuple[str, ...]:
    """The tables of deployments of SGLang. An empty name is refused: with the roles it makes two valid ones."""
    for name in map(validation.namespace, deployments):
        deployment, dash, role = name.rpartition("-")
        if dash and role in ROLES:
            hint = f"Is {name} a table? The rule for those of the deployment {deployment} takes -n {deployment}"
            click.echo(hint, err=True)
    return tuple(f"{name}-{role}" for name in deployments for role in ROLES)


def _user(given: str | None, read_only: bool) -> str:
    """Return the user of the line that is printed."""
    if given is None:
        return rules.DEFAULT_READER if read_only else rules.DEFAULT_USER
    return rules.user_name(given)
