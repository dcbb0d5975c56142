"""kvpoll's output for rooms with ranks, owners and requests."""

from __future__ import annotations

import io
import json
import time

import pytest
from click.testing import CliRunner
from rich.console import Console

from redis_kvpoll import Change, FeedGap, KVPoll, StatusStore
from redis_kvpoll.cli import rows, terminal
from redis_kvpoll.cli.app import kvpoll
from redis_kvpoll.cli.commands import feed
from redis_kvpoll.protocol.feed import changes
from redis_kvpoll.protocol.periods import periods

BOOT, INPUT, MOVE, DONE, FAIL = (KVPoll(number) for number in (1, 2, 3, 4, 0))
ROOM = 2**64 - 1


@pytest.fixture
def ranks(url):
    stores = [StatusStore.from_url(url, namespace="prod", rank=rank, world_size=5) for rank in range(3)]
    yield stores
    for store in stores:
        store.close()


@pytest.fixture
def owned(ranks):
    """A room opened for a request, under a lease."""
    with ranks[0].lease("prefill-0"):
        for store in ranks:
            store.open(ROOM, request="rid-\u2603")
        yield


def run(*args):
    return CliRunner().invoke(kvpoll, args, catch_exceptions=False)


def narrow(monkeypatch, width):
    out = io.StringIO()
    monkeypatch.setattr(terminal, "Console", lambda **_: Console(file=out, width=width))
    return out


class TestShow:
    def test_show_lists_ranks_owner_and_request(self, url, ranks, owned):
        for store in ranks:
            store.update_status(ROOM, MOVE)
        ranks[0].abort(ROOM, "why")
        ranks[2].clear(ROOM)
        shown = run("show", str(ROOM), "--redis", url, "-n", "prod").output.partition("\n\n")[0].splitlines()
        words = [line.split(maxsplit=1 + line.startswith(("rank", "world", "failed", "missing"))) for line in shown]
        fields = {" ".join(found[:-1]): found[-1].strip() for found in words}
        assert fields["status"] == "Failed"
        assert fields["failed by"] == "prefill-0 rank 0"
        assert (fields["request"], fields["owner"]) == ("rid-\u2603", "prefill-0")
        assert int(fields["generation"]) == ranks[0].entry(ROOM).generation
        assert fields["world size"] == "5"
        assert [fields[f"rank {rank}"] for rank in range(3)] == ["Failed", "Failed", "Failed, cleared"]
        assert "missing ranks  3-4" in "\n".join(shown)

    def test_show_without_ranks_does_not_mention_them(self, url):
        with StatusStore.from_url(url, namespace="prod") as store:
            store.update_status(7, MOVE)
        output = run("show", "7", "--redis", url, "-n", "prod").output
        assert "generation" in output
        for word in ("rank", "world", "missing", "owner", "request", "failed by"):
            assert word not in output

    @pytest.mark.parametrize(
        ("numbers", "text"), [([], ""), ([4], "4"), ([0, 1, 2, 5, 7, 8], "0-2, 5, 7-8"), ([1, 3], "1, 3")]
    )
    def test_missing_ranks_are_printed_as_ranges(self, numbers, text):
        assert terminal.ranges(numbers) == text


class TestLs:
    def test_owner_column_is_shown_if_a_room_has_one(self, url, ranks, owned):
        with StatusStore.from_url(url, namespace="prod") as store:
            store.update_status(7, DONE)
            header, *lines = [line.split("\t") for line in run("ls", "--redis", url, "-n", "prod").stdout.splitlines()]
            assert header[-3:] == ["owner", "request", "reason"]
            assert {line[0]: (line[1], *line[-3:]) for line in lines} == {
                "7": ("Success", "", "", ""),
                str(ROOM): ("Bootstrapping", "prefill-0", "rid-\u2603", ""),
            }
            store.clear(ROOM)
        assert "owner" not in run("ls", "--redis", url, "-n", "prod").stdout

    def test_reason_is_the_last_column_on_a_terminal(self, ranks, owned, monkeypatch):
        ranks[0].abort(ROOM, "it is long: " + "why " * 30)
        out = narrow(monkeypatch, 110)
        (row,) = ranks[0].rows()
        lines = [rows.room_line(row, ranks[0].entry(ROOM), time.time())]
        terminal.print_rooms(rows.listed_columns(lines, True), lines)
        assert out.getvalue().splitlines()[0].split()[-2:] == ["owner", "reason"]


