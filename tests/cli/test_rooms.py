"""kvpoll ls, find, show, wait, and abort and clear of many rooms: filters, exit statuses, what is said on stderr."""

from __future__ import annotations

import io
import json
import time

import pytest
from click.testing import CliRunner
from rich.console import Console

from redis_kvpoll import KVPoll, Outcome, StatusStore
from redis_kvpoll._process import this_process
from redis_kvpoll.cli import numbers
from redis_kvpoll.cli.app import kvpoll
from redis_kvpoll.cli.commands import listing
from redis_kvpoll.cli.timeline import print_timeline
from redis_kvpoll.protocol.periods import Period
from tests.support import real

BOOT, MOVE, DONE, FAILED = KVPoll.Bootstrapping, KVPoll.Transferring, KVPoll.Success, KVPoll.Failed


@pytest.fixture
def table(store):
    """Five rooms, two of which belong to a lease."""
    with store.lease("prefill/10.0.0.1:8998"):
        store.open(1, request="rid-1")
        time.sleep(0.002)  # the oldest by a millisecond of the server's clock
        store.open(2, request="rid-2").update(MOVE)
        with StatusStore.from_url(store_url(store), namespace="prod") as other:
            other.update_many({3: DONE, 4: BOOT, 5: BOOT})
            other.abort(5, "Mooncake session 7 failed")
        yield store


def store_url(store):
    return repr(store).partition(" on ")[2].rstrip(">")


def rooms(result):
    return [int(line.split("\t")[0]) for line in result.stdout.splitlines()[1:]]


class TestLs:
    @pytest.mark.parametrize(
        ("words", "expected"),
        [
            ([], {1, 2, 3, 4, 5}),
            (["--status", "Bootstrapping"], {1, 4}),
            (["--status", "success", "--status", "failed"], {3, 5}),
            (["--stuck=1ms"], {1, 2, 4}),
            (["--stuck"], set()),
            (["--older-than", "1ms"], {1, 2, 3, 4, 5}),
            (["--older-than", "1h"], set()),
            (["--owner", "10.0.0.1"], {1, 2}),
            (["--request", "rid-2"], {2}),
            (["--reason", "mooncake"], {5}),
            (["--owner", "10.0.0.1", "--status", "Transferring"], {2}),
            (["--expiring"], set()),
        ],
    )
    def test_filters_narrow_each_other(self, table, run, words, expected):
        result = run("ls", *words)
        assert result.exit_code == 0
        assert set(rooms(result)) == expected

    def test_room_that_expires_soon_is_found(self, table, run, client_of):
        client_of.pexpire("kvpoll:{prod}:room:4", 30_000)
        assert rooms(run("ls", "--expiring")) == [4]
        assert (rooms(run("ls", "--expiring=20s")), rooms(run("ls", "--expiring=40s"))) == ([], [4])

    def test_filter_that_nothing_matches_says_so(self, table, run):
        assert run("ls", "--owner", "nobody").stderr == "Namespace 'prod': none of its 5 rooms matches.\n"

    def test_what_is_left_out_is_said(self, table, run):
        result = run("ls", "--limit", "2")
        assert len(rooms(result)) == 2
        assert result.stderr == "prod: 5 rooms; 3 left out: --all lists them, --limit more\n"
        assert run("ls", "--all", "--status", "failed").stderr == "prod: 1 of 5 rooms\n"

    @pytest.mark.parametrize(
        ("words", "expected"),
        [(["--sort", "room"], [1, 2, 3, 4, 5]), (["--sort", "room", "--reverse"], [5, 4, 3, 2, 1])],
    )
    def test_order_is_as_asked(self, table, run, words, expected):
        assert rooms(run("ls", *words)) == expected
        assert rooms(run("ls", *words, "--limit", "2")) == expected[:2]

    def test_oldest_change_is_first_among_the_stuck(self, table, run):
        stuck = rooms(run("ls", "--stuck=1ms", "--limit", "2"))
        assert stuck[0] == 1
        assert rooms(run("ls"))[-1] == 1

    @pytest.mark.parametrize("word", ["x", "5 parsecs", "-1s"])
    def test_wrong_duration_is_wrong_usage(self, run, word):
        assert run("ls", f"--stuck={word}").exit_code == 2

    def test_no_namespace_is_not_0(self, run):
        for command in (["ls"], ["owners"], ["stats"], ["find", "x"], ["wait", "1"], ["reap"]):
            assert run(*command).exit_code == 1, command


