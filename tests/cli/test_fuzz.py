"""Junk for every option of every kvpoll command, found by introspection.

The exit status is a documented one, an error is a sentence without a traceback, and a command that only reads or is
refused writes nothing.
"""

from __future__ import annotations

import contextlib
import time

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from redis_kvpoll import KVPoll, ReplayError, StatusStore, WaitTimeoutError
from redis_kvpoll.cli import exits
from redis_kvpoll.cli.app import COMMANDS, kvpoll, load
from tests.support import pace
from tests.support.fuzzing import examples

DOCUMENTED = set(exits.STATUSES)
WRITING = {"abort", "clear", "reap"}
"""The commands that may write when they succeed."""
PATIENCE = pace.seconds(10)

# What a shell can pass: no NUL, and invalid UTF-8 as lone surrogates.
words = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]) | st.just("\udcff"), max_size=12)
SHELL = [
    "",
    " ",
    "-",
    "--",
    "-1",
    "0",
    "1.5",
    "nan",
    "inf",
    "-inf",
    "1e999",
    "9" * 30,
    "5",
    str(2**64),
    "\u0665",
    "1_000",
]
SHELL += ["\x1b[31m", "a b", "{a}", "*", "prod", "Success", "success", "/", "/dev/null", "/nowhere/at/all", "{}", "[]"]
SHELL += ["redis://h:x", "redis+sentinel://h", "unix://relative", "memory://x", "redis://a@b@c", "http://x"]
junk = words | st.sampled_from(SHELL)


def invocations(draw, url):
    """The words of a command line after kvpoll."""
    command = load(draw(st.sampled_from(sorted(COMMANDS))))
    line = []
    for of in command.params:
        if isinstance(of, click.Argument):
            line += [draw(st.one_of(junk, st.just("7")))] if draw(st.integers(0, 9)) else []
        elif "--redis" in of.opts:
            # Mostly the real server; no junk is a host name that would be resolved.
            line += ["--redis", draw(junk) if draw(st.integers(0, 5)) == 0 else url]
        elif of.opts[-1] == "--help" or draw(st.integers(0, 2)) == 0:
            continue
        elif of.is_flag:
            line += [draw(st.sampled_from(of.opts))]
        elif "--namespace" in of.opts and draw(st.booleans()):
            line += ["--namespace", "prod"]
        else:
            line += [draw(st.sampled_from(of.opts)), draw(junk)]
    line += draw(st.lists(junk, max_size=1)) if draw(st.integers(0, 5)) == 0 else []
    return [command.name, *line]


def contents(client):
    return {key: client.dump(key) for key in client.scan_iter()}


@pytest.fixture
def bounded(monkeypatch, url):
    """What ends at once: a tail, a wait, what is watched; and a replay that stops after checking its arguments."""
    tail = StatusStore.tail

    def ended(store, last=0):
        tail(store, last)
        return iter(())

    def stop(*_):
        raise ReplayError("not in a test of its arguments")

    def interrupted(_):
        raise KeyboardInterrupt

    def late(store, room, *statuses, timeout=None):
        raise WaitTimeoutError(room, store.get(room), timeout or 0.0)

    monkeypatch.setattr(StatusStore, "tail", ended)
    monkeypatch.setattr(StatusStore, "wait", late)
    for module in ("stats", "room"):
        monkeypatch.setattr(f"redis_kvpoll.cli.commands.{module}.pause", interrupted)
    monkeypatch.setattr("redis_kvpoll.replay.runner.server", lambda given: contextlib.nullcontext((given or url, None)))
    monkeypatch.setattr("redis_kvpoll.replay.runner.replay", stop)
    monkeypatch.setattr("redis_kvpoll.replay.traffic.generate", lambda *_: [])


@pytest.mark.usefixtures("bounded")
@given(st.data())
@examples(250)
def test_junk_arguments_fail_cleanly_and_write_nothing(url, watched, data):
    client = watched[0]
    client.flushall()
    with StatusStore.from_url(url, namespace="prod") as store:
        store.update_many({7: KVPoll.Transferring, 2**64 - 1: KVPoll.Success})
    line = invocations(data.draw, url)
    before = contents(client)
    started = time.monotonic()
    result = CliRunner().invoke(kvpoll, line)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code in DOCUMENTED, result.output
    assert "Traceback" not in result.output
    assert time.monotonic() - started < PATIENCE
    if line[0] not in WRITING or result.exit_code != 0:
        assert contents(client) == before, "it wrote something"
    if result.exit_code == 1:
        assert result.stderr.replace("\n", "").isprintable(), result.stderr


@pytest.mark.parametrize("line", [[], ["nothing"], ["--nothing"], ["-h"], ["--version"], ["\udcff"], [""], ["--"]])
def test_junk_instead_of_a_command_fails_cleanly(line):
    result = CliRunner().invoke(kvpoll, line, catch_exceptions=False)
    assert result.exit_code in (0, 1, 2)