class TestChanges:
    @pytest.fixture
    def lived(self, ranks):
        first, second, _ = ranks
        first.update_status(7, BOOT)
        second.update_status(7, MOVE)
        second.update_status(7, FAIL)
        first.clear(7)

    def test_history_has_a_row_for_each_rank(self, url, lived):
        header, *found = [
            line.split("\t") for line in run("history", "7", "--redis", url, "-n", "prod").output.splitlines()
        ]
        assert header == ["since", "status", "rank", "lasted", "reason", "note"]
        assert [(row[1], row[5], row[2]) for row in found] == [
            ("Bootstrapping", "", "0: Bootstrapping"),
            ("", "", "1: Transferring"),
            ("Failed", "until now", "1: Failed"),
            ("", "", "0: cleared"),
        ]

    def test_history_on_a_terminal_fits_into_80_columns(self, ranks, lived, monkeypatch):
        out = narrow(monkeypatch, 80)
        monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
        found = ranks[0].history(7)
        lived = periods(found, True, found[-1].at + 5)
        feed.print_history([row for period in lived for row in rows.period_rows(period)])
        lines = out.getvalue().splitlines()
        assert len(lines) == 5
        assert lines[0].split() == ["since", f"({rows.zone(found[0].at)})", "status", "rank", "lasted", "note"]

    def test_history_as_json_has_the_ranks(self, url, lived):
        found = json.loads(run("history", "7", "--json", "--redis", url, "-n", "prod").output)
        assert [(c["status"], c["rank"], c["rank_status"]) for c in found["changes"]] == [
            ("Bootstrapping", 0, "Bootstrapping"),
            ("Bootstrapping", 1, "Transferring"),
            ("Failed", 1, "Failed"),
            ("Failed", 0, None),
        ]

    def test_tail_appends_the_rank_to_a_line(self, ranks, lived, monkeypatch, capsys):
        found = [change for change in ranks[0].history(7) if not isinstance(change, FeedGap)]
        feed.print_changes(iter(found), wants_json=False)
        lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
        assert [line[2:] for line in lines] == [
            ["Bootstrapping", "", "rank 0: Bootstrapping"],
            ["Bootstrapping", "", "rank 1: Transferring"],
            ["Failed", "", "rank 1: Failed"],
            ["Failed", "", "rank 0: cleared"],
        ]
        assert terminal.change_line(found[1]).plain.split()[-3:] == ["rank", "1:", "Transferring"]

    def test_feed_entry_is_parsed_into_changes(self):
        fields = [b"ttl_ms", b"9000", b"1", b"Failed", b"rank:12", b"Success", b"reason", b"why", b"2", b"absent"]
        assert changes(b"1000-0", fields) == [
            Change("1000-0", 1.0, 1, FAIL, "why", 9.0, 12, DONE),
            Change("1000-0", 1.0, 2, None),
        ]

    @pytest.mark.parametrize("name", [b"rank:", b"rank:x", b"rank:-1", b"rank:99999", b"rank"])
    def test_malformed_rank_is_ignored(self, name):
        assert changes(b"1-0", [name, b"Success", b"1", b"Failed", name, b"Success"])[0].rank is None

    def test_malformed_rank_status_is_ignored(self):
        assert changes(b"1-0", [b"1", b"Failed", b"rank:1", b"Banana"])[0].rank is None
