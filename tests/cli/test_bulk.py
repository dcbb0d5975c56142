"""kvpoll abort and clear of many rooms: which rooms are changed, also while the table changes."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import time

import pytest
from click.testing import CliRunner

from redis_kvpoll import KVPoll, StatusStore
from redis_kvpoll.cli.app import kvpoll
from redis_kvpoll.errors import StoreUnavailableError
from redis_kvpoll.protocol import fenced_commands
from tests.support import pace

BOOT, MOVE, DONE, FAILED = KVPoll.Bootstrapping, KVPoll.Transferring, KVPoll.Success, KVPoll.Failed


class TestHostAheadOfTheServer:
    """The clock of the operator's host is two minutes ahead of the server's."""

    @pytest.fixture(autouse=True)
    def ahead(self, monkeypatch):
        ours = time.time
        monkeypatch.setattr(time, "time", lambda: ours() + 120.0)

    def test_new_room_is_neither_stuck_nor_old(self, store, run):
        store.update_status(1, BOOT)
        for words in (["--stuck"], ["--older-than", "60s"]):
            assert run("abort", *words, "--yes").stdout == "Failed 0 rooms of 0 that matched.\n"
        assert store.get(1) is BOOT

    def test_ages_are_those_of_the_server(self, store, run):
        with store.lease("prefill-0"):
            store.open(1)
            found = [json.loads(run(*words, "--json").stdout) for words in (["ls"], ["show", "1"], ["owners"])]
            listed, shown, owners = found
            cells = dict(zip(*(line.split("\t") for line in run("owners").stdout.splitlines()), strict=True))
        assert max(listed["rooms"][0]["age_seconds"], shown["age_seconds"], shown["timeline"][0]["seconds"]) < 60
        assert abs(owners["at"] - owners["owners"][0]["last_heartbeat_at"]) < 60
        assert "min" not in cells["heartbeat"]

    def test_ttl_that_ends_soon_is_found(self, store, run):
        store.update_status(1, BOOT)
        for seconds, count in ((800, 0), (1000, 1)):
            found = json.loads(run("ls", f"--expiring={seconds}s", "--json").stdout)
            assert found["matching"] == count


class TestOneRoom:
    def test_room_of_unknown_status_is_failed(self, store, run, watched):
        """The rest of it cannot be read: what was done is said all the same."""
        store.update_status(7, MOVE)
        watched[0].hset("kvpoll:{prod}:room:6", "status", "Weird")
        watched[0].expire("kvpoll:{prod}:room:6", 60)
        assert run("abort", "6", "--dry-run").output == "Room 6 is corrupt: abort would fail it.\n"
        result = run("abort", "6")
        assert (result.exit_code, "Room 6 is now Failed: its reason was not read" in result.stdout) == (0, True)
        assert watched[0].hget("kvpoll:{prod}:room:6", "status") == b"Failed"

    def test_room_of_another_type_is_refused_by_the_dry_run_too(self, store, run, watched):
        store.update_status(6, MOVE)
        watched[0].rpush("kvpoll:{prod}:room:7", "x")
        watched[0].expire("kvpoll:{prod}:room:7", 60)
        for words in ([], ["--dry-run"], ["--dry-run", "--json"]):
            result = run("abort", "7", *words)
            assert (result.exit_code, result.stdout) == (1, "")
            assert result.stderr.startswith("Error: abort: room 7 holds a key of another type")
            assert result.stderr.endswith("(here: kvpoll clear 7 -n prod)\n")

    @pytest.mark.parametrize(("command", "what"), [("abort", "fail"), ("clear", "remove")])
    def test_dry_run_of_a_room_changes_nothing(self, store, run, command, what):
        store.update_status(1, MOVE)
        result = run(command, "1", "--dry-run")
        assert (result.exit_code, result.output) == (0, f"Room 1 is at Transferring: {command} would {what} it.\n")
        assert json.loads(run(command, "1", "--dry-run", "--json").stdout)["changed"] == 0
        assert store.get(1) is MOVE
        assert run(command, "2", "--dry-run").exit_code == 1

    @pytest.mark.parametrize("words", [("--status", "success"), ("--status", "failed", "--status", "success")])
    def test_abort_of_ended_rooms_alone_is_wrong_usage(self, store, run, words):
        """It can match no room: "0 rooms" would read as if none were there."""
        store.update_status(1, DONE)
        result = run("abort", *words, "--yes")
        assert (result.exit_code, "abort fails live rooms only" in result.output) == (2, True)
        assert run("abort", *words, "--status", "transferring", "--yes").exit_code == 0

    @pytest.mark.parametrize("options", [(), ("--dry-run",), ("--json",)])
    def test_abort_of_a_success_is_refused(self, store, run, options):
        store.update_status(1, DONE)
        result = run("abort", "1", *options)
        assert (result.exit_code, result.output) == (1, "Error: room 1 is at Success: abort fails live rooms only\n")
        assert store.get(1) is DONE


class TestOtherSide:
    """An abort in one table is none in the other: SGLang follows decode's, other programs follow none."""

    @pytest.mark.parametrize(
        ("mine", "other", "follows"),
        [("p-decode", "p-prefill", "SGLang follows; other programs need "), ("p-prefill", "p-decode", "")],
    )
    def test_rooms_that_live_there_are_named_once(self, url, mine, other, follows):
        with (
            StatusStore.from_url(url, namespace=mine) as store,
            StatusStore.from_url(url, namespace=other) as there,
        ):
            store.update_many({1: MOVE, 2: MOVE, 3: MOVE, 4: MOVE, 5: DONE})
            there.update_many({1: FAILED, 3: MOVE, 4: BOOT, 5: MOVE})
            words = ["abort", "--status", "transferring", "--yes", "--redis", url, "-n", mine]
            result = CliRunner().invoke(kvpoll, words, catch_exceptions=False)
            assert result.stdout == "Failed 4 rooms of 4 that matched.\n"
            first = result.stderr.partition("abort ")[2].partition(" ")[0]
            what = f"in {other} 2 of them are still live: {follows}kvpoll abort {first} -n {other}, and so for each\n"
            assert (result.stderr, first in ("3", "4")) == (what, True)
            assert there.poll([3, 4, 5]) == [MOVE, BOOT, MOVE]
            store.update_many({6: MOVE, 7: MOVE})
            assert CliRunner().invoke(kvpoll, words).stderr == ""

    def test_failure_from_before_an_abort_is_not_said_to_be_followed(self, url):
        with (
            StatusStore.from_url(url, namespace="p-decode") as store,
            StatusStore.from_url(url, namespace="p-prefill") as there,
        ):
            store.update_status(1, MOVE)
            there.update_status(1, MOVE)
            said = [CliRunner().invoke(kvpoll, ["abort", "1", "--redis", url, "-n", "p-decode"]).stderr for _ in "12"]
        still = "in p-prefill it is still Transferring: "
        command = "kvpoll abort 1 -n p-prefill\n"
        assert said == [f"{still}SGLang follows; other programs need {command}", f"{still}if it stays so, {command}"]

    def test_other_side_that_is_not_read_is_not_absent(self, url, watched):
        with StatusStore.from_url(url, namespace="p-decode") as store:
            store.update_many({1: MOVE, 2: MOVE})
            watched[0].set("kvpoll:{p-prefill}:settings", "by hand", ex=60)
            words = ["abort", "--status", "transferring", "--yes", "--redis", url, "-n", "p-decode"]
            result = CliRunner().invoke(kvpoll, words)
            watched[0].delete("kvpoll:{p-prefill}:settings")
        assert (result.exit_code, result.stdout) == (0, "Failed 2 rooms of 2 that matched.\n")
        assert result.stderr.startswith("whether p-prefill has them, too, is not known: ")