class TestFindShowWait:
    def test_find_names_the_rooms_of_a_request(self, table, run):
        assert rooms(run("find", "rid-1")) == [1]
        assert run("find", "rid", "--limit", "1").stderr == "prod: 2 of 5 rooms; 1 left out: --limit lists more\n"
        result = run("find", "rid-9")
        assert (result.exit_code, "no room of a request 'rid-9' (5 rooms)" in result.stderr) == (1, True)

    def test_request_that_is_not_found_leads_to_the_other_side(self, url):
        with StatusStore.from_url(url, namespace="p-prefill") as store:
            store.open(1, request="rid-1")
            words = ["find", "a 1", "--redis", url, "-n", "p-prefill"]
            said = CliRunner().invoke(kvpoll, words, catch_exceptions=False).stderr
        assert "never opened, cleared, expired or evicted; the other side: kvpoll find 'a 1' -n p-decode" in said

    def test_request_in_place_of_a_room_leads_to_find(self, table, run):
        for command in ("show", "history", "abort", "clear", "wait"):
            result = run(command, "rid-1")
            assert (result.exit_code, "for the id of a request: kvpoll find" in result.stderr) == (2, True), command

    def test_show_takes_a_hexadecimal_room(self, table, run):
        for room in ("5", "0x5", "0X05"):
            assert "Mooncake session 7 failed" in run("show", room).stdout
        assert run("show", "0x1" + "0" * 16).exit_code == 2

    def test_timeline_is_of_the_present_request(self, table, run):
        table.clear(4)
        table.update_status(4, KVPoll.WaitingForInput)
        table.update_status(4, DONE)
        found = json.loads(run("show", "4", "--json").stdout)
        assert [each["status"] for each in found["timeline"]] == ["WaitingForInput", "Success"]
        assert found["timeline"][0]["seconds"] >= 0

    def test_room_without_a_ttl_never_expires(self, table, run, client_of):
        client_of.persist("kvpoll:{prod}:room:5")
        lines = run("show", "5").stdout.splitlines()
        client_of.expire("kvpoll:{prod}:room:5", 60)  # every key must have a TTL at the test's end
        assert "ttl         never" in lines

    def test_timeline_begins_with_a_takeover(self, table, run):
        """It leaves no clear, and may come in the millisecond of the failure."""
        table.abort(1, "timeout")
        table.open(1, request="rid-9")
        found = json.loads(run("show", "1", "--json").stdout)
        assert [(each["status"], each["reason"]) for each in found["timeline"]] == [("Bootstrapping", None)]

    def test_watched_room_is_a_document_on_each_line(self, store, run, monkeypatch):
        """As what other commands watch: a program reads line by line."""
        store.update_status(1, BOOT)
        monkeypatch.setattr("redis_kvpoll.cli.commands.room.pause", lambda _: store.abort(1, "enough"))
        lines = run("show", "1", "--watch", "--json").stdout.splitlines()
        assert [json.loads(line)["status"] for line in lines] == ["Bootstrapping", "Failed"]

    def test_show_in_a_pipe_wraps_and_pads_nothing(self, url):
        """So that a script finds each value whole, in its line."""
        owner, reason = "o" * 100, "r" * 150
        with (
            StatusStore.from_url(url, namespace="p-prefill") as prefill,
            StatusStore.from_url(url, namespace="p-decode") as decode,
            prefill.lease(owner),
        ):
            prefill.open(1)
            decode.open(1)
            decode.abort(1, reason)
            for side, whole in (("prefill", {f"owner       {owner}"}), ("decode", {f"{'':17}{reason}"})):
                shown = CliRunner().invoke(kvpoll, ["show", "1", "--redis", url, "-n", f"p-{side}"]).stdout.splitlines()
                assert whole <= set(shown)
                assert [line for line in shown if line != line.rstrip()] == []
                (other,) = [line for line in shown if line.startswith("other side")]
                assert other.endswith(reason) is (side == "prefill")

    def test_bars_compare_what_is_drawn(self, capsys):
        """The time at an end is not drawn, and makes no bar shorter. A pipe has one line for all ranks."""
        ended = Period(12.05, "Failed", 900.0, is_current=True, ranks=((12.05, "0: Failed"),) * 12)
        print_timeline([Period(0.0, "Bootstrapping", 12.0), Period(12.0, "Transferring", 12.05), ended])
        assert [line.count("▇") for line in capsys.readouterr().out.splitlines()] == [0, 20, 1, 0, 0]

    def test_other_side_is_shown(self, url):
        with StatusStore.from_url(url, namespace="p-prefill") as prefill:
            prefill.update_status(1, BOOT)
            with StatusStore.from_url(url, namespace="p-decode") as decode:
                for expected in ("has no such room", "Transferring since"):
                    shown = CliRunner().invoke(kvpoll, ["show", "1", "--redis", url, "-n", "p-prefill"]).output
                    assert ("other side  p-decode: " in shown, expected in " ".join(shown.split())) == (True, True)
                    decode.update_status(1, MOVE)

    def test_other_side_that_is_not_read_is_not_absent(self, url, watched):
        """An operator aborts where the room is."""
        words = ["1", "--redis", url, "-n", "p-prefill"]
        with (
            StatusStore.from_url(url, namespace="p-prefill") as prefill,
            StatusStore.from_url(url, namespace="p-decode") as decode,
        ):
            prefill.update_status(1, BOOT)
            decode.update_status(1, BOOT)
            watched[0].hset("kvpoll:{p-decode}:room:1", "status", "Odd")
            shown = CliRunner().invoke(kvpoll, ["show", *words]).stdout
            assert "other side  p-decode: could not be read: entry: room 1 holds status 'Odd'" in shown
            assert "(here: kvpoll clear 1 -n p-decode)" in shown
            other = json.loads(CliRunner().invoke(kvpoll, ["show", *words, "--json"]).stdout)["other_side"]
            assert (other["room"], "status 'Odd'" in other["error"]) == (None, True)
            aborted = CliRunner().invoke(kvpoll, ["abort", *words])
            assert (aborted.exit_code, "whether p-decode has it, too, is not known" in aborted.stderr) == (0, True)
            prefill.clear(1)
            assert "whether p-decode has it is not known" in CliRunner().invoke(kvpoll, ["show", *words]).stderr

    def test_owners_of_both_sides_have_their_processes(self, url):
        with (
            StatusStore.from_url(url, namespace="p-prefill") as prefill,
            StatusStore.from_url(url, namespace="p-decode") as decode,
            prefill.lease("prefill-0"),
            decode.lease("decode-0"),
        ):
            prefill.open(1)
            decode.open(1)
            shown = CliRunner().invoke(kvpoll, ["show", "1", "--redis", url, "-n", "p-prefill"]).stdout
            process = this_process()
            assert f"process     {process}\n" in shown
            assert f", of decode-0 ({process})" in shown
            found = CliRunner().invoke(kvpoll, ["show", "1", "--redis", url, "-n", "p-prefill", "--json"]).stdout
            assert json.loads(found)["other_side"]["process"] == process

    def test_abort_says_where_the_other_side_is(self, url):
        """One side is aborted; the other one ends by SGLang, or not at all."""
        with StatusStore.from_url(url, namespace="p-prefill") as prefill:
            prefill.update_status(1, MOVE)
            with StatusStore.from_url(url, namespace="p-decode") as decode:
                decode.update_many({1: BOOT, 2: BOOT})
                shown = CliRunner().invoke(kvpoll, ["abort", "1", "--redis", url, "-n", "p-decode"])
                assert (shown.exit_code, "Room 1 is now Failed" in shown.stdout) == (0, True)
                assert "in p-prefill it is still Transferring" in shown.stderr
                shown = CliRunner().invoke(kvpoll, ["abort", "2", "--redis", url, "-n", "p-decode"])
                assert (shown.exit_code, shown.stderr) == (0, "")

    @pytest.mark.parametrize(
        ("words", "status", "said"),
        [
            (["3"], 0, "Room 3 is at Success"),
            (["2", "WaitingForInput"], 0, "Room 2 is at Transferring"),
            (["5"], 3, "Room 5 is at Failed: Mooncake session 7 failed"),
            (["5", "Failed"], 0, "Room 5 is at Failed"),
            (["9"], 1, "room 9 is not in namespace 'prod'"),
            (["1", "--timeout", "50ms"], 1, "room 1 did not end within 50 ms: it is at Bootstrapping"),
            (["1", "success", "--timeout", "50ms"], 1, "room 1 did not reach Success within 50 ms: it is at"),
            (["1", "Done"], 2, "Done"),
        ],
    )
    def test_wait_has_its_exit_statuses(self, table, run, words, status, said):
        result = run("wait", *words)
        assert (result.exit_code, said in result.output) == (status, True), result.output

    def test_wait_prints_a_reason_on_one_line(self, store, run):
        """A reason is others' text: it may not forge a line, nor speak to the terminal."""
        store.update_status(1, BOOT)
        store.abort(1, "why\x1b[2J\nRoom 2 is at Success")
        assert run("wait", "1").stdout == "Room 1 is at Failed: why\\x1b[2J\\nRoom 2 is at Success\n"


