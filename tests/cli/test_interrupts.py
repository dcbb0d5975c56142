"""Ctrl-C in every command: status 130, and not a word."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from chaos.proxy import Proxy
from redis_kvpoll import KVPoll, StatusStore, cli
from redis_kvpoll.cli import app, exits, streams
from redis_kvpoll.cli.app import kvpoll
from tests.support import real


def interrupt(*_, **__):
    raise KeyboardInterrupt


@pytest.mark.parametrize("name", app.COMMANDS)
def test_command_that_is_interrupted_ends_with_130(name, monkeypatch):
    command = app.load(name)
    monkeypatch.setattr(command, "params", [])
    monkeypatch.setattr(command, "invoke", interrupt)
    result = CliRunner().invoke(kvpoll, [name])
    assert (result.exit_code, result.output) == (exits.INTERRUPTED, "")


@pytest.mark.parametrize("words", [["ls"], ["find", "rid"], ["clear", "--older-than", "0s", "--dry-run"]])
def test_process_that_is_interrupted_says_nothing(words):
    """While the server keeps it waiting."""
    with real.World("sync") as world, Proxy(world.serve().socket) as proxy:
        with StatusStore.from_url(proxy.url, namespace="prod") as store:
            store.update_status(1, KVPoll.Bootstrapping)
        proxy.hold("snapshot_fields")
        line = [sys.executable, "-m", "redis_kvpoll.cli", *words, "--redis", proxy.url, "-n", "prod"]
        with subprocess.Popen(
            line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ, preexec_fn=real.hear_signals
        ) as process:
            real.until(lambda: proxy.calls("snapshot_fields"), "the rooms are read")
            process.send_signal(signal.SIGINT)
            assert process.communicate() == (b"", b"")
        assert process.returncode == exits.INTERRUPTED


@pytest.mark.parametrize(
    ("end", "expected"), [(KeyboardInterrupt, click.exceptions.Exit), (EOFError, click.Abort)], ids=["Ctrl-C", "Ctrl-D"]
)
def test_interrupt_of_a_question_is_no_answer(end, expected, monkeypatch):
    """click raises one exception for both."""

    def ask(_):
        raise end

    monkeypatch.setattr(click.termui, "visible_prompt_func", ask)
    with pytest.raises((click.exceptions.Exit, click.Abort)) as raised, exits.interruptible():
        click.confirm("clear 1 room?")
    assert raised.type is expected


def test_interrupt_before_a_command_runs_is_130(monkeypatch):
    monkeypatch.setattr(streams, "prepare", interrupt)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == exits.INTERRUPTED
