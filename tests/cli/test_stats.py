"""kvpoll stats: what ends its first reading of the table, and what does not."""

from __future__ import annotations

import io
import itertools
import json
import re
import time
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from rich.console import Console

from chaos.proxy import Proxy
from redis_kvpoll import KVPoll, StatusStore
from redis_kvpoll.cli import numbers
from redis_kvpoll.cli.app import kvpoll
from redis_kvpoll.cli.commands import stats
from redis_kvpoll.statistics.model import ReasonCount
from redis_kvpoll.sync.statistics import Statistics
from tests.support import real


@pytest.fixture
def proxy():
    """A proxy of a server with one room."""
    with real.World("sync") as world, Proxy(world.serve().socket) as proxy:
        with StatusStore.from_url(proxy.url, namespace="prod") as store:
            store.update_status(1, KVPoll.Bootstrapping)
        yield proxy


def run(proxy, *words):
    return CliRunner().invoke(kvpoll, ["stats", *words, "--redis", proxy.url, "-n", "prod"])


def test_connection_lost_in_the_first_reading_is_no_end(proxy, monkeypatch):
    """The time until the next line of progress ends while the follower is without a connection."""
    wait, times = Statistics.wait_synced, itertools.count()

    def waiting(self, timeout):
        at = next(times)
        if at == 0:
            real.until(lambda: proxy.calls("snapshot_fields"), "the rooms are read")
            proxy.cut()
            real.until(lambda: self.snapshot().error, "the loss is known")
        elif at == 1:
            proxy.release()
        return wait(self, timeout)

    monkeypatch.setattr(Statistics, "wait_synced", waiting)
    monkeypatch.setattr(stats, "PROGRESS_AFTER", 0.01)
    proxy.hold("snapshot_fields")
    result = run(proxy, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["counts"]["Bootstrapping"] == 1


def test_server_that_stays_away_ends_the_first_reading(proxy, monkeypatch):
    wait = Statistics.wait_synced

    def waiting(self, timeout):
        proxy.refusing = True
        proxy.cut()
        return wait(self, timeout)

    monkeypatch.setattr(Statistics, "wait_synced", waiting)
    monkeypatch.setattr(stats, "PROGRESS_AFTER", 0.01)
    proxy.hold("snapshot_fields")
    result = run(proxy)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: statistics: ")


def test_rate_of_refused_writes_names_its_time(proxy, monkeypatch):
    """One look watches them for two seconds; the other rates are of the feed's last minute. Text and JSON agree."""
    with StatusStore.from_url(proxy.url, namespace="prod") as store:
        store.abort(9, "late")

        def pause(seconds):
            for _ in range(20):
                store.abort(9, "late")
            time.sleep(2 * seconds)  # a busy machine reads later

        monkeypatch.setattr(stats, "pause", pause)
        rates = json.loads(run(proxy, "--json").stdout)["rates"]
        assert rates["seconds"] == 60
        assert 0 < rates["refused_seconds"] < 10
        assert rates["refused"] * rates["refused_seconds"] == pytest.approx(20)
        assert re.search(r"refused \d+\.\d/s over \d\.\d s   41 \(skipped 41\)", run(proxy).stdout)


def test_long_owner_of_the_last_refused_write_is_indented(proxy, monkeypatch):
    """The name of an owner of SGLang does not fit beside the rest into 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    owner = "prefill/10.0.0.1:8998/tp0@10.0.0.1:4711"
    with StatusStore.from_url(proxy.url, namespace="prod") as store, store.lease(owner):
        store.update_status(2**63, KVPoll.Failed)
        shown = run(proxy).stdout
    assert re.search(rf"\n  the last .* ago: skipped, room {2**63},\n    from {owner}\n", shown), shown


def test_interrupt_before_the_table_is_found_is_130(proxy, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("redis_kvpoll.cli.found.open_table", interrupted)
    result = run(proxy)
    assert (result.exit_code, result.output) == (130, "")


def test_end_of_a_long_reason_is_shown_on_a_narrow_terminal():
    text = "KVTransferError(bootstrap_room=#): Failed to send kv chunk to #:#"
    last = "KVTransferError(bootstrap_room=388313981772641783): Failed to send kv chunk to 10.0.0.5:55373"
    shown = io.StringIO()
    console = Console(file=shown, width=80)
    reasons = [ReasonCount(text, "transfer", 2, 0.0, last)]
    numbers._print_failures(console, SimpleNamespace(failures={"transfer": 2}, reasons=reasons))
    lines = shown.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert " ".join(" ".join(lines).split()).endswith(f"2 transfer {text} last: {last}")