def test_rooms_that_go_while_they_are_listed_are_not_left_out(store, run, monkeypatch):
    """They were counted, and are gone before their entries are read."""
    store.update_many(dict.fromkeys((1, 2, 3), BOOT))
    read = listing.with_entries

    def reading(table, found):
        store.clear(2)
        return read(table, found)

    monkeypatch.setattr(listing, "with_entries", reading)
    result = run("ls", "--all", "--status", "bootstrapping")
    assert (set(rooms(result)), result.stderr) == ({1, 3}, "prod: 2 rooms\n")


class TestMany:
    def test_dry_run_changes_nothing(self, table, run):
        result = run("abort", "--owner", "10.0.0.1", "--dry-run")
        assert (result.exit_code, set(rooms(result))) == (0, {1, 2})
        assert result.stderr == "abort would change 2 rooms\n"
        assert table.get(1) is BOOT

    def test_without_yes_nothing_is_changed(self, table, run):
        result = run("abort", "--owner", "10.0.0.1")
        assert (result.exit_code, result.stderr) == (
            1,
            "Error: 2 rooms match: confirm with --yes, or look with --dry-run\n",
        )
        assert table.get(1) is BOOT

    def test_abort_fails_the_live_rooms_that_match(self, table, run):
        result = run("abort", "--older-than", "0s", "--reason", "drained", "--yes")
        assert (result.exit_code, result.stdout) == (0, "Failed 3 rooms of 3 that matched.\n")
        assert table.poll(range(1, 6)) == [FAILED, FAILED, DONE, FAILED, FAILED]
        assert table.failure_reason(4) == "Aborted by hand: drained"
        assert table.failure_reason(5) == "Mooncake session 7 failed"

    def test_clear_removes_the_rooms_that_match(self, table, run):
        result = run("clear", "--reason", "mooncake", "--yes")
        assert result.stdout == "Cleared 1 room of 1 that matched.\n"
        assert table.poll([4, 5]) == [BOOT, None]

    def test_more_than_the_limit_is_refused(self, table, run):
        result = run("clear", "--older-than", "0s", "--limit", "4", "--yes")
        assert (result.exit_code, "more than 4 rooms match" in result.stderr) == (1, True)
        assert len(list(table.rooms())) == 5

    @pytest.mark.parametrize("words", [["abort"], ["clear"], ["clear", "1", "--stuck"], ["abort", "1", "--owner", "x"]])
    def test_a_room_or_a_selection_is_needed(self, table, run, words):
        assert run(*words, "--yes").exit_code == 2

    def test_steps_cover_every_room(self, store, run):
        store.update_many(dict.fromkeys(range(250), BOOT))
        assert run("abort", "--status", "bootstrapping", "--yes").stdout == "Failed 250 rooms of 250 that matched.\n"


