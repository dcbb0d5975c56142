"""``kvpoll serve``: metrics, probes, an API and pages over tables."""

from __future__ import annotations

from typing import Any

import click

from redis_kvpoll.cli.durations import duration
from redis_kvpoll.cli.exits import NOT_FOUND, leave
from redis_kvpoll.cli.options import url_option

LONGEST_STUCK = 86400.0


def stuck_after(text: str) -> float:
    """The seconds in --stuck-after: a duration from 1 s to a day."""
    seconds = duration(text)
    if not 1 <= seconds <= LONGEST_STUCK:
        raise click.BadParameter(f"{text!r} is not from 1s to 1d")
    return seconds


def given(text: str) -> str:
    """The value of an option that restricts who may look: a variable that a script has not set must not lift that."""
    if not text.strip():
        raise click.BadParameter("it is empty: give it a value, or leave the option out")
    return text


@click.command(short_help="Serve metrics, probes and a page.")
@click.option(
    "-n",
    "--namespace",
    "namespaces",
    envvar="KVPOLL_NAMESPACE",
    multiple=True,
    default=["default"],
    show_default=True,
    show_envvar=True,
    metavar="NAME",
    help="A table's namespace; may be repeated.",
)
@url_option
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=9464, show_default=True, help="The port to listen on.")
@click.option(
    "--password-file",
    type=given,
    metavar="FILE",
    help="Lines NAME:PASSWORD, 8 characters or more: who may see the page and the API.",
)
@click.option(
    "--token-file",
    type=given,
    metavar="FILE",
    help="Lines NAME:TOKEN, 16 characters or more: which programs may.",
)
@click.option(
    "--metrics-token-file",
    type=given,
    metavar="FILE",
    help="Lines TOKEN, 16 characters or more: for /metrics alone, which is open without it.",
)
@click.option("--no-auth", is_flag=True, help="Show the tables to everyone who can connect.")
@click.option("--allow-actions", is_flag=True, help="Let users abort and clear rooms on the page.")
@click.option(
    "--actions-redis",
    "actions_url",
    envvar="KVPOLL_ACTIONS_URL",
    metavar="URL",
    help="The server, with a user who may write, for --allow-actions.",
)
@click.option("--public-url", type=given, metavar="URL", help="The address of the page behind a reverse proxy.")
@click.option(
    "--stuck-after",
    type=stuck_after,
    default="60s",
    show_default=True,
    metavar="TIME",
    help="After how long at its status a room is stuck.",
)
@click.option(
    "--max-owners",
    type=click.IntRange(0, 10_000),
    default=200,
    show_default=True,
    metavar="N",
    help="How many owners have metrics of their own.",
)
@click.option("--log-url", default="", metavar="TEMPLATE", help="A room's link to logs: https://…{room}…{request}")
@click.option("--trace-url", default="", metavar="TEMPLATE", help="A room's link to traces: https://…{room_hex}")
def serve(password_file: str | None, token_file: str | None, metrics_token_file: str | None, **options: Any) -> None:
    """Serve the tables of one server: /metrics for Prometheus, /healthz and /readyz, /api, and a page at /.

    It only reads, unless you give --allow-actions: the user of kvpoll acl --read-only is enough. By default only this
    machine can connect. To listen on another address, or behind a proxy (--public-url), it needs --password-file,
    --token-file or --no-auth.
    """
    from redis_kvpoll.serve import credentials
    from redis_kvpoll.serve.config import ServeConfig

    users = [
        *(credentials.read_passwords(password_file) if password_file else ()),
        *(credentials.read_tokens(token_file) if token_file else ()),
    ]
    tokens = credentials.read_tokens(metrics_token_file, "--metrics-token-file") if metrics_token_file else ()
    options["public_url"] = options["public_url"] or ""
    config = ServeConfig(users=tuple(users), metrics_tokens=tuple(tokens), **options).checked()
    from redis_kvpoll.serve import examine, listen

    if not listen.run(config, examine.examiner):
        leave(NOT_FOUND, "Error: kvpoll serve did not start: the log says why")
