"""What every command prints with --json is what its schema in docs/reference says."""

from __future__ import annotations

import json

import click
import pytest
from click.testing import CliRunner

from redis_kvpoll import KVPoll, StatusStore
from redis_kvpoll.cli import app
from redis_kvpoll.cli.app import kvpoll
from redis_kvpoll.serve import documents
from tests.support import schema

WITHOUT = {"acl", "agent", "board", "completion", "reap", "replay", "rules", "serve"}
"""Commands that print no data of a table. The JSON of a replay is its report."""
ELSEWHERE = {"doctor", "tail"}
"""Commands whose JSON has tests of its own."""
CALLS = {
    "ls": [["ls"], ["ls", "--status", "failed"], ["ls", "--stuck", "--owner", "nobody"]],
    "find": [["find", "rid"], ["find", "nothing"]],
    "show": [["show", "1"], ["show", "0x2"], ["show", "3"]],
    "wait": [["wait", "2"], ["wait", "1", "Bootstrapping"]],
    "stats": [["stats"]],
    "owners": [["owners"]],
    "namespaces": [["namespaces"]],
    "history": [["history", "1"], ["history", "2"]],
    "abort": [["abort", "4"], ["abort", "--request", "rid", "--dry-run"], ["abort", "--request", "rid", "--yes"]],
    "clear": [["clear", "4"], ["clear", "--status", "Failed", "--yes"]],
}


@pytest.fixture
def table(url, watched):
    """Rooms of all kinds, under a lease, and in the other side's table; one that was written by hand."""
    names = ("prod-prefill", "prod-decode")
    prefill, decode = (StatusStore.from_url(url, namespace=name) for name in names)
    ranks = [StatusStore.from_url(url, namespace=names[0], rank=rank, world_size=2) for rank in (0, 1)]
    with prefill, decode, ranks[0], ranks[1], prefill.lease("prefill/10.0.0.1:8998"):
        prefill.open(1, request="rid-1").update(KVPoll.WaitingForInput)
        prefill.open(2, request="rid-2").fail("Mooncake session 10.0.0.2:1 failed")
        decode.open(2)
        for store in ranks:
            store.open(3, request="rid-3")
        ranks[0].update_status(3, KVPoll.Success)
        prefill.update_status(4, KVPoll.Bootstrapping)
        prefill.set_decode_prefix_len(4, 1024)
        watched[0].set("kvpoll:{prod-prefill}:room:9", "by hand", ex=600)
        yield url
        watched[0].delete("kvpoll:{prod-prefill}:room:9")


def run(url, *words):
    where = ["--redis", url] if words[0] == "namespaces" else ["--redis", url, "-n", "prod-prefill"]
    return CliRunner().invoke(kvpoll, [*words, *where, "--json"], catch_exceptions=False)


@pytest.mark.parametrize("name", CALLS)
def test_json_fits_its_schema(table, name):
    for words in CALLS[name]:
        document = json.loads(run(table, *words).stdout)
        assert schema.faults(document, schema.load(name)) == [], words


def test_change_of_tail_fits_its_schema(table):
    with StatusStore.from_url(table, namespace="prod-prefill") as store:
        found = store.tail(5)
        lines = [documents.change(next(found)) for _ in range(5)]
    assert [fault for line in lines for fault in schema.faults(line, schema.load("tail"))] == []
    gap = {"gap": {"after": "1-0", "before": None}}
    assert schema.faults(gap, schema.load("tail")) == []


def test_every_command_with_json_has_a_schema():
    found = set()
    for name in app.COMMANDS:
        command = app.load(name)
        assert isinstance(command, click.Command)
        if name not in WITHOUT and any("--json" in option.opts for option in command.params):
            found.add(name)
    assert found == set(schema.names())
    assert found | WITHOUT == set(app.COMMANDS)
    assert found - ELSEWHERE == set(CALLS)


def test_every_document_says_whether_a_replica_was_read():
    assert {name for name in schema.names() if "replica" not in schema.load(name).get("required", ())} == ELSEWHERE
