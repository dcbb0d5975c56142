"""kvpoll acl: the smallest Redis user that can do all that this library does."""

from __future__ import annotations

import click

from redis_kvpoll.protocol import acl as rules


@click.command(short_help="Print the rule of the Redis user that kvpoll needs.")
@click.option("-n", "--namespace", metavar="NAME", help="Allow the keys of this namespace only; without it, of all.")
@click.option("--user", default=rules.DEFAULT_USER, show_default=True, metavar="NAME", help="The user's name.")
@click.option("--aclfile", is_flag=True, help="Print a line for the server's aclfile (or its configuration) instead.")
def acl(namespace: str | None, user: str, aclfile: bool) -> None:
    """Print the ACL rule of the smallest Redis user that can do all that this library does.

    It goes into redis-cli, with a password in the place of PASSWORD; without ">PASSWORD" an existing user keeps its
    own. No server is asked, and none is changed. It fits Redis from 6.2 on, and Valkey.
    """
    command = "user" if aclfile else "ACL SETUSER"
    click.echo(f"{command} {rules.user_name(user)} on >PASSWORD {rules.rule(namespace)}")
    click.echo("Put a password of your own in the place of PASSWORD.", err=True)
