"""What the commands say when single keys of a table are gone, or all of it, on real servers."""

from __future__ import annotations

import json
import re

import pytest
from click.testing import CliRunner

from redis_kvpoll import KVPoll, StatusStore
from redis_kvpoll.cli.app import kvpoll
from redis_kvpoll.doctor import examination, losses
from redis_kvpoll.doctor.findings import Level
from redis_kvpoll.protocol import keys
from tests.support import real
from tests.support.examining import HEALTHY, be_patient, examine, user_of
from tests.support.leasing import ManualLease, begin_long_ago, die

LOOKING = (["owners"], ["stats"], ["ls"], ["show", "2"], ["history", "2"], ["doctor"])
WRITING = (["abort", "2"], ["clear", "2"], ["reap"])
KEYS = ("settings", "epoch", "leases", "due", "owned", "feed", "failed", "refused", "cleared", "room:2", "room:1")


@pytest.fixture
def server(monkeypatch):
    be_patient(monkeypatch)
    monkeypatch.setattr(examination, "WATCH_SECONDS", 0.0)
    with real.World("sync") as world:
        yield world.serve(*HEALTHY)


@pytest.fixture
def client(server):
    with server.client(decode_responses=True) as client:
        yield client


@pytest.fixture(params=[1, 8])
def lease(request, server):
    """The lease of an owner that lives and has room 2; room 1 was refused, and is Failed."""
    with StatusStore.from_url(server.tcp, namespace="prod", shards=request.param, policy="strict") as store:
        lease = ManualLease(store, "prefill-0", ttl=600.0).take()
        store.open(2, request="rid-2").update(KVPoll.Transferring)
        store.open(1).fail("a reason")
        store.update_status(99, KVPoll.Success)
        yield lease


def run(server, *words, namespace="prod"):
    return CliRunner().invoke(kvpoll, [*words, "--redis", server.tcp, "-n", namespace], catch_exceptions=False)


def run_on_server(server, *words):
    return CliRunner().invoke(kvpoll, [*words, "--redis", server.tcp], catch_exceptions=False)


def delete(client, name):
    """Delete this key in each shard; the settings are in none."""
    found = [key for key in client.keys("kvpoll:{prod*") if key.partition("}:")[2] == name]
    assert found or name in ("cleared",)
    client.delete("nothing", *found)


class TestSingleKeys:
    @pytest.mark.parametrize("name", KEYS)
    def test_owner_that_lives_is_not_called_absent(self, server, client, lease, name):
        """Whichever single key was evicted or deleted. Without its leases the server knows no owner any more."""
        delete(client, name)
        for words in LOOKING:
            shown = run(server, *words)
            assert "namespace 'prod' not found" not in shown.output, words
            assert "does not exist" not in shown.output, words
        owners = run(server, "owners").stdout
        assert ("prefill-0" in owners) == (name != "leases")

    def test_settings_alone_are_a_problem_with_their_owners(self, server, client, lease):
        client.delete("kvpoll:{prod}:settings")
        found = examine(server.tcp, "prod")
        assert (found["settings"].level, "prefill-0" in found["settings"].found) == (Level.PROBLEM, True)
        assert "within 30 s" in found["settings"].advice
        assert found["leases"].found == "1 alive"
        assert found["feed"].level is Level.UNKNOWN

    def test_rooms_are_listed_without_settings(self, server, client, lease):
        client.delete("kvpoll:{prod}:settings")
        shown = run(server, "ls", "--json")
        assert [room["room"] for room in json.loads(shown.stdout)["rooms"]] == [1, 2]
        assert "the settings of namespace 'prod' are gone" in shown.stderr
        assert "alive: prefill-0" in shown.stderr

    @pytest.mark.parametrize("words", WRITING)
    def test_nothing_is_written_without_settings(self, server, client, lease, words):
        """A command would create them with its own defaults, which are not those of the processes."""
        client.delete("kvpoll:{prod}:settings")
        shown = run(server, *words)
        assert (shown.exit_code, "run it again" in shown.stderr) == (1, True)
        assert not client.exists("kvpoll:{prod}:settings")
        assert run(server, "ls", "--status", "transferring").stdout.count("\n") == 2

    def test_table_without_owner_or_settings_is_shown(self, server, client, lease):
        lease.release()
        client.delete("kvpoll:{prod}:settings")
        shown = run(server, "ls")
        assert "no owner is alive" in shown.stderr
        assert "the next process that opens a store" in shown.stderr
        assert examine(server.tcp, "prod")["settings"].level is Level.PROBLEM