class TestEmptyText:
    """As of a variable that a script has not set: each room has it."""

    @pytest.mark.parametrize(
        "words",
        [
            ("abort", "--yes", "--owner"),
            ("abort", "--yes", "--request"),
            ("abort", "--yes", "--with-reason"),
            ("clear", "--yes", "--reason"),
        ],
    )
    @pytest.mark.parametrize("text", ["", " "])
    def test_it_selects_no_room(self, store, run, words, text):
        store.open(1, request="rid-1")
        result = run(*words, text)
        assert (result.exit_code, "it is empty" in result.stderr) == (2, True)
        assert store.get(1) is BOOT

    @pytest.mark.parametrize("words", [("ls", "--owner"), ("find",), ("tail", "--owner"), ("tail", "--reason")])
    def test_it_is_no_filter(self, run, words):
        """Without a table, which a tail would follow for good."""
        assert run(*words, "").exit_code == 2


class TestEndsEarly:
    """Who has changed a part of the rooms is told how many, before the error."""

    @pytest.mark.parametrize(
        ("words", "where", "name", "done"),
        [
            (["abort", "--status", "bootstrapping"], StatusStore, "abort", "Failed 3 rooms"),
            (["clear", "--status", "bootstrapping"], fenced_commands, "clear_many", "Cleared 100 rooms"),
        ],
    )
    @pytest.mark.parametrize("end", [KeyboardInterrupt, StoreUnavailableError])
    def test_rooms_that_were_changed_are_counted(self, store, run, monkeypatch, words, where, name, done, end):
        store.update_many(dict.fromkeys(range(250), BOOT))
        call, calls = getattr(where, name), iter(range(4 if name == "abort" else 2))

        def calling(*given):
            if next(calls) == (3 if name == "abort" else 1):
                raise end("the end")
            return call(*given)

        monkeypatch.setattr(where, name, calling)
        result = run(*words, "--yes")
        said, *rest = result.stderr.splitlines()
        assert (result.exit_code, result.stdout) == (130 if end is KeyboardInterrupt else 1, "")
        assert said == f"{done} of 250 that matched; the last call may have changed more"
        assert rest == ([] if end is KeyboardInterrupt else ["Error: the end"])


