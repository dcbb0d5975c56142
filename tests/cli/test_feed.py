"""kvpoll tail and kvpoll history."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import signal

from click.testing import CliRunner
from rich.console import Console

from chaos.proxy import Proxy
from redis_kvpoll import Change, FeedGap, KVPoll, StatusStore
from redis_kvpoll.cli import rows, terminal
from redis_kvpoll.cli.app import kvpoll
from redis_kvpoll.cli.commands import feed
from redis_kvpoll.protocol.periods import periods
from tests.support import real
from tests.support.tailing import Tailing

ROOM = 2**64 - 1


def run(*args):
    return CliRunner().invoke(kvpoll, args, catch_exceptions=False)


def change(at, status, reason=None, ttl=None):
    return Change(f"{int(at * 1000)}-0", at, 1, status, reason, ttl)


def shown(changes, exists=False, now=1000.0):
    """(since, state, duration, reason, touches, whether it is current) of each period."""
    return [
        (period.since, period.state, None if period.until is None else period.until - period.since, *period[3:6])
        for period in periods(changes, exists, now)
    ]


class TestPeriods:
    def test_statuses_last_until_the_next_change(self):
        changes = [
            change(10, KVPoll.Bootstrapping, ttl=900),
            change(12, KVPoll.Transferring, ttl=900),
            change(20, KVPoll.Failed, "why", ttl=300),
            change(21, None),
        ]
        assert shown(changes) == [
            (10, "Bootstrapping", 2, "", 0, False),
            (12, "Transferring", 8, "", 0, False),
            (20, "Failed", 1, "why", 0, False),
            (21, "cleared", None, "", 0, False),
        ]

    def test_touches_are_counted_and_reasons_are_not(self):
        changes = [
            change(10, KVPoll.Transferring, ttl=900),
            *[change(at, KVPoll.Transferring, ttl=900) for at in (11, 12)],
            change(13, KVPoll.Transferring, "cause"),
        ]
        assert shown(changes, exists=True, now=20) == [(10, "Transferring", 10, "cause", 2, True)]

    def test_local_clock_behind_the_server_lasts_zero(self):
        assert shown([change(10, KVPoll.Success, ttl=300)], exists=True, now=5) == [(10, "Success", 0, "", 0, True)]

    def test_expiry_follows_from_the_ttl(self):
        changes = [
            change(10, KVPoll.Transferring, ttl=900),
            change(500, KVPoll.Transferring, ttl=900),
            change(600, KVPoll.Transferring, "cause"),
        ]
        assert shown(changes, now=5000) == [
            (10, "Transferring", 1390, "cause", 1, False),
            (1400, "expired", None, "", 0, False),
        ]

    def test_expired_room_opened_again_has_two_periods(self):
        changes = [change(10, KVPoll.Bootstrapping, ttl=5), change(20, KVPoll.Bootstrapping, ttl=5), change(21, None)]
        assert shown(changes) == [
            (10, "Bootstrapping", 5, "", 0, False),
            (15, "expired", None, "", 0, False),
            (20, "Bootstrapping", 1, "", 0, False),
            (21, "cleared", None, "", 0, False),
        ]

    def test_cleared_room_opened_again_has_two_periods(self):
        changes = [change(10, None), change(11, KVPoll.Success, ttl=300)]
        assert [row[:3] for row in shown(changes, exists=True, now=12)] == [(10, "cleared", None), (11, "Success", 1)]

    def test_deleted_room_opened_again_has_two_periods(self):
        """Its opening alone tells: the feed has no change for a deletion, and the TTL has not ended."""
        changes = [change(at, KVPoll.Bootstrapping, ttl=900)._replace(opens=at in (10, 20)) for at in (10, 15, 20, 25)]
        lived = periods(changes, True, 30)
        assert [(one.since, one.until, one.touches, one.is_current) for one in lived] == [
            (10, 20, 1, False),
            (20, 30, 1, True),
        ]

    def test_room_gone_without_a_change_is_shown_as_gone(self):
        changes = [change(10, KVPoll.Success, ttl=300)]
        assert [row[:3] for row in shown(changes, now=20)] == [(10, "Success", None), (20, "gone", None)]


def print_history(changes, exists, now):
    feed.print_history([row for period in periods(changes, exists, now) for row in rows.period_rows(period)])


class TestHistory:
    def test_history_into_a_pipe_is_tab_separated(self, url, store):
        store.update_status(ROOM, 1)
        store.touch([ROOM])
        store.abort(ROOM, "peer\x1b[31m gone\n")
        store.update_status(8, 1)
        result = run("history", str(ROOM), "--redis", url, "-n", "prod")
        assert result.exit_code == 0
        header, first, second = [line.split("\t") for line in result.output.splitlines()]
        assert header == ["since", "status", "lasted", "reason", "note"]
        assert (first[1], first[4]) == ("Bootstrapping", "touched once")
        assert (second[1], second[3], second[4]) == ("Failed", r"peer\x1b[31m gone\n", "until now")
        assert re.fullmatch(r"[\d.]+ m?s", first[2])
        assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d", first[0])

    def test_history_as_json_is_one_document(self, url, store):
        store.update_status(ROOM, 1)
        store.clear(ROOM)
        found = json.loads(run("history", str(ROOM), "--json", "--redis", url, "-n", "prod").output)
        assert (found["namespace"], found["room"]) == ("prod", ROOM)
        assert [(c["room"], c["status"], c["reason"], c["ttl"]) for c in found["changes"]] == [
            (ROOM, "Bootstrapping", None, 900.0),
            (ROOM, None, None, None),
        ]

    def test_history_as_json_of_an_unknown_room_fails_too(self, url, store):
        store.update_status(ROOM, 1)
        result = run("history", "5", "--json", "--redis", url, "-n", "prod")
        assert (result.exit_code, json.loads(result.stdout)["changes"]) == (1, [])
        assert "has no changes of room 5" in result.stderr

    def test_history_of_a_corrupt_room_is_shown(self, url, store, watched):
        store.update_status(7, 3)
        watched[0].hset("kvpoll:{prod}:room:7", "status", "Banana")
        assert "Transferring" in run("history", "7", "--redis", url, "-n", "prod").output

    def test_history_without_changes_explains_the_feed(self, url, store, watched):
        store.update_status(7, 1)
        watched[0].delete("kvpoll:{prod}:feed")
        result = run("history", "7", "--redis", url, "-n", "prod")
        assert result.exit_code == 1
        assert "has no changes of room 7, though the room exists" in result.output
        assert "keeps the last 100,000 entries" in result.output
        assert "has no changes of room 8; it keeps" in run("history", "8", "--redis", url, "-n", "prod").output

    def test_namespace_without_a_feed_is_an_error(self, url):
        with StatusStore.from_url(url, namespace="prod", feed_length=0) as store:
            store.update_status(1, 1)
        for words in (("history", "1"), ("tail",)):
            result = run(*words, "--redis", url, "-n", "prod")
            assert (result.exit_code, "was opened with feed_length=0" in result.output) == (1, True)

    def test_missing_namespace_is_not_created(self, url, watched):
        for words in (("history", "1"), ("tail",)):
            result = run(*words, "--redis", url, "-n", "nobody")
            assert (result.exit_code, "namespace 'nobody' not found" in result.output) == (1, True)
        assert watched[0].dbsize() == 0

    def test_history_on_a_terminal_has_no_empty_column(self, monkeypatch):
        out = io.StringIO()
        monkeypatch.setattr(terminal, "Console", lambda **_: Console(file=out, width=60, force_terminal=True))
        monkeypatch.setattr(feed.sys.stdout, "isatty", lambda: True)
        print_history([change(10, KVPoll.Bootstrapping, ttl=900), change(12, None)], False, 20)
        assert "2.0 s" in out.getvalue()
        assert "cleared" in out.getvalue()
        assert "reason" not in out.getvalue()
        assert "note" not in out.getvalue()

    def test_history_on_a_narrow_terminal_cuts_nothing(self, monkeypatch):
        out = io.StringIO()
        monkeypatch.setattr(terminal, "Console", lambda **_: Console(file=out, width=50, force_terminal=True))
        monkeypatch.setattr(feed.sys.stdout, "isatty", lambda: True)
        changes = [
            change(10, KVPoll.WaitingForInput, ttl=900),
            change(250, KVPoll.Failed, "decode worker gone", ttl=300),
        ]
        print_history(changes, True, 260)
        shown = out.getvalue()
        assert "…" not in shown
        assert all(word in shown for word in ("WaitingForInput", "4 min", "decode worker gone", "until now"))


class TestTail:
    def test_tail_into_a_pipe_prints_each_line_at_once(self, url, store):
        store.update_many({7: 1, ROOM: 1})
        with Tailing(url, "--last", "1") as tailing:
            assert tailing.line().split("\t")[1:] == [str(ROOM), "Bootstrapping", "\n"]
            store.abort(7, "why\x1b[2J")
            assert tailing.line().split("\t")[1:] == ["7", "Failed", "why\\x1b[2J\n"]
            store.clear(7)
            assert tailing.line().split("\t")[1:] == ["7", "cleared", "\n"]
            tailing.process.send_signal(signal.SIGINT)
            assert tailing.end() == (130, "")

    def test_tail_as_json_prints_gaps_too(self, url, store, watched):
        store.update_status(7, 1)
        with Tailing(url, "--json") as tailing:
            first = json.loads(tailing.line())
            assert (first["room"], first["status"], first["ttl"]) == (7, "Bootstrapping", 900.0)
            watched[0].delete("kvpoll:{prod}:feed")
            assert json.loads(tailing.line()) == {"gap": {"after": first["id"], "before": None}}

    def test_tail_says_that_server_is_away_and_goes_on(self):
        with (
            real.World("sync") as world,
            Proxy(world.serve().socket) as proxy,
            StatusStore.from_url(proxy.url, namespace="prod") as store,
        ):
            store.update_status(7, 1)
            with Tailing(proxy.url) as tailing:
                assert "Bootstrapping" in tailing.line()
                proxy.refusing = True
                proxy.cut()
                said = tailing.process.stderr.readline()
                assert re.match(r"tail of namespace 'prod': no answer within .*; it goes on when", said)
                proxy.refusing = False
                store.update_status(7, 3)
                assert "Transferring" in tailing.line()
                tailing.process.send_signal(signal.SIGINT)
                assert tailing.end() == (130, "")

    def test_closed_pipe_ends_tail_silently(self, url, store):
        store.update_status(7, 1)
        with Tailing(url) as tailing:
            tailing.line()
            tailing.process.stdout.close()
            room = iter(range(10**6))
            real.until(lambda: store.update_status(next(room), 2) and tailing.process.poll() is not None, "it ends")
            assert tailing.process.stderr.read() == ""

    def test_tail_on_a_terminal_has_columns_and_colours(self, url, store):
        store.update_status(ROOM, 3)
        controller, terminal = pty.openpty()
        try:
            with Tailing(url, stdout=terminal) as tailing:
                line = b""
                while line.count(b"\n") < 2:
                    line += os.read(controller, 1000)
                tailing.process.send_signal(signal.SIGINT)
                assert tailing.end() == (130, "")
        finally:
            os.close(controller)
            os.close(terminal)
        text = line.decode()
        assert f"{ROOM}  \x1b[" in text, "the room is whole, and the status has a colour"
        day, change = re.sub(r"\x1b\[[\d;]*m", "", text).splitlines()[:2]
        assert re.fullmatch(r"-- \d{4}-\d\d-\d\d \([+-]\d\d:\d\d\) --", day)
        assert re.fullmatch(rf"\d\d:\d\d:\d\d\.\d{{3}}  {ROOM}  Transferring", change)

    def test_unreachable_server_is_an_error(self, monkeypatch):
        monkeypatch.setattr("redis_kvpoll.cli.options.DEADLINE", 0.05)
        result = run("tail", "--redis", f"redis://127.0.0.1:{real.free_port()}")
        assert (result.exit_code, "no answer within 0.05 s" in result.output) == (1, True)

    def test_each_day_is_printed_once_above_its_changes(self, monkeypatch):
        out = io.StringIO()
        monkeypatch.setattr(terminal, "Console", lambda **_: Console(file=out, width=80))
        monkeypatch.setattr(feed.sys.stdout, "isatty", lambda: True)
        day = 86400.0
        changes = [change(at, KVPoll.Success) for at in (5 * day, 5 * day + 1, 9 * day, 9 * day + 1)]
        feed.print_changes(iter(changes), wants_json=False)
        assert [line.startswith("-- ") for line in out.getvalue().splitlines()] == [True, False, False] * 2

    def test_line_with_a_rank_fits_into_80_columns(self):
        longest = Change("1-1", 1e9, 2**64 - 1, KVPoll.WaitingForInput, None, 9.0, 15, KVPoll.WaitingForInput)
        assert len(terminal.change_line(longest).plain) <= 80

    def test_gap_is_printed_as_a_line(self):
        assert "changes may be missing here" in terminal.change_line(FeedGap("1-1", None)).plain