class TestAllKeys:
    def test_flushed_namespace_names_the_open_connection(self, server, client, lease):
        """For a user who may ask; the rule of kvpoll acl does not allow CLIENT LIST."""
        client.execute_command("ACL", "SETUSER", "default", "+client|list")
        with server.client(client_name="batch-job") as other:
            other.flushall()
            for words in (["owners"], ["ls"], ["stats"], ["doctor"]):
                shown = " ".join(run(server, *words).output.split())
                assert "its data is gone (FLUSHALL once" in shown, words
                assert "of the others nothing is known" not in shown
                assert re.search(r"\S+ \(name batch-job, user \w+\) sent FLUSHALL", shown), words

            client.flushdb()
            client.ping()
            assert "of the others nothing is known" in run(server, "ls").stderr

    def test_flush_of_a_closed_connection_has_no_time(self, server, client, lease):
        with server.client() as other:
            other.flushall()
        shown = run(server, "ls").stderr
        assert "the server does not know when (it was started" in shown
        assert "No namespace was found by this URL" in shown

    def test_server_that_was_started_anew_is_named(self, server):
        shown = run(server, "ls").stderr
        assert "the server was started" in shown
        assert "since then (or since CONFIG RESETSTAT) its counters show no loss" in shown
        assert "connected" not in shown, "nobody is"
        assert shown.endswith("found by this URL: if it is right, start the table's processes again\n")

    def test_server_that_knows_of_no_loss_points_at_the_url(self, server, monkeypatch):
        monkeypatch.setattr(losses, "RECENT_SECONDS", 0.0)
        assert run(server, "ls").stderr.endswith("found by this URL: check --redis, or KVPOLL_URL\n")

    def test_absent_namespace_names_its_server(self, server):
        """KVPOLL_URL may be unset, or name another server than its reader thinks."""
        for words in (["stats"], ["doctor"]):
            shown = " ".join(run(server, *words).output.split())
            assert f"namespace 'prod' not found on {server.tcp}" in shown, words
        assert run_on_server(server, "namespaces").stderr.startswith(f"{server.tcp} has no namespace of kvpoll's")

    def test_other_namespaces_are_listed_to_paste(self, server, lease):
        shown = run(server, "ls", namespace="default")
        assert (shown.exit_code, "This server has: -n prod" in shown.stderr) == (1, True)


class TestUserOfOneTable:
    """Of the keys of other tables, it may see the names alone."""

    @pytest.mark.parametrize("options", [["-n", "prod"], ["-n", "prod", "--read-only"]])
    def test_namespaces_has_what_the_user_may_read(self, server, lease, options):
        with StatusStore.from_url(server.tcp, namespace="other") as other, user_of(server, *options) as url:
            other.get(1)
            other.update_status(1, 1)
            shown = CliRunner().invoke(kvpoll, ["namespaces", "--redis", url], catch_exceptions=False)
        assert shown.exit_code == 0
        lines = [line.split("\t")[:2] for line in shown.stdout.splitlines()[1:]]
        assert lines == [["other", ""], ["prod", "strict"]]
        assert "Not read: the settings of other: this user lacks their keys" in shown.stderr

    def test_name_that_the_user_has_no_right_to_is_checked(self, server):
        options = ["-n", "prod", "--roles"]
        with StatusStore.from_url(server.tcp, namespace="prod-decode") as store, user_of(server, *options) as url:
            store.update_status(1, 1)
            for name, hint in (
                ("prod", "SGLang uses one namespace per role: -n prod-decode\n"),
                ("prod-decod", "This server has: -n prod-decode\n"),
            ):
                shown = CliRunner().invoke(kvpoll, ["ls", "--redis", url, "-n", name], catch_exceptions=False)
                assert (shown.exit_code, shown.stderr.endswith(hint)) == (1, True), shown.stderr
                found = examine(url, name)["acl"]
                assert found.found == f"this user is denied the keys of {name}, and the server has no such namespace"
                assert found.advice.startswith("-n prod-decode; if prod is right: " if name == "prod" else "check -n; ")

    def test_reader_who_writes_is_told_to_name_another_user(self, server, lease):
        with user_of(server, "-n", "prod", "--read-only") as url:
            for words in WRITING:
                shown = CliRunner().invoke(kvpoll, [*words, "--redis", url, "-n", "prod"], catch_exceptions=False)
                assert f"; {words[0]} writes: if this user shall only read, name another one in --redis" in shown.stderr

    def test_absent_table_is_said_to_be_absent(self, server, client):
        with StatusStore.from_url(server.tcp, namespace="other") as other, user_of(server, "-n", "prod") as url:
            other.update_status(1, 1)
            words = ["ls", "--redis", url, "-n", "prod"]
            shown = CliRunner().invoke(kvpoll, words, catch_exceptions=False).stderr
            assert "namespace 'prod' not found" in shown
            assert "This server has: -n other" in shown
            client.acl_setuser("eyes", enabled=True, commands=["-scan"])
            shown = CliRunner().invoke(kvpoll, words, catch_exceptions=False).stderr
        assert "Which namespaces this server has is not known" in shown
        assert "No namespace was found" not in shown