class TestTableChangesMeanwhile:
    """The prompt waits for as long as the operator likes, and the table goes on."""

    @pytest.fixture
    def ask(self, url):
        """Run a command whose keyboard is a terminal; ``meanwhile`` runs before the question is answered by yes."""

        def ask(meanwhile, *words):
            keyboard, terminal = pty.openpty()
            command = [sys.executable, "-m", "redis_kvpoll.cli", *words, "--redis", url, "-n", "prod"]
            with subprocess.Popen(
                command, stdin=terminal, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            ) as process:
                try:
                    while (letter := process.stderr.read(1)) not in ("?", ""):
                        pass
                    assert letter == "?"
                    meanwhile()
                    os.write(keyboard, b"y\n")
                    out, errors = process.communicate(timeout=pace.seconds(30))
                finally:
                    process.kill()
                    os.close(keyboard)
                    os.close(terminal)
            return process.returncode, out, errors.strip().rpartition("\n")[2]

        return ask

    def test_clear_leaves_a_room_that_was_opened_anew(self, store, ask):
        """Also if the new request's room is Failed, too: nobody has looked at it yet."""
        for room in (1, 2, 3):
            store.open(room).fail("why")

        def meanwhile():
            for room in (2, 3):
                store.clear(room)
                store.open(room)
            store.abort(3, "another reason")

        status, out, error = ask(meanwhile, "clear", "--status", "failed")
        assert (status, out.splitlines()[-1]) == (0, "Cleared 1 room of 3 that matched.")
        assert error.endswith("skipped 2 rooms that changed in the meantime")
        assert store.poll([1, 2, 3]) == [None, BOOT, FAILED]

    def test_abort_leaves_what_does_not_match_any_more(self, store, ask):
        """A room that has moved on is not at the status that was asked for; what has ended is over."""
        store.update_many(dict.fromkeys((1, 2, 3), BOOT))
        _, out, _ = ask(lambda: store.update_many({2: MOVE, 3: DONE}), "abort", "--status", "bootstrapping")
        assert out.splitlines()[-1] == "Failed 1 room of 3 that matched."
        assert store.poll([1, 2, 3]) == [FAILED, MOVE, DONE]

    @pytest.mark.parametrize("command", ["abort", "clear"])
    def test_preview_leaves_stdout_to_the_json(self, store, ask, command):
        store.update_many(dict.fromkeys((1, 2), BOOT))
        _, out, _ = ask(lambda: None, command, "--status", "bootstrapping", "--json")
        assert json.loads(out)["changed"] == 2

    @pytest.mark.parametrize(("becomes", "now"), [(DONE, DONE), (MOVE, MOVE), (None, BOOT)])
    def test_abort_leaves_what_changes_within_a_step(self, store, run, monkeypatch, becomes, now):
        """It ends, moves on, or is cleared and opened by the next request, as soon as the first one was aborted."""
        store.update_many(dict.fromkeys((1, 2), BOOT))
        abort = StatusStore.abort

        def aborting(self, room, reason):
            if becomes is None:
                store.clear(3 - room)
                store.open(3 - room)
            else:
                store.update_status(3 - room, becomes)
            return abort(self, room, reason)

        monkeypatch.setattr(StatusStore, "abort", aborting)
        result = run("abort", "--status", "bootstrapping", "--yes")
        assert result.stdout == "Failed 1 room of 2 that matched.\n"
        assert result.stderr == "skipped 1 room that changed in the meantime\n"
        assert sorted(store.poll([1, 2])) == sorted([FAILED, now])

    def test_clear_leaves_what_is_opened_anew_at_that_moment(self, store, run, monkeypatch):
        """Between the read of a step and its clear."""
        for room in (1, 2):
            store.open(room).fail("why")
        clear_many, opened = fenced_commands.clear_many, []

        def clearing(generations):
            opened.append(store.open(2))  # a Failed room is free for another request
            return clear_many(generations)

        monkeypatch.setattr(fenced_commands, "clear_many", clearing)
        result = run("clear", "--status", "failed", "--yes")
        assert result.stdout == "Cleared 1 room of 2 that matched.\n"
        assert result.stderr == "skipped 1 room that changed in the meantime\n"
        assert [store.get(1), opened[0].status()] == [None, BOOT]

    def test_abort_by_owner_takes_rooms_that_have_moved_on(self, store, ask):
        with store.lease("prefill-0"):
            for room in (1, 2):
                store.open(room)
            ask(lambda: store.update_many({1: MOVE, 2: DONE}), "abort", "--owner", "prefill-0")
            assert store.poll([1, 2]) == [FAILED, DONE]
