"""kvpoll abort and clear of many rooms: which rooms are changed, also while the table changes."""

from __future__ import annotations

import json
import time

import pytest
from click.testing import CliRunner

from redis_kvpoll import KVPoll, StatusStore
from redis_kvpoll.cli.app import kvpoll

BOOT, MOVE, DONE, FAILED = KVPoll.Bootstrapping, KVPoll.Transferring, KVPoll.Success, KVPoll.Failed


@pytest.fixture
def store(url):
    with StatusStore.from_url(url, namespace="prod") as store:
        yield store


@pytest.fixture
def run(url):
    def run(*words, **options):
        return CliRunner().invoke(kvpoll, [*words, "--redis", url, "-n", "prod"], catch_exceptions=False, **options)

    return run


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
