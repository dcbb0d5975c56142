"""kvpoll as a person meets it: plain sentences, exit statuses, nothing a terminal would obey."""

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
from redis_kvpoll.cli import table as table_view
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


class TestLooking:
    def test_a_namespace_that_nobody_uses_stays_unused(self, url, watched):
        result = run("ls", "--redis", url, "--namespace", "nobody")
        assert (result.exit_code, "Nobody uses namespace 'nobody'" in result.output) == (0, True)
        assert run("show", "5", "--redis", url, "-n", "nobody").exit_code == 1
        assert run("clear", "5", "--redis", url, "-n", "nobody").exit_code == 1
        assert watched[0].dbsize() == 0

    def test_an_empty_table(self, url, store):
        store.get(1)
        result = run("ls", "--redis", url, "-n", "prod")
        assert (result.exit_code, result.output) == (0, "Namespace 'prod' has no rooms.\n")

    def test_ls_gives_lines_with_tabs_to_a_pipe(self, url, store):
        store.update_many({2**63 - 1: KVPoll.Transferring, 7: KVPoll.Bootstrapping})
        store.abort(7, "peer\x1b[31m gone\n")
        header, *lines = run("ls", "--redis", url, "-n", "prod").output.splitlines()
        assert header.split("\t") == ["room", "status", "age", "updated", "ttl", "reason"]
        rows = {line.split("\t")[0]: line.split("\t") for line in lines}
        assert rows["9223372036854775807"][1] == "Transferring"
        assert rows["7"][1] == "Failed"
        assert rows["7"][5] == r"peer\x1b[31m gone\n"

    def test_ls_by_status_and_with_a_limit(self, url, store):
        store.update_many(dict.fromkeys(range(9), KVPoll.Bootstrapping) | {9: KVPoll.Success})
        assert run("ls", "--redis", url, "-n", "prod", "--status", "success").output.count("\n") == 2
        assert run("ls", "--redis", url, "-n", "prod", "--limit", "3").output.count("\n") == 4
        assert "has no rooms at Failed" in run("ls", "--redis", url, "-n", "prod", "--status", "failed").output

    def test_the_table_on_a_terminal_never_cuts_a_room(self, store, monkeypatch):
        store.update_status(2**63 - 1, KVPoll.Transferring)
        out = io.StringIO()
        monkeypatch.setattr(table_view, "Console", lambda **_: Console(file=out, width=40, force_terminal=True))
        table_view._print_table([table_view._look(store, 2**63 - 1)], table_view._footer("prod", 1, 1, None))
        assert "9223372036854775807" in out.getvalue()
        assert "Transferring" in out.getvalue()
        assert "prod: 1 room" in out.getvalue()

    def test_a_narrow_terminal_loses_no_reason(self, store, monkeypatch):
        store.update_status(1, KVPoll.Transferring)
        store.abort(1, "decode worker gone, twice")
        out = io.StringIO()
        monkeypatch.setattr(table_view, "Console", lambda **_: Console(file=out, width=60, force_terminal=True))
        table_view._print_table([table_view._look(store, 1)], "")
        assert "\n    reason  decode worker gone, twice\n" in re.sub(r"\x1b\[[\d;]*m| +(?=\n)", "", out.getvalue())
        assert "…" not in out.getvalue()

    def test_one_bad_key_hides_no_other(self, url, store, watched):
        store.update_status(7, KVPoll.Transferring)
        watched[0].set("kvpoll:{prod}:room:8", "by hand", ex=60)
        watched[0].hset("kvpoll:{prod}:room:9", "status", "Bana\x1bna")
        watched[0].expire("kvpoll:{prod}:room:9", 60)
        result = run("ls", "--redis", url, "-n", "prod")
        assert result.exit_code == 0
        rows = {line.split("\t")[0]: line.split("\t") for line in result.output.splitlines()}
        assert [rows[room][1] for room in ("7", "8", "9")] == ["Transferring", "corrupt", "corrupt"]
        assert "\x1b" not in result.output
        for room in ("8", "9"):
            assert f"Cleared room {room}; it was corrupt" in run("clear", room, "--redis", url, "-n", "prod").output
        assert list(store.rooms()) == [7]

    def test_the_footer_says_how_many_there_are(self):
        assert table_view._footer("prod", 50, 3000, None) == "prod: 50 of 3,000 rooms"
        assert table_view._footer("prod", 1, 1, KVPoll.Failed) == "prod: 1 room at Failed"

    def test_show_has_every_field(self, url, store):
        store.update_status(7, KVPoll.Transferring)
        store.set_decode_prefix_len(7, 4096)
        store.abort(7, "why \x1b[2J")
        output = run("show", "7", "--redis", url, "-n", "prod").output
        for word in ("7", "Failed", "opened", "updated", "ttl", r"why \x1b[2J", "4,096 tokens"):
            assert word in output
        assert "\x1b" not in output

    def test_a_missing_room(self, url, store):
        store.get(1)
        for command in ("show", "clear"):
            result = run(command, "5", "--redis", url, "-n", "prod")
            assert result.exit_code == 1
            assert "room 5 is not in namespace 'prod'" in result.output

    def test_clear(self, url, store):
        store.update_status(7, KVPoll.Transferring)
        result = run("clear", "7", "--redis", url, "-n", "prod")
        assert (result.exit_code, result.output) == (0, "Cleared room 7; it was Transferring.\n")
        assert store.get(7) is None

    @pytest.mark.parametrize("room", ["x", "-1", str(2**63), "1.5", "1_0", ""])
    def test_what_is_no_room_is_wrong_usage(self, url, room):
        result = run("show", "--redis", url, "--", room)
        assert result.exit_code == 2
        assert "is not a room id" in result.output


