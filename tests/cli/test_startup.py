"""What the command line loads before a command runs: neither a Redis client, nor asyncio, nor rich."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import import_module

import click
import pytest

from redis_kvpoll.cli import app

CALL = """
import atexit, sys
atexit.register(lambda: print(*sorted(sys.modules), file=sys.stderr))
sys.argv[0] = "kvpoll"
from redis_kvpoll.cli import main
main()
"""
HEAVY = {"asyncio", "fakeredis", "redis", "rich"}


def loaded(*words, **environment):
    """What a call prints, and the modules in sys.modules at its end."""
    ended = subprocess.run(
        [sys.executable, "-c", CALL, *words],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return ended.stdout, set(ended.stderr.split())


def completing(words):
    position = str(len(words.split(" ")) - 1)
    return {"_KVPOLL_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": position}


@pytest.mark.parametrize(
    ("words", "environment", "printed"),
    [
        (["--help"], {}, "Print changes as they happen"),
        (["--version"], {}, "version"),
        (["ls", "--help"], {}, "--status"),
        (["replay", "--help"], {}, "--crash-rate"),
        ([], {"_KVPOLL_COMPLETE": "zsh_source"}, "compdef"),
        ([], completing("kvpoll re"), "replay"),
        ([], completing("kvpoll tail --l"), "--last"),
    ],
)
def test_help_version_and_completion_load_no_client(words, environment, printed):
    """About 115 modules, most of them click's; --version parses the package's metadata with another 55."""
    output, modules = loaded(*words, **environment)
    assert printed in output
    assert not modules & HEAVY
    assert len(modules) < 200


def test_short_helps_are_those_of_the_commands():
    listed = {name: command.short_help for name, command in app.kvpoll.commands.items()}
    commands = {name: app.load(name) for name in app.COMMANDS}
    assert listed == {name: command.short_help for name, command in commands.items()}
    assert all(command.name == name for name, command in commands.items())
    assert not any(command.hidden for command in commands.values())


def test_every_command_of_the_modules_is_listed():
    modules = {command.module for command in app.COMMANDS.values()}
    imported = [vars(import_module(f"redis_kvpoll.cli.commands.{name}")) for name in modules]
    found = {value.name for names in imported for value in names.values() if isinstance(value, click.Command)}
    assert found == set(app.COMMANDS)
