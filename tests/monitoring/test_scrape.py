"""A real Prometheus scrapes a real kvpoll serve during a replay: every query has an answer, every metric a place."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import urllib.request

import prometheus_client
import pytest

from redis_kvpoll import StatusStore
from redis_kvpoll.integrations.sglang.metrics import LinkMetrics
from redis_kvpoll.monitoring.alerts import ALERTS, RECORDINGS, rules_file
from redis_kvpoll.monitoring.board import expressions
from redis_kvpoll.protocol import keys
from tests.support import real
from tests.support.prometheus import Prometheus, program

pytestmark = pytest.mark.slow

NOT_ON_BOARD = {"kvpoll_build_info": "the board's variable namespace is read from it"}
OF_SGLANG = "sglang:"
"""SGLang's own metrics, which nobody has here."""
REPLAY = ("--limit", "20000", "--speed", "30", "--late-rate", "0.3", "--reuse-rate", "0.3", "--crash-rate", "0.02")


def start(*arguments):
    command = [sys.executable, "-m", "redis_kvpoll.cli", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=real.hear_signals)


def namespaces_of(server):
    """The two tables of a replay, once they are there."""
    with server.client() as client:
        found = {keys.parts(key).namespace for key in client.scan_iter(keys.ALL_SETTINGS)}
    return sorted(found) if len(found) == 2 else None


@pytest.fixture(scope="module")
def scraped(tmp_path_factory):
    """A Prometheus that scrapes kvpoll serve during a replay, and the metrics of SGLang's plugin."""
    program("prometheus")
    folder = tmp_path_factory.mktemp("prometheus")
    serve_port = real.free_port()
    plugin, thread = prometheus_client.start_http_server(0, "127.0.0.1")
    LinkMetrics("prefill", "prefill/10.0.0.1:8998").update(True, 0, 1, 2)
    with real.World("sync") as world:
        server = world.serve("--maxmemory", "1gb")
        replay = start("replay", "--redis", server.tcp, *REPLAY)
        started = [replay]
        try:
            namespaces = real.until(lambda: namespaces_of(server), "the replay has opened its tables", 60)
            options = [word for name in namespaces for word in ("--namespace", name)]
            started.append(start("serve", "--redis", server.tcp, "--port", serve_port, *options))
            targets = [f"127.0.0.1:{port}" for port in (serve_port, plugin.server_port)]
            with Prometheus(folder, targets, rules_file()) as prometheus:
                real.until(lambda: prometheus.query("kvpoll_doctor_check"), "the doctor has looked", 120)
                yield prometheus, serve_port, namespaces, server, replay
        finally:
            for process in started:
                process.send_signal(signal.SIGINT)
            for process in started:
                process.wait(60)
            plugin.shutdown()
            plugin.server_close()
            thread.join()


@pytest.mark.parametrize("expr", [expr for expr in expressions() if OF_SGLANG not in expr])
def test_query_of_the_board_has_an_answer(scraped, expr):
    prometheus = scraped[0]
    filled = expr.replace("$__rate_interval", "10s").replace("$namespace", ".+")
    answer = real.until(lambda: prometheus.query(filled), f"{filled} has an answer", 60)
    assert all(value == value for _, value in answer) or "quantile" in filled, "no NaN"


@pytest.mark.parametrize("name", RECORDINGS)
def test_recorded_series_has_a_value_for_each_table(scraped, name):
    prometheus, _, namespaces, *_ = scraped
    found = real.until(lambda: len(prometheus.query(name)) == 2 and prometheus.query(name), "both have one", 60)
    assert sorted(labels["namespace"] for labels, _ in found) == namespaces


def test_rules_are_evaluated_without_an_error(scraped):
    def evaluated():
        data = scraped[0].ask("rules")
        rules = [rule for group in data["groups"] for rule in group["rules"]] if data else []
        return rules if rules and all(rule["health"] != "unknown" for rule in rules) else None

    rules = real.until(evaluated, "all are evaluated", 60)
    assert {rule["name"]: rule.get("lastError", "") for rule in rules if rule["health"] != "ok"} == {}
    assert {rule["name"] for rule in rules} == {*RECORDINGS, *(alert.name for alert in ALERTS)}


def test_alert_of_a_killed_worker_fires(scraped):
    """The replay kills workers; their rooms fail, and nothing else is wrong."""

    def firing():
        data = scraped[0].ask("alerts")
        return [one for one in data["alerts"] if one["labels"]["alertname"] == "KVPollOwnerLost"] if data else None

    (first, *_) = real.until(firing, "a lost owner is told", 120)
    assert first["labels"]["severity"] == "critical"
    assert first["labels"]["namespace"] in scraped[2]


def test_every_metric_is_on_the_board(scraped):
    with urllib.request.urlopen(f"http://127.0.0.1:{scraped[1]}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    families = set(re.findall(r"^# TYPE (kvpoll_\w+) ", text, re.MULTILINE))
    used = " ".join(expressions())
    shown = {name for name in families if re.search(rf"\b{name}(_total|_bucket)?\b", used)}
    assert len(families) > 15
    assert {name for name in families - shown if not name.endswith("_created")} == set(NOT_ON_BOARD)


def test_rooms_are_those_of_the_table(scraped):
    """At the end, since the replay then changes nothing; the counters have begun with the first look."""
    prometheus, _, namespaces, server, replay = scraped
    replay.send_signal(signal.SIGINT)
    replay.wait(60)
    for namespace in namespaces:
        with StatusStore.from_url(server.tcp, namespace=namespace, read_only=True) as store:

            def agree(store=store, namespace=namespace):
                found = prometheus.query(f'kvpoll_rooms{{namespace="{namespace}"}}')
                return {labels["status"]: number for labels, number in found} == {
                    status.name: number for status, number in store.counts().items()
                }

            real.until(agree, "Prometheus has the numbers of the table", 60)