class TestStats:
    def test_numbers_of_the_table_are_shown(self, table, run):
        real.until(lambda: table.history(5)[-1].at < int(_now(table)), "the second is over")
        shown = run("stats").output
        assert "rooms 5   live 3   stuck 0" in shown
        assert "transfer 1" in shown
        assert "Mooncake session 7 failed" in shown, "of one reason, no number is left out"
        assert "owners  1 alive" in shown

    @pytest.mark.parametrize("width", [80, 60, 40])
    def test_numbers_are_whole_on_any_terminal(self, store, monkeypatch, width):
        store.update_many(dict.fromkeys(range(12_345), BOOT))
        out = io.StringIO()
        monkeypatch.setattr(numbers, "Console", lambda **_: Console(file=out, width=width, force_terminal=True))
        with store.statistics() as statistics:
            real.until(lambda: statistics.snapshot().total == 12_345, "all are counted")
            for status in (BOOT, MOVE):
                store.update_status(20_000, status)
            real.until(lambda: any(statistics.snapshot().status_durations[BOOT].counts), "one has gone on")
            numbers.print_snapshot(statistics.snapshot(), "here")
        shown = out.getvalue()
        assert [word for word in ("p50", "p99", "oldest", "Bootstrapping", "12,345") if word not in shown] == []
        assert "…" not in shown

    def test_counts_are_those_of_the_table(self, table, run):
        found = json.loads(run("stats", "--json").stdout)
        assert found["counts"] == {status.name: count for status, count in table.counts().items()}
        assert found["synced"] is True
        assert found["failures"]["transfer"] == 1

    def test_refused_writes_have_a_rate_and_the_last(self, store, run):
        store.update_status(1, BOOT)
        with store.lease("prefill-0"):
            handle = store.open(7)
            with StatusStore.from_url(store_url(store), namespace="prod") as other:
                other.clear(7)
            assert handle.update(MOVE).outcome is Outcome.STALE
            shown = run("stats").stdout
        assert "refused 0.0/s over " in shown
        assert " s   1 (stale 1) since " in shown
        assert "stale, room 7, from prefill-0" in shown

    def test_abort_in_own_words_counts_as_aborted(self, table, run):
        assert run("abort", "1", "--reason", "stuck, drill").exit_code == 0
        assert "aborted 1" in run("stats").stdout