class TestErrors:
    @pytest.mark.parametrize("command", [("ls",), ("show", "1"), ("clear", "1"), ("replay",)])
    def test_an_unreachable_server_is_a_sentence(self, command, monkeypatch):
        monkeypatch.setattr("redis_kvpoll.cli.options.DEADLINE", 0.05)
        monkeypatch.setattr("redis_kvpoll.replay.runner.KNOCK_SECONDS", 0.05)
        result = run(*command, "--redis", "unix:///nowhere/redis.sock")
        assert result.exit_code == 1
        assert "no answer within" in result.output
        assert "Traceback" not in result.output

    @pytest.mark.parametrize("url", ["foo", "redis://h:x", "memory://x"])
    def test_a_bad_url_is_a_sentence(self, url):
        result = run("ls", "--redis", url)
        assert (result.exit_code, result.output.startswith("Error: URL")) == (1, True)

    def test_a_bad_namespace_is_a_sentence(self):
        assert "a namespace is 1 to 64" in run("ls", "-n", "a b").output

    @pytest.mark.parametrize("missing", ["click", "rich"])
    def test_without_the_extra_it_says_what_to_install(self, missing):
        code = f"import sys; sys.modules[{missing!r}] = None; from redis_kvpoll.cli import main; main()"
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert result.returncode == 1
        assert result.stderr == f"kvpoll needs {missing}: pip install 'redis-kvpoll[cli]'\n"


class TestReplayCommand:
    def test_memory_is_refused(self):
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
    def test_options_out_of_range_are_wrong_usage(self, option):
        assert run("replay", *option).exit_code == 2

    def test_a_broken_promise_is_exit_status_3_and_said(self, monkeypatch, url):
        monkeypatch.setattr(runner, "replay", lambda run, progress: report(lost=2))
        result = run("replay", "--redis", url)
        assert result.exit_code == replay_command.PROMISE_BROKEN == 3
        assert "2 requests lost" in result.output

    def test_the_way_in_is_shown_whole_and_without_its_password(self, monkeypatch):
        monkeypatch.setattr(runner, "replay", lambda run, progress: report())
        result = run("replay", "--redis", "redis://:s3cret@[fd00::1]:6379/0")
        assert "kvpoll ls --redis redis://***@[fd00::1]:6379/0 --namespace replay-" in result.output
        assert "s3cret" not in result.output

    def test_json_is_one_document_on_stdout(self, url):
        result = run("replay", "--redis", url, "--limit", "20", "--speed", "60", "--crash-rate", "0", "--json")
        document = json.loads(result.stdout)
        assert result.exit_code == 0
        assert document["requests"] == 20
        assert sum(document["results"].values()) == 20
        assert document["violations"] == []

    def test_the_report_reads_well_whatever_happened(self):
        out = io.StringIO()
        console = Console(file=out, width=80)
        late = {"Transferring": {"CREATED": 2000, "ADVANCED": 1}, "Failed": {"SKIPPED": 7, "FAILED": 1}}
        found = report(
            policy="compat", late=late, leaked={"Success": 2}, cross_contaminated=1, cross_contamination={"flipped": 1}
        )
        for part in render(found):
            console.print(part)
        for words in (
            "late messages",
            "hit next  failed next\n",
            "2 by a late Success",
            "Only generations can",
            "promises holds",
        ):
            assert words in out.getvalue().replace(" \n", " ")
        assert as_json(found)["late_failed_skipped"] == 7