class TestNeighbours:
    def test_settings_of_another_type_hide_no_other_table(self, server, client, lease):
        client.set("kvpoll:{odd}:settings", "x", ex=1000)
        shown = run_on_server(server, "namespaces")
        assert [line.split("\t")[:2] for line in shown.stdout.splitlines()[1:]] == [["odd", ""], ["prod", "strict"]]
        assert "Not read: the settings of odd" in shown.stderr

    def test_namespaces_says_how_many_keys_are_others(self, server, client, lease):
        for number in range(200):
            client.set(f"other:{number}", "x", ex=1000)
        shown = run_on_server(server, "namespaces")
        assert re.search(r"The server has 2\d\d keys; about [89]\d% are others'", shown.stderr)

    def test_wrong_number_of_the_database_is_named(self, server, client, lease):
        """The table is in database 0, the URL has /1: nothing is lost, and no key is another's."""
        url = f"{server.tcp}/1"
        hint = re.compile(r"database 1 has no keys, and database 0 has \d+: is the number in the URL right\?")
        for words in (["namespaces"], ["stats", "-n", "prod"], ["doctor", "-n", "prod"]):
            shown = CliRunner().invoke(kvpoll, [*words, "--redis", url], catch_exceptions=False).output
            assert hint.search(" ".join(shown.split())), shown
            assert not re.search("others'|data is gone|what it held before|on this server", shown), shown

    def test_keys_of_other_databases_are_not_called_kvpolls(self, server, client, lease):
        with server.client(db=1) as theirs:
            theirs.mset({f"other:{number}": "x" for number in range(5000)})
            shown = run_on_server(server, "namespaces")
            client.config_set("maxmemory-policy", "allkeys-lru")
            assert examine(server.tcp, "prod")["eviction"].advice.startswith("most keys are others'")
            theirs.flushdb()
        assert re.search(r"keys; database 1 has 5,000; of the \d+ in database 0, nearly all are kvpoll's", shown.stderr)

    def test_server_without_a_namespace_says_so_too(self, server, client):
        client.set("other", "x", ex=1000)
        shown = run_on_server(server, "namespaces")
        assert (shown.exit_code, "has 1 key; about 100% are others'" in shown.stderr) == (1, True)


def test_stats_names_the_owner_that_was_lost_last(server, client):
    """Reasons are counted without their numbers."""
    with StatusStore.from_url(server.tcp) as store, StatusStore.from_url(server.tcp) as other:
        store.update_status(9, KVPoll.Success)
        begin_long_ago(client)
        for name in ("prefill-1/tp0", "prefill-0/tp3"):
            lease = ManualLease(store, name).take()
            store.open(int(name[8]))
            assert die(client, other) == 1
            lease.heartbeat()  # it finds the lease lost
            lease.release()
        shown = run(server, "stats", namespace="default").stdout
    assert "2  owner_lost  owner prefill-#/tp# lost\n                    last: owner prefill-0/tp3 lost\n" in shown


class TestRestoredRooms:
    def test_timeline_begins_at_the_last_change(self, server, client, lease):
        before = lease.store.entry(2)
        client.flushall()
        lease.heartbeat()
        document = json.loads(run(server, "show", "2", "--json").stdout)
        assert document["timeline"][0]["since"] == pytest.approx(before.updated_at, abs=0.1)
        assert f"\n{'':17}restored after a loss of data; before: not known\n" in run(server, "show", "2").stdout


def test_keys_are_those_that_the_library_has(client, lease):
    """KEYS above has each kind."""
    kinds = {keys.parts(key.encode()).kind for key in client.keys("kvpoll:{prod*")}
    assert kinds <= {name.partition(":")[0] for name in KEYS}


@pytest.mark.parametrize("kind", ["owned", "leases", "feed"])
def test_room_is_shown_beside_a_key_of_another_type(server, lease, client, kind):
    """Its owner or its timeline is missing then, and stderr says why."""
    for key in [key for key in client.keys("kvpoll:{prod*") if key.partition("}:")[2] == kind]:
        client.delete(key)
        client.set(key, "by hand", ex=600)
    result = run(server, "show", "2")
    assert (result.exit_code, "Transferring" in result.stdout) == (0, True)
    what = "timeline" if kind == "feed" else "owners"
    assert f"The {what} of the room cannot be read: " in result.stderr


def test_rooms_are_listed_beside_a_feed_of_another_type(server, lease, client):
    """A list needs no feed; what follows changes does."""
    for key in client.keys("kvpoll:{prod*:feed"):
        client.delete(key)
        client.set(key, "by hand", ex=600)
    result = run(server, "ls", "--json")
    assert result.exit_code == 0, result.stderr
    assert [room["room"] for room in json.loads(result.stdout)["rooms"]] == [1, 2]
    result = run(server, "stats")
    assert (result.exit_code, "WRONGTYPE" in result.stderr) == (1, True)
