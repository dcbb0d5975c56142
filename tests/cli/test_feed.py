"""kvpoll tail and kvpoll history."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import signal
import subprocess
import sys

import pytest
from click.testing import CliRunner
from rich.console import Console

from redis_kvpoll import Change, FeedGap, KVPoll, StatusStore
from redis_kvpoll.cli import feed as feed_view
from redis_kvpoll.cli.app import kvpoll
from tests.support import pace, real

ROOM = 2**63 - 1


@pytest.fixture
def store(url):
    with StatusStore.from_url(url, namespace="prod") as store:
        yield store


def run(*args):
    return CliRunner().invoke(kvpoll, args, catch_exceptions=False)


def change(at, status, reason=None, ttl=None):
    return Change(f"{int(at * 1000)}-0", at, 1, status, reason, ttl)


def shown(changes, is_there=False, now=1000.0):
    """(since, what, how long, reason, touched, is it so now) of each row."""
    return [
        (stay.since, stay.what, None if stay.until is None else stay.until - stay.since, *stay[3:6])
        for stay in feed_view.stays(changes, is_there, now)
    ]


class TestHowLongEachStatusLasted:
    def test_from_first_to_last(self):
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

    def test_touches_are_counted_and_a_reason_is_none(self):
        changes = [
            change(10, KVPoll.Transferring, ttl=900),
            *[change(at, KVPoll.Transferring, ttl=900) for at in (11, 12)],
            change(13, KVPoll.Transferring, "cause"),
        ]
        assert shown(changes, is_there=True, now=20) == [(10, "Transferring", 10, "cause", 2, True)]

    def test_our_clock_may_be_behind_the_servers(self):
        assert shown([change(10, KVPoll.Success, ttl=300)], is_there=True, now=5) == [(10, "Success", 0, "", 0, True)]

    def test_an_expiry_follows_from_the_ttl(self):
        changes = [
            change(10, KVPoll.Transferring, ttl=900),
            change(500, KVPoll.Transferring, ttl=900),
            change(600, KVPoll.Transferring, "cause"),
        ]
        assert shown(changes, now=5000) == [
            (10, "Transferring", 1390, "cause", 1, False),
            (1400, "expired", None, "", 0, False),
        ]

    def test_an_expired_room_that_was_opened_again(self):
        changes = [change(10, KVPoll.Bootstrapping, ttl=5), change(20, KVPoll.Bootstrapping, ttl=5), change(21, None)]
        assert shown(changes) == [
            (10, "Bootstrapping", 5, "", 0, False),
            (15, "expired", None, "", 0, False),
            (20, "Bootstrapping", 1, "", 0, False),
            (21, "cleared", None, "", 0, False),
        ]

    def test_a_cleared_room_that_was_opened_again(self):
        changes = [change(10, None), change(11, KVPoll.Success, ttl=300)]
        assert [row[:3] for row in shown(changes, is_there=True, now=12)] == [(10, "cleared", None), (11, "Success", 1)]

    def test_a_room_that_went_without_a_word(self):
        changes = [change(10, KVPoll.Success, ttl=300)]
        assert [row[:3] for row in shown(changes, now=20)] == [(10, "Success", None), (20, "gone", None)]


class TestHistory:
    def test_into_a_pipe(self, url, store):
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
        assert re.fullmatch(r"\d+\.\d{3} s", first[2])
        assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d", first[0])

    def test_as_json(self, url, store):
        store.update_status(ROOM, 1)
        store.clear(ROOM)
        found = json.loads(run("history", str(ROOM), "--json", "--redis", url, "-n", "prod").output)
        assert [(c["room"], c["status"], c["reason"], c["ttl"]) for c in found] == [
            (ROOM, "Bootstrapping", None, 900.0),
            (ROOM, None, None, None),
        ]
        assert json.loads(run("history", "5", "--json", "--redis", url, "-n", "prod").output) == []

    def test_of_a_room_with_a_bad_key(self, url, store, watched):
        store.update_status(7, 3)
        watched[0].hset("kvpoll:{prod}:room:7", "status", "Banana")
        assert "Transferring" in run("history", "7", "--redis", url, "-n", "prod").output

    def test_when_nothing_is_left(self, url, store, watched):
        store.update_status(7, 1)
        watched[0].delete("kvpoll:{prod}:feed")
        result = run("history", "7", "--redis", url, "-n", "prod")
        assert result.exit_code == 1
        assert "has nothing of room 7, though the room is there" in result.output
        assert "keeps the last 100,000 entries" in result.output
        assert "has nothing of room 8; it keeps" in run("history", "8", "--redis", url, "-n", "prod").output

    def test_where_there_is_no_feed(self, url):
        with StatusStore.from_url(url, namespace="prod", feed_length=0) as store:
            store.update_status(1, 1)
        for words in (("history", "1"), ("tail",)):
            result = run(*words, "--redis", url, "-n", "prod")
            assert (result.exit_code, "was opened with feed_length=0" in result.output) == (1, True)

    def test_a_namespace_that_nobody_uses_stays_unused(self, url, watched):
        for words in (("history", "1"), ("tail",)):
            result = run(*words, "--redis", url, "-n", "nobody")
            assert (result.exit_code, "Nobody uses namespace 'nobody'" in result.output) == (1, True)
        assert watched[0].dbsize() == 0

    def test_on_a_terminal_no_column_is_empty(self, monkeypatch):
        out = io.StringIO()
        monkeypatch.setattr(feed_view, "Console", lambda **_: Console(file=out, width=60, force_terminal=True))
        monkeypatch.setattr(feed_view.sys.stdout, "isatty", lambda: True)
        rows = list(feed_view.stays([change(10, KVPoll.Bootstrapping, ttl=900), change(12, None)], False, 20))
        feed_view._print_history([feed_view._cells(stay) for stay in rows])
        assert "2.000 s" in out.getvalue()
        assert "cleared" in out.getvalue()
        assert "reason" not in out.getvalue()
        assert "note" not in out.getvalue()

    def test_on_a_narrow_terminal_no_time_and_no_reason_is_cut(self, monkeypatch):
        out = io.StringIO()
        monkeypatch.setattr(feed_view, "Console", lambda **_: Console(file=out, width=50, force_terminal=True))
        monkeypatch.setattr(feed_view.sys.stdout, "isatty", lambda: True)
        rows = [change(10, KVPoll.WaitingForInput, ttl=900), change(250, KVPoll.Failed, "decode worker gone", ttl=300)]
        feed_view._print_history([feed_view._cells(stay) for stay in feed_view.stays(rows, True, 260)])
        shown = out.getvalue()
        assert "…" not in shown
        assert all(word in shown for word in ("WaitingForInput", "240.000 s", "decode worker gone", "until now"))


class Tailing:
    """A kvpoll tail in a process of its own; ``stdout`` is where its lines are read."""

    def __init__(self, url, *options, stdout=subprocess.PIPE):
        words = ("-m", "redis_kvpoll.cli", "tail", "--redis", url, "-n", "prod", *options)
        self.process = subprocess.Popen(
            [sys.executable, *words],
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=real.hear_ctrl_c,
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate(timeout=pace.seconds(30))

    def line(self):
        return self.process.stdout.readline()

    def end(self):
        """(exit status, what it said to stderr) at its end."""
        _, said = self.process.communicate(timeout=pace.seconds(30))
        return self.process.returncode, said


class TestTail:
    def test_into_a_pipe_each_line_at_once(self, url, store):
        store.update_many({7: 1, ROOM: 1})
        with Tailing(url, "--last", "1") as tailing:
            assert tailing.line().split("\t")[1:] == [str(ROOM), "Bootstrapping", "\n"]
            store.abort(7, "why\x1b[2J")
            assert tailing.line().split("\t")[1:] == ["7", "Failed", "why\\x1b[2J\n"]
            store.clear(7)
            assert tailing.line().split("\t")[1:] == ["7", "cleared", "\n"]
            tailing.process.send_signal(signal.SIGINT)
            assert tailing.end() == (130, "")

    def test_as_json(self, url, store, watched):
        store.update_status(7, 1)
        with Tailing(url, "--json") as tailing:
            first = json.loads(tailing.line())
            assert (first["room"], first["status"], first["ttl"]) == (7, "Bootstrapping", 900.0)
            watched[0].delete("kvpoll:{prod}:feed")
            assert json.loads(tailing.line()) == {"gap": {"after": first["id"], "before": None}}

    def test_a_reader_that_goes_away_ends_it_without_a_word(self, url, store):
        store.update_status(7, 1)
        with Tailing(url) as tailing:
            tailing.line()
            tailing.process.stdout.close()
            room = iter(range(10**6))
            real.until(lambda: store.update_status(next(room), 2) and tailing.process.poll() is not None, "it ends")
            assert tailing.process.stderr.read() == ""

    def test_on_a_terminal(self, url, store):
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
        assert f"{ROOM}  \x1b[" in text, "a room is never cut, and the status has a colour"
        day, change = re.sub(r"\x1b\[[\d;]*m", "", text).splitlines()[:2]
        assert re.fullmatch(r"-- \d{4}-\d\d-\d\d --", day)
        assert re.fullmatch(rf"\d\d:\d\d:\d\d\.\d{{3}}  {ROOM}  Transferring", change)

    def test_a_server_that_is_not_there(self):
        result = run("tail", "--redis", f"redis://127.0.0.1:{real.free_port()}")
        assert (result.exit_code, "no answer within 2 s" in result.output) == (1, True)

    def test_each_day_stands_once_above_its_changes(self, monkeypatch):
        out = io.StringIO()
        monkeypatch.setattr(feed_view, "Console", lambda **_: Console(file=out, width=80))
        monkeypatch.setattr(feed_view.sys.stdout, "isatty", lambda: True)
        day = 86400.0
        changes = [change(at, KVPoll.Success) for at in (5 * day, 5 * day + 1, 9 * day, 9 * day + 1)]
        feed_view._print_changes(iter(changes), wants_json=False)
        assert [line.startswith("-- ") for line in out.getvalue().splitlines()] == [True, False, False] * 2

    def test_a_line_with_a_rank_fits_into_80(self):
        longest = feed_view.Change("1-1", 1e9, 2**63 - 1, KVPoll.WaitingForInput, None, 9.0, 15, KVPoll.WaitingForInput)
        assert len(feed_view._line(longest).plain) <= 80

    def test_the_line_of_a_gap(self):
        assert "changes may be missing here" in feed_view._line(FeedGap("1-1", None)).plain
