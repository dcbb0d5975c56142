"""kvpoll's output and exit statuses: one sentence for an error, and no control characters."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import time

import pytest
from click.testing import CliRunner
from rich.console import Console

from redis_kvpoll import KVPoll, StatusStore
from redis_kvpoll.cli import rows, terminal
from redis_kvpoll.cli.app import kvpoll


def run(*args):
    return CliRunner().invoke(kvpoll, args, catch_exceptions=False)


def print_rooms(lines):
    terminal.print_rooms(rows.listed_columns(lines, True), lines)


def lines_of(store, room):
    (row,) = (row for row in store.rows() if row.room == room)
    return [rows.room_line(row, store.entry(room), time.time(), is_short=True)]


class TestTable:
    def test_missing_namespace_is_not_created(self, url, watched):
        result = run("ls", "--redis", url, "--namespace", "nobody")
        assert (result.exit_code, "namespace 'nobody' not found" in result.output) == (1, True)
        assert run("show", "5", "--redis", url, "-n", "nobody").exit_code == 1
        assert run("clear", "5", "--redis", url, "-n", "nobody").exit_code == 1
        assert watched[0].dbsize() == 0

    def test_reason_has_no_column_where_no_room_has_one(self, store, capsys):
        """On a terminal; a pipe keeps it, so that what reads it finds the same columns."""
        store.update_status(1, KVPoll.Bootstrapping)
        print_rooms(lines_of(store, 1))
        assert "reason" not in capsys.readouterr().out
        assert "reason" in rows.listed_columns(lines_of(store, 1), is_terminal=False)
        store.abort(1, "why")
        print_rooms(lines_of(store, 1))
        assert "why" in capsys.readouterr().out

    def test_empty_table_is_named(self, url, store):
        store.get(1)
        result = run("ls", "--redis", url, "-n", "prod")
        assert (result.exit_code, result.output) == (0, "Namespace 'prod' has no rooms.\n")

    def test_ls_into_a_pipe_is_tab_separated(self, url, store):
        store.update_many({2**64 - 1: KVPoll.Transferring, 7: KVPoll.Bootstrapping})
        store.abort(7, "peer\x1b[31m gone\n")
        header, *lines = run("ls", "--redis", url, "-n", "prod").output.splitlines()
        assert header.split("\t") == ["room", "status", "age", "updated", "ttl", "reason"]
        by_room = {line.split("\t")[0]: line.split("\t") for line in lines}
        assert by_room["18446744073709551615"][1] == "Transferring"
        assert by_room["7"][1] == "Failed"
        assert by_room["7"][5] == r"peer\x1b[31m gone\n"

    def test_ls_is_limited_by_status_and_count(self, url, store):
        store.update_many(dict.fromkeys(range(9), KVPoll.Bootstrapping) | {9: KVPoll.Success})
        assert run("ls", "--redis", url, "-n", "prod", "--status", "success").stdout.count("\n") == 2
        assert run("ls", "--redis", url, "-n", "prod", "--limit", "3").stdout.count("\n") == 4
        assert "has no rooms at Failed" in run("ls", "--redis", url, "-n", "prod", "--status", "failed").output

    def test_room_on_a_terminal_is_never_cut(self, store, monkeypatch):
        store.update_status(2**64 - 1, KVPoll.Transferring)
        out = io.StringIO()
        monkeypatch.setattr(terminal, "Console", lambda **_: Console(file=out, width=40, force_terminal=True))
        print_rooms(lines_of(store, 2**64 - 1))
        assert "18446744073709551615" in out.getvalue()
        assert "Transferring" in out.getvalue()

    def test_reason_on_a_narrow_terminal_is_below_the_row(self, store, monkeypatch):
        store.update_status(1, KVPoll.Transferring)
        store.abort(1, "decode worker gone, twice")
        out = io.StringIO()
        monkeypatch.setattr(terminal, "Console", lambda **_: Console(file=out, width=60, force_terminal=True))
        print_rooms(lines_of(store, 1))
        assert "\n    reason  decode worker gone, twice\n" in re.sub(r"\x1b\[[\d;]*m| +(?=\n)", "", out.getvalue())
        assert "…" not in out.getvalue()

    def test_long_word_of_a_room_is_whole_on_a_terminal(self, store, monkeypatch):
        word = "x" * 300
        out = io.StringIO()
        monkeypatch.setattr(terminal, "Console", lambda **_: Console(file=out, width=80, force_terminal=True))
        store.update_status(1, KVPoll.Transferring)
        store.abort(1, word)
        terminal.print_entry(store.entry(1), {}, "")
        terminal.print_history(rows.HISTORY_COLUMNS, [("2026-01-01 00:00:00.000 +00:00", "Failed", "", "", word, "")])
        terminal.print_owners(("owner", "state", "reason"), [("lost", ("prefill-0", "lost", word))])
        assert out.getvalue().count("x") == 3 * len(word)
        assert "…" not in out.getvalue()

    def test_corrupt_room_hides_no_other(self, url, store, watched):
        store.update_status(7, KVPoll.Transferring)
        watched[0].set("kvpoll:{prod}:room:8", "by hand", ex=600)
        watched[0].hset("kvpoll:{prod}:room:9", "status", "Bana\x1bna")
        watched[0].expire("kvpoll:{prod}:room:9", 600)
        result = run("ls", "--redis", url, "-n", "prod")
        assert result.exit_code == 0
        by_room = {line.split("\t")[0]: line.split("\t") for line in result.output.splitlines()}
        assert [by_room[room][1] for room in ("7", "8", "9")] == ["Transferring", "corrupt", "corrupt"]
        assert "\x1b" not in result.output
        for room in ("8", "9"):
            assert f"Cleared room {room}; it was corrupt" in run("clear", room, "--redis", url, "-n", "prod").output
        assert list(store.rooms()) == [7]

    @pytest.mark.parametrize("width", [60, 80, 120, 200])
    def test_long_reason_takes_one_line(self, store, monkeypatch, width):
        store.update_status(1, KVPoll.Transferring)
        store.abort(1, "why " * 100)
        out = io.StringIO()
        monkeypatch.setattr(terminal, "Console", lambda **_: Console(file=out, width=width))
        print_rooms(lines_of(store, 1))
        (line,) = (line for line in out.getvalue().splitlines() if "why" in line)
        assert line.rstrip().endswith("…")

    def test_show_prints_every_field(self, url, store):
        store.update_status(7, KVPoll.Transferring)
        store.set_decode_prefix_len(7, 4096)
        store.abort(7, "why \x1b[2J")
        output = run("show", "7", "--redis", url, "-n", "prod").output
        for word in ("7", "Failed", "opened", "updated", "ttl", r"why \x1b[2J", "4,096 tokens"):
            assert word in output
        assert "\x1b" not in output

    def test_missing_room_is_an_error(self, url, store):
        store.get(1)
        for command in ("show", "clear"):
            result = run(command, "5", "--redis", url, "-n", "prod")
            assert result.exit_code == 1
            assert "room 5 is not in namespace 'prod'" in result.output

    def test_missing_room_leads_to_where_it_is(self, url, watched):
        """It may be in the other side's table alone, or have been here. Looking creates nothing."""
        with StatusStore.from_url(url, namespace="p-prefill") as prefill:
            prefill.update_status(1, KVPoll.Transferring)
            with StatusStore.from_url(url, namespace="p-decode") as decode:
                decode.get(1)
            for words in (["show", "1"], ["wait", "1"], ["abort", "1"], ["abort", "1", "--dry-run"], ["clear", "1"]):
                shown = run(*words, "--redis", url, "-n", "p-decode")
                assert shown.exit_code == 1
                assert "p-prefill has it, at Transferring: use -n p-prefill" in shown.stderr, words
                assert "kvpoll history 1 -n p-decode" in shown.stderr, words
            shown = run("show", "2", "--redis", url, "-n", "p-decode").stderr
            assert ("has it" in shown, "kvpoll history 2 -n p-decode" in shown) == (False, True)
        watched[0].delete(*watched[0].keys("kvpoll:{p-prefill}*"))
        assert run("show", "1", "--redis", url, "-n", "p-decode").exit_code == 1
        assert watched[0].keys("kvpoll:{p-prefill}*") == []

    def test_clear_removes_a_room_and_names_its_status(self, url, store):
        store.update_status(7, KVPoll.Transferring)
        result = run("clear", "7", "--redis", url, "-n", "prod")
        assert (result.exit_code, result.output) == (0, "Cleared room 7; it was Transferring.\n")
        assert store.get(7) is None

    @pytest.mark.parametrize("room", ["x", "-1", str(2**64), "1.5", "1_0", ""])
    def test_invalid_room_id_is_wrong_usage(self, url, room):
        result = run("show", "--redis", url, "--", room)
        assert result.exit_code == 2
        assert "is not a room id" in result.output