class TestNamespaces:
    def test_every_namespace_is_listed(self, url, table):
        with StatusStore.from_url(url, namespace="other", shards=2, mode="decode") as other:
            other.get(1)
        result = CliRunner().invoke(kvpoll, ["namespaces", "--redis", url])
        lines = [line.split("\t")[:4] for line in result.stdout.splitlines()]
        assert lines[1:] == [["other", "compat", "decode", "2"], ["prod", "compat", "none", "1"]]

    def test_settings_by_hand_stay_on_their_line(self, url, table, client_of):
        client_of.hset("kvpoll:{prod}:settings", "mode", "none\x1b[2J\nforged")
        result = CliRunner().invoke(kvpoll, ["namespaces", "--redis", url])
        assert [line.split("\t")[:3] for line in result.stdout.splitlines()[1:]] == [
            ["prod", "compat", "none\\x1b[2J\\nforged"]
        ]

    def test_no_namespace_is_not_0(self, url):
        assert CliRunner().invoke(kvpoll, ["namespaces", "--redis", url]).exit_code == 1

    def test_server_away_is_one_sentence(self):
        result = CliRunner().invoke(kvpoll, ["namespaces", "--redis", f"redis://127.0.0.1:{real.free_port()}"])
        assert (result.exit_code, result.output.count("\n")) == (1, 1)
        assert "namespaces: no answer from redis://127.0.0.1" in result.output

    def test_refusal_names_the_server(self, url):
        scheme, _, at = url.partition("://")
        result = CliRunner().invoke(kvpoll, ["namespaces", "--redis", f"{scheme}://nobody:s3cr3t@{at}"])
        assert (result.exit_code, result.output.count("\n")) == (1, 1)
        assert result.stderr.startswith("Error: namespaces: the server refused: WRONGPASS")
        assert result.stderr.endswith(f"; server: {scheme}://***@{at}\n")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_printed_for_each_shell(shell):
    result = CliRunner().invoke(kvpoll, ["completion", shell])
    assert (result.exit_code, "_KVPOLL_COMPLETE" in result.stdout) == (0, True)


def _now(store):
    """The server's time: that of a change that was just made."""
    store.update_status(99, BOOT)
    at = store.history(99)[-1].at
    store.clear(99)
    return at


@pytest.fixture
def client_of(watched, url):
    return watched[0]
