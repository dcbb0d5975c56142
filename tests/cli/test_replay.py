"""kvpoll replay: its options, its report on any terminal, its exit statuses, and what it says to look at next."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import re
import select
import shlex
import struct
import sys
import termios
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from redis_kvpoll.cli.app import kvpoll
from redis_kvpoll.cli.commands import replay as replay_command
from redis_kvpoll.cli.report import as_json, render
from redis_kvpoll.replay import runner
from redis_kvpoll.replay.pacing import HostTooSlowError
from redis_kvpoll.replay.report import Latency
from tests.support import pace, real
from tests.support.reports import report

SPEED = f"--speed={60 / pace.factor():g}"
SMALL = ("--limit=20", SPEED, "--crash-rate=0", "--late-rate=0.3", "--reuse-rate=0.3", "--seed=4")


def run(*args):
    return CliRunner().invoke(kvpoll, args, catch_exceptions=False)


def printed(found, width=80):
    out = io.StringIO()
    console = Console(file=out, width=width, highlight=False)
    for part in render(found):
        console.print(part)
    return out.getvalue()


class TestCommand:
    def test_memory_url_is_refused(self):
        result = run("replay", "--redis", "memory://")
        assert (result.exit_code, "inside one process" in result.output) == (2, True)

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
        result = run("replay", "--redis", url, "--limit", "20", SPEED, "--crash-rate", "0", "--json")
        document = json.loads(result.stdout)
        assert result.exit_code == 0
        assert document["requests"] == 20
        assert sum(document["results"].values()) == 20
        assert document["violations"] == []

    def test_too_slow_machine_has_a_status_of_its_own(self, monkeypatch, url):
        """It is not that a promise was broken."""

        def starved(run, progress):
            raise HostTooSlowError("no CPU", run.plan.speed, 31.0)

        monkeypatch.setattr(runner, "replay", starved)
        result = run("replay", "--redis", url, "--speed", "60")
        assert result.exit_code == replay_command.HOST_TOO_SLOW == 4
        assert "this machine is too slow for --speed 60; try --speed 20" in result.output

    def test_timeouts_without_a_cause_are_inconclusive(self, monkeypatch, url):
        found = report(timed_out_for_nothing=2, results={"timed out": 2}, requests=2, speed=60.0, carried_speed=31.0)
        monkeypatch.setattr(runner, "replay", lambda run, progress: found)
        result = run("replay", "--redis", url)
        assert result.exit_code == replay_command.HOST_TOO_SLOW
        assert "INCONCLUSIVE: this machine is too slow for --speed 60; try --speed 20" in result.output
        assert "2 requests timed out; no promise was broken" in result.output

    def test_broken_promise_counts_more_than_a_slow_machine(self, monkeypatch, url):
        monkeypatch.setattr(runner, "replay", lambda run, progress: report(timed_out_for_nothing=2, unfinished=1))
        assert run("replay", "--redis", url).exit_code == 3


LATENCY = Latency.of([0.001, 0.1])
WHOLE = {
    "lease": 5.0, "cross_contaminated": 0, "requests": 12_000, "crashes": 6, "reused": 1_200, "orphaned": 209,
    "results": {"success": 10_600, "aborted": 360, "crashed": 1_000, "failed": 20, "timed out": 20},
    "late": {"Failed": {"STALE": 500}, "Success": {"STALE": 501}, "Transferring": {"STALE": 502}},
    "updates": LATENCY, "polls": LATENCY, "mirror_polls": LATENCY, "rooms_polled": 219_036,
    "rooms_mirrored": 219_036, "plain_dict": (169, 55), "speed": 60.0, "carried_speed": 31.7,
}  # fmt: skip


class TestReport:
    @pytest.mark.parametrize("width", [80, 120])
    def test_no_row_is_cut_or_wrapped(self, width):
        text = printed(report(**WHOLE), width)
        for row in (
            r"crashed +1,000 +8.3%  on purpose: with one of the 6 killed workers",
            r"PASS  a killed worker's rooms fail within 7 s +209 rooms in 0.0 s",
            r"PASS  a cleared room stays cleared +0 rooms came back  169 came back",
            r"PASS  a message changes no other request +0 requests hit +55 hit",
            r"poll, server +2 +219,036 +219,036 +1.00 +100.00 +100.00 +100.00",
            r"a plain dict: the same messages by SGLang's own update_status, one dict a side",
            r"This machine carried 32 times the trace's speed, not 60: requests had to wait.",
            r"PASS: 5 promises tested and kept",
        ):
            assert re.search(f"^{row} *$", text, re.MULTILINE), (row, text)

    def test_kill_on_purpose_is_explained(self):
        assert "on purpose: with the killed worker" in printed(report(crashes=1, results={"crashed": 1}))

    def test_result_that_did_not_occur_has_no_row(self):
        text = printed(report(results={"success": 1}))
        assert "success" in text
        assert not any(word in text for word in ("crashed", "timed out", "aborted"))

    def test_speed_that_was_carried_is_not_mentioned_twice(self):
        assert "This machine" not in printed(report(speed=60.0, carried_speed=60.0))

    def test_late_sweep_is_not_passed_over(self):
        late = {"oldest_orphan": 9.0}
        assert "no other worker got the CPU" in printed(report(**(WHOLE | late)))
        assert "no other worker got the CPU" not in printed(report(**(WHOLE | late | {"orphans_past_lease": 1})))

    def test_broken_promise_is_marked_and_named(self):
        text = printed(report(**(WHOLE | {"unfinished": 2, "leaked": {"Success": 1}})))
        assert "FAIL  every request has a result" in text
        assert "FAIL: 2 of 5 promises broken" in text
        assert "2 requests unfinished" in text
        assert "1 rooms leaked through a late Success" in text

    def test_report_explains_every_finding(self):
        late = {"Transferring": {"CREATED": 2000, "ADVANCED": 1}, "Failed": {"SKIPPED": 7, "FAILED": 1}}
        found = report(
            policy="compat", late=late, leaked={"Success": 2}, cross_contaminated=1, cross_contamination={"changed": 1}
        )
        text = printed(found).replace(" \n", " ")
        for words in (
            "late messages",
            "advanced   failed\n",
            "a later  a later\n",
            "2 by a late Success",
            "1 changed",
            "generations do",
            "-: plain writes with policy compat do not promise it",
        ):
            assert words in text
        assert as_json(found)["late_failed_skipped"] == 7
        assert as_json(found)["promises"]["a cleared room stays cleared"] == "not promised"


class TestWhatToLookAtNext:
    def test_commands_run_as_printed(self, url):
        result = run("replay", "--redis", url, *SMALL)
        assert result.exit_code == 0, result.output
        commands = re.findall(r"^    kvpoll (replay .*)$", result.stdout, re.MULTILINE)
        assert [re.match(r"replay (--[a-z-]+)", command)[1] for command in commands] == ["--plain", "--kill-redis"]
        for command in commands:
            again = run(*shlex.split(command))
            assert (again.exit_code, again.stdout.startswith("20 requests in ")) == (0, True), again.output
            assert "seed 4" in again.stdout

    def test_slow_machine_is_asked_for_less(self, monkeypatch, url):
        monkeypatch.setattr(runner, "replay", lambda run, progress: report(speed=60.0, carried_speed=31.0))
        assert "--speed=20 --seed=" in run("replay", "--redis", url, "--speed", "60").stdout

    def test_password_is_in_no_command(self, monkeypatch):
        monkeypatch.setattr(runner, "replay", lambda run, progress: report())
        assert "s3cret" not in run("replay", "--redis", "redis://:s3cret@localhost", *SMALL).output

    def test_without_a_terminal_nothing_is_kept(self, monkeypatch, url):
        monkeypatch.setattr(runner, "replay", lambda run, progress: report())
        assert "Press Enter" not in run("replay", "--redis", url, "--keep").output

    @pytest.mark.parametrize("key", [b"\n", b"\x04", b"\x03"])
    def test_table_is_there_until_a_key_is_pressed(self, key):
        """Enter, the end of the input, or Ctrl-C: the verdict of the replay stands."""
        with Terminal(sys.executable, "-m", "redis_kvpoll.cli", "replay", "--keep", *SMALL) as terminal:
            text = terminal.read_until("Press Enter to end.")
            commands = re.findall(
                r"^  kvpoll ((?:ls|owners|history) .*)$", text.partition("The table is")[2], re.MULTILINE
            )
            assert [command.partition(" ")[0] for command in commands] == ["ls", "owners", "history"]
            found = {command.partition(" ")[0]: run(*shlex.split(command)) for command in commands}
            assert {result.exit_code for result in found.values()} == {0}
            assert "Bootstrapping" in found["history"].output
            terminal.press(key)
            assert terminal.wait() == 0
        socket = Path(re.search(r"unix://(\S+)", text)[1])
        assert not socket.parent.exists()


class Terminal:
    """A command on a terminal of its own, 80 columns wide."""

    def __init__(self, *command):
        self._text = ""
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            real.hear_signals()
            os.execvp(command[0], command)  # noqa: S606
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 80, 0, 0))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.close(self._fd)  # which ends the command, too

    def read_until(self, words):
        end = time.monotonic() + 300
        while words not in self._text and time.monotonic() < end:
            if not self._read():
                break
        assert words in self._text, self._text
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self._text.replace("\r\n", "\n"))

    def press(self, key):
        os.write(self._fd, key)

    def wait(self):
        while self._read():
            pass
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def _read(self):
        if not select.select([self._fd], [], [], 300)[0]:
            return False
        try:
            self._text += os.read(self._fd, 65536).decode(errors="replace")
        except OSError:  # the other end is closed
            return False
        return True
