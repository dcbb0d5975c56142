"""``kvpoll agent``: an engine's agent as a service or sidecar."""

from __future__ import annotations

import click

from redis_kvpoll.agent.client.open_channel import APPLICATION


@click.command(short_help="Run an engine's agent as a service.")
@click.option(
    "--socket",
    "path",
    envvar="KVPOLL_AGENT",
    required=True,
    show_envvar=True,
    metavar="PATH",
    help="The socket to listen on; the engine's processes have the same KVPOLL_AGENT.",
)
@click.option(
    "--group",
    metavar="NAME",
    help="Let this group open the socket (mode 0660); its users must be in KVPOLL_AGENT_UIDS, too.",
)
@click.argument("application", metavar="[MODULE:FUNCTION]", default=APPLICATION)
def agent(path: str, group: str | None, application: str) -> None:
    """Run an agent until SIGINT or SIGTERM, outside of the engine's process tree.

    It speaks to Redis for SGLang's processes, unless MODULE:FUNCTION makes something else. It needs no KVPOLL_URL:
    the processes send it. Users other than this one must be in the agent's KVPOLL_AGENT_UIDS, numbers with commas
    between them.
    """
    from redis_kvpoll.agent.server import running

    try:
        running.run_service(path, application, group)
    except (OSError, ValueError) as error:
        raise click.ClickException(str(error)) from None
