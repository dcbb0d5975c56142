"""``kvpoll rules`` and ``kvpoll board``: the files for Prometheus and Grafana. Neither contacts a server."""

from __future__ import annotations

import json

import click


@click.command(short_help="Print the alerts for Prometheus.")
@click.option(
    "--runbook-base", default="", metavar="URL", help="The address of docs/runbook.md; alerts then link to it."
)
def rules(runbook_base: str) -> None:
    """Print a file of alerts for Prometheus' rule_files, on the metrics of kvpoll serve and of SGLang's plugin."""
    from redis_kvpoll.monitoring.alerts import rules_file

    click.echo(rules_file(runbook_base), nl=False)


@click.command(short_help="Print the board for Grafana.")
def board() -> None:
    """Print a board for Grafana to import, on the metrics of kvpoll serve, of SGLang's plugin and of SGLang."""
    from redis_kvpoll.monitoring import board as boards

    click.echo(json.dumps(boards.board(), indent=2, ensure_ascii=False))
