"""``kvpoll completion``: the script that lets a shell complete commands and options."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

SHELLS = ("bash", "zsh", "fish")


@click.command(short_help="Print the completion script of a shell.")
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print the script with which a shell completes kvpoll's commands and options.

    \b
    bash   eval "$(kvpoll completion bash)"                 in ~/.bashrc
    zsh    eval "$(kvpoll completion zsh)"                  in ~/.zshrc
    fish   kvpoll completion fish | source                  in ~/.config/fish/config.fish
    """
    found = get_completion_class(shell)
    assert found is not None  # noqa: S101 - click has all of SHELLS
    root = click.get_current_context().find_root()
    click.echo(found(root.command, {}, "kvpoll", "_KVPOLL_COMPLETE").source())
