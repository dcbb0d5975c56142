"""kvpoll owners, reap and abort: their output and exit statuses."""

from __future__ import annotations

import io
import sys

import pytest
from click.testing import CliRunner
from rich.console import Console

from redis_kvpoll import KVPoll, StatusStore
from redis_kvpoll.cli import owner_rows, terminal
from redis_kvpoll.cli.app import kvpoll
from redis_kvpoll.model import Owner
from tests.support.leasing import ManualLease, begin_long_ago, pass_time, record

BOOT, DONE, FAIL = KVPoll.Bootstrapping, KVPoll.Success, KVPoll.Failed


@pytest.fixture
def client(url, real_servers):
    client = real_servers.get("valkey").client(decode_responses=True)
    begin_long_ago(client)
    yield client
    client.close()


@pytest.fixture
def held(url, client):
    with StatusStore.from_url(url) as store:
        yield ManualLease(store).take()


def run(*args):
    return CliRunner().invoke(kvpoll, args, catch_exceptions=False)


def test_missing_namespace_is_not_created(url, watched):
    for words in (("owners",), ("reap",), ("abort", "5")):
        result = run(*words, "--redis", url, "-n", "nobody")
        assert "namespace 'nobody' not found" in result.output
        assert result.exit_code == 1
    assert watched[0].dbsize() == 0


def test_namespace_without_leases_is_named(url, held):
    held.release()
    assert run("owners", "--redis", url).output == "Namespace 'default' has no leases.\n"


def test_owners_into_a_pipe_are_tab_separated(url, held, client):
    held.store.update_many({1: BOOT, 2: BOOT, 3: DONE})
    header, line = (line.split("\t") for line in run("owners", "--redis", url).output.splitlines())
    assert header == list(owner_rows.COLUMNS)
    name, state, live, failed, heartbeat, lost_at, since, *rest = line
    assert [name, state, live, failed, lost_at] == ["prefill-0", "alive", "2", "0", ""]
    assert rest == ["", "", ""], "ranks, process, reason"
    assert since.startswith("20")
    assert heartbeat.endswith("s ago")


def test_owners_on_a_terminal_are_a_table(url, held, monkeypatch):
    monkeypatch.setattr(sys.stdout.__class__, "isatty", lambda _: True, raising=False)
    monkeypatch.setattr("click.testing._NamedTextIOWrapper.isatty", lambda _: True, raising=False)
    output = run("owners", "--redis", url).output
    assert "prefill-0" in output
    assert "\t" not in output


@pytest.mark.parametrize("width", [80, 40])
def test_long_owner_is_whole_on_a_narrow_terminal(width, monkeypatch):
    out = io.StringIO()
    monkeypatch.setattr(terminal, "Console", lambda **_: Console(file=out, width=width))
    name = "rack7/node-0123.cluster.example:9000"
    owner = Owner(name, 1, 5.0, 0.5, 1e9, "lost", "the name was taken again", 1234, 56)
    terminal.print_owners(owner_rows.COLUMNS, [(owner.state, owner_rows.cells([owner], 0.0))])
    lines = [line.rstrip() for line in out.getvalue().splitlines()]
    assert max(map(len, lines)) <= width
    assert lines[1].startswith(name)
    assert lines[2].startswith("    lease since" if width == 80 else "    state")
    assert [word for word in ("lost", "1,234", "56", "again") if word not in out.getvalue()] == []
    assert "…" not in out.getvalue()


def test_reap_suspects_first_and_fails_rooms_later(url, held, client):
    held.store.update_many({1: BOOT, 2: DONE})
    assert run("reap", "--redis", url).output == "Failed 0 rooms of lost owners.\n"
    pass_time(client, 10)
    first = run("reap", "--redis", url).output
    assert "Failed 0 rooms" in first
    assert "Suspected prefill-0, owner of 1 live room: last heartbeat at " in first
    assert "Run it again in 1.75 s or later" in first
    assert held.store.get(1) is BOOT
    pass_time(client, 2)
    assert run("reap", "--redis", url).output == "Failed 1 room of lost owners.\n"
    assert held.store.poll([1, 2]) == [FAIL, DONE]
    assert record(client) is None


def test_abort_fails_a_room_once_for_its_reason(url, held):
    held.store.update_status(1, BOOT)
    assert (
        run("abort", "1", "--redis", url, "--reason", "drained").output
        == "Room 1 is now Failed: Aborted by hand: drained\n"
    )
    assert run("abort", "1", "--redis", url).output == "Room 1 was already Failed: Aborted by hand: drained\n"
    assert held.store.failure_reason(1) == "Aborted by hand: drained"
    absent = run("abort", "2", "--redis", url)
    assert (absent.exit_code, "room 2 is not in namespace 'default'" in absent.output) == (1, True)
    assert held.store.get(2) is None
    assert run("abort", "1", "--redis", url, "--reason", " ").exit_code == 2
    assert "prefill-0" in run("show", "1", "--redis", url).output
