"""kvpoll's output and exit statuses: one sentence for an error, and no control characters."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys

import pytest
from click.testing import CliRunner
from rich.console import Console

from redis_kvpoll import KVPoll, StatusStore
from redis_kvpoll.cli import replay as replay_command
from redis_kvpoll.cli import rows, terminal
from redis_kvpoll.cli.app import kvpoll
from redis_kvpoll.cli.report import as_json, render
from redis_kvpoll.replay import runner
from tests.support.reports import report


@pytest.fixture
def store(url):
    with StatusStore.from_url(url, namespace="prod") as store:
        yield store


def run(*args):
    return CliRunner().invoke(kvpoll, args, catch_exceptions=False)


def print_rooms(lines, footer=""):
    terminal.print_rooms(rows.listed_columns(lines), lines, footer)


class TestTable:
    def test_missing_namespace_is_not_created(self, url, watched):
        result = run("ls", "--redis", url, "--namespace", "nobody")
        assert (result.exit_code, "namespace 'nobody' not found" in result.output) == (0, True)
        assert run("show", "5", "--redis", url, "-n", "nobody").exit_code == 1
        assert run("clear", "5", "--redis", url, "-n", "nobody").exit_code == 1
        assert watched[0].dbsize() == 0

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
        assert run("ls", "--redis", url, "-n", "prod", "--status", "success").output.count("\n") == 2
        assert run("ls", "--redis", url, "-n", "prod", "--limit", "3").output.count("\n") == 4
        assert "has no rooms at Failed" in run("ls", "--redis", url, "-n", "prod", "--status", "failed").output

    def test_room_on_a_terminal_is_never_cut(self, store, monkeypatch):
        store.update_status(2**64 - 1, KVPoll.Transferring)
        out = io.StringIO()
        monkeypatch.setattr(terminal, "Console", lambda **_: Console(file=out, width=40, force_terminal=True))
        print_rooms([rows.room_line(store, 2**64 - 1)], rows.footer("prod", 1, 1, None))
        assert "18446744073709551615" in out.getvalue()
        assert "Transferring" in out.getvalue()
        assert "prod: 1 room" in out.getvalue()

    def test_reason_on_a_narrow_terminal_is_never_cut(self, store, monkeypatch):
        store.update_status(1, KVPoll.Transferring)
        store.abort(1, "decode worker gone, twice")
        out = io.StringIO()
        monkeypatch.setattr(terminal, "Console", lambda **_: Console(file=out, width=60, force_terminal=True))
        print_rooms([rows.room_line(store, 1)])
        assert "\n    reason  decode worker gone, twice\n" in re.sub(r"\x1b\[[\d;]*m| +(?=\n)", "", out.getvalue())
        assert "…" not in out.getvalue()

    def test_corrupt_room_hides_no_other(self, url, store, watched):
        store.update_status(7, KVPoll.Transferring)
        watched[0].set("kvpoll:{prod}:room:8", "by hand", ex=60)
        watched[0].hset("kvpoll:{prod}:room:9", "status", "Bana\x1bna")
        watched[0].expire("kvpoll:{prod}:room:9", 60)
        result = run("ls", "--redis", url, "-n", "prod")
        assert result.exit_code == 0
        by_room = {line.split("\t")[0]: line.split("\t") for line in result.output.splitlines()}
        assert [by_room[room][1] for room in ("7", "8", "9")] == ["Transferring", "corrupt", "corrupt"]
        assert "\x1b" not in result.output
        for room in ("8", "9"):
            assert f"Cleared room {room}; it was corrupt" in run("clear", room, "--redis", url, "-n", "prod").output
        assert list(store.rooms()) == [7]

    def test_footer_counts_rooms(self):
        assert rows.footer("prod", 50, 3000, None) == "prod: 50 of 3,000 rooms"
        assert rows.footer("prod", 1, 1, KVPoll.Failed) == "prod: 1 room at Failed"

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
        assert (result.exit_code, result.output.startswith("Error: URL")) == (1, True)

    def test_invalid_namespace_is_one_sentence(self):
        assert "a namespace is 1 to 64" in run("ls", "-n", "a b").output

    @pytest.mark.parametrize("missing", ["click", "rich"])
    def test_missing_extra_is_named_with_its_install_line(self, missing):
        code = f"import sys; sys.modules[{missing!r}] = None; from redis_kvpoll.cli import main; main()"
        printing = ["replay", "--redis", "redis://localhost"]
        result = subprocess.run([sys.executable, "-c", code, *printing], capture_output=True, text=True, check=False)
        assert result.returncode == 1
        assert result.stderr == f"kvpoll needs {missing}: pip install 'redis-kvpoll[cli]'\n"


class TestReplayCommand:
    def test_memory_url_is_refused(self):
        result = run("replay", "--redis", "memory://")
        assert (result.exit_code, "inside one process" in result.output) == (1, True)

    @pytest.mark.parametrize(
        "option",
        [
            ("--speed", "0"),
            ("--speed", "nan"),
            ("--speed", "inf"),
            ("--late-rate", "nan"),
            ("--late-rate", "1.5"),
            ("--prefill", "0"),
            ("--limit", "0"),
            ("--policy", "x"),
        ],
    )
    def test_option_out_of_range_is_wrong_usage(self, option):
        assert run("replay", *option).exit_code == 2

    def test_violated_guarantee_is_printed_with_exit_status_3(self, monkeypatch, url):
        monkeypatch.setattr(runner, "replay", lambda run, progress: report(unfinished=2))
        result = run("replay", "--redis", url)
        assert result.exit_code == replay_command.GUARANTEE_VIOLATED == 3
        assert "2 requests unfinished" in result.output

    def test_commands_to_watch_are_whole_without_the_password(self, monkeypatch):
        monkeypatch.setattr(runner, "replay", lambda run, progress: report())
        result = run("replay", "--redis", "redis://:s3cret@[fd00::1]:6379/0")
        assert "kvpoll ls --redis redis://***@[fd00::1]:6379/0 --namespace replay-" in result.output
        assert "s3cret" not in result.output

    def test_report_as_json_is_one_document_on_stdout(self, url):
        result = run("replay", "--redis", url, "--limit", "20", "--speed", "60", "--crash-rate", "0", "--json")
        document = json.loads(result.stdout)
        assert result.exit_code == 0
        assert document["requests"] == 20
        assert sum(document["results"].values()) == 20
        assert document["violations"] == []

    def test_report_explains_every_finding(self):
        out = io.StringIO()
        console = Console(file=out, width=80)
        late = {"Transferring": {"CREATED": 2000, "ADVANCED": 1}, "Failed": {"SKIPPED": 7, "FAILED": 1}}
        found = report(
            policy="compat", late=late, leaked={"Success": 2}, cross_contaminated=1, cross_contamination={"changed": 1}
        )
        for part in render(found):
            console.print(part)
        for words in (
            "late messages",
            "advanced   failed\n",
            "a later  a later\n",
            "2 by a late Success",
            "generations do",
            "All guarantees of policy compat held.",
        ):
            assert words in out.getvalue().replace(" \n", " ")
        assert as_json(found)["late_failed_skipped"] == 7
