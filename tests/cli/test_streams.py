"""The command's streams: one line or silence, no traceback, and status 0 only if the output was written."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from redis_kvpoll import StatusStore
from redis_kvpoll.cli import streams
from tests.support import real

REASON = "prefill → decode 失败"
COMMANDS = ("ls", "show 3", "history 3", "owners", "acl", "--help", "show 4", "nothing")
FAILING = ("show 4", "nothing")


@pytest.fixture
def run(url):
    """Run a command in a shell, with redirections."""
    with StatusStore.from_url(url, namespace="p") as store:
        store.update_status(3, 1)
        store.abort(3, REASON)

    def run(command, redirection="", **environment):
        where = "" if command.startswith(("acl", "-", "nothing")) else f"-n p --redis '{url}'"
        line = f"'{sys.executable}' -m redis_kvpoll.cli {command} {where} {redirection}"
        done = subprocess.run(["sh", "-c", line], capture_output=True, env=os.environ | environment, timeout=60)
        assert b"Traceback" not in done.stderr
        assert b"Exception" not in done.stderr
        return done

    return run


@pytest.mark.parametrize("command", ["ls", "show 3", "history 3"])
@pytest.mark.parametrize("encoding", ["latin-1", "utf-8"])
def test_text_that_cannot_be_encoded_is_escaped(run, command, encoding):
    done = run(command, PYTHONIOENCODING=encoding)
    assert done.returncode == 0
    assert REASON.encode(encoding, "backslashreplace").decode(encoding) in done.stdout.decode(encoding)


@pytest.mark.parametrize("command", ["ls", "show 3", "history 3"])
@pytest.mark.parametrize(
    "environment",
    [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}],
    ids=["ascii", "C"],
)
def test_ascii_is_taken_for_utf8_by_all(run, command, environment):
    """As Python itself does in the C locale: what a bare container has is no wish for ASCII."""
    done = run(command, **environment)
    assert (done.returncode, REASON in done.stdout.decode()) == (0, True)


def test_stream_of_ascii_becomes_one_of_utf8(monkeypatch):
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    streams.prepare()
    assert out.encoding == "utf-8"


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("redirection", [">/dev/full", ">&-"])
def test_output_that_cannot_be_written_fails_in_one_line(run, command, redirection):
    done = run(command, redirection)
    if command not in FAILING:
        assert done.stderr.count(b"\n") == 1, done.stderr
    assert done.returncode not in (0, 120)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("redirection", ["2>/dev/full", "2>&-", ">&- 2>&-", "<&- >&- 2>&-", ">/dev/full 2>/dev/full"])
def test_errors_that_cannot_be_written_keep_the_status(run, command, redirection):
    done = run(command, redirection)
    assert done.returncode != 120
    if command != "acl":  # it has something to say on stderr, too
        assert (done.returncode != 0) is (command in FAILING or ">" in redirection.replace("2>", ""))


@pytest.mark.parametrize("command", ["clear --status failed", "abort --status bootstrapping"])
def test_question_without_stdin_is_answered_by_no(run, url, command):
    with StatusStore.from_url(url, namespace="p") as store:
        store.update_status(4, 1)
        done = run(command, "<&-")
        assert done.returncode == 1
        assert done.stderr == b"Error: 1 room match: confirm with --yes, or look with --dry-run\n"
        assert store.poll([3, 4]) == [0, 1]


@pytest.mark.parametrize("command", ["ls", "history 3", "--help"])
def test_pipe_that_ends_is_silent(run, command):
    done = run(command, "| true")
    assert done.stderr == b"" or done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8"])
def test_tail_escapes_what_cannot_be_encoded(run, url, encoding):
    line = [sys.executable, "-m", "redis_kvpoll.cli", "tail", "-n", "p", "--redis", url, "--last", "1"]
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    with subprocess.Popen(line, stdout=subprocess.PIPE, env=environment, preexec_fn=real.hear_signals) as process:
        assert REASON.encode(encoding, "backslashreplace") in process.stdout.readline()
        process.send_signal(signal.SIGINT)
    assert process.returncode == 130


def test_tail_into_a_full_disk_ends(url, run):
    line = [sys.executable, "-m", "redis_kvpoll.cli", "tail", "-n", "p", "--redis", url, "--last", "1"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(line, stdout=full, stderr=subprocess.PIPE, timeout=60)
    assert (done.returncode, done.stderr.count(b"\n")) == (1, 1)


def test_warning_is_a_sentence_without_a_file(run, watched):
    client = watched[0]
    client.config_set("maxmemory", "1gb")
    client.config_set("maxmemory-policy", "allkeys-lru")
    try:
        done = run("ls")
    finally:
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", "0")
    assert done.returncode == 0
    first, *rest = done.stderr.decode().splitlines()
    assert first.startswith("Warning: the server's maxmemory-policy is allkeys-lru")
    assert ".py" not in first
    assert "warnings.warn" not in "".join(rest)