class TestErrors:
    @pytest.mark.parametrize("command", [("ls",), ("show", "1"), ("clear", "1"), ("replay",)])
    def test_unreachable_server_is_one_sentence(self, command, monkeypatch):
        monkeypatch.setattr("redis_kvpoll.cli.options.DEADLINE", 0.05)
        monkeypatch.setattr("redis_kvpoll.replay.runner.CONNECT_SECONDS", 0.05)
        result = run(*command, "--redis", "unix:///nowhere/redis.sock")
        assert result.exit_code == 1
        assert "no answer within" in result.output
        assert "Traceback" not in result.output

    @pytest.mark.parametrize("url", ["foo", "redis://h:x", "memory://x"])
    def test_invalid_url_is_one_sentence(self, url):
        result = run("ls", "--redis", url)
        assert (result.exit_code, result.output.startswith("Error: URL")) == (2, True)

    @pytest.mark.parametrize("url", ["memory://", "embedded://"])
    @pytest.mark.parametrize("words", [("ls",), ("doctor",), ("namespaces",), ("serve",)])
    def test_url_of_a_new_table_is_refused(self, words, url):
        """It would be empty, and the command would say that the namespace is not there."""
        result = run(*words, "--redis", url)
        assert (result.exit_code, f"Error: {url} would be a new table" in result.output) == (2, True)

    def test_invalid_namespace_is_one_sentence(self):
        assert "a namespace is 1 to 64" in run("ls", "-n", "a b").output

    @pytest.mark.parametrize("wrong", [("--redis", "redis://h:x"), ("-n", "a b")], ids=["url", "namespace"])
    @pytest.mark.parametrize("words", [("ls",), ("show", "1"), ("abort", "1"), ("doctor",), ("serve",), ("tail",)])
    def test_invalid_url_or_namespace_is_wrong_usage(self, words, wrong):
        """Like each other wrong argument: a script that tries again after 1 would do so for good."""
        result = run(*words, *wrong)
        assert (result.exit_code, result.stdout, result.stderr.startswith("Error: ")) == (2, "", True)
        assert result.stderr.count("\n") == 1

    @pytest.mark.parametrize("missing", ["click", "rich"])
    def test_missing_extra_is_named_with_its_install_line(self, missing):
        code = f"import sys; sys.modules[{missing!r}] = None; from redis_kvpoll.cli import main; main()"
        printing = ["replay", "--redis", "redis://localhost"]
        result = subprocess.run([sys.executable, "-c", code, *printing], capture_output=True, text=True, check=False)
        assert result.returncode == 1
        assert result.stderr == f"kvpoll needs {missing}: pip install 'redis-kvpoll[cli]'\n"
