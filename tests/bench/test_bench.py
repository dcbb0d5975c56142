"""The benchmark runs and reports in full. No test checks a speed, since machines differ."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench import instructions, report
from bench.capacity import Inputs, capacity
from bench.measure import Contender, SelfTimed, Spread, interleave, ratio
from bench.peers.contest import WAYS
from bench.peers.way import merged
from bench.results import Budget, Row
from redis_kvpoll import KVPoll, StatusStore
from tests.support import pace

ROOT = Path(__file__).parents[2]
FIGURES = {"median": 1, "p99": 5}
_ONE_CALL = {"update_status": 0.75, "get": 0.75, "update_status, no hiredis": 1.1, "get, no hiredis": 1.1}
_HANDLE = "handle.update, lease and mirror"
BUDGETED = {
    "one_call": {f"{name}{p10}": limit for name, limit in {**_ONE_CALL, _HANDLE: 1.1}.items() for p10 in ("", ", p10")},
    "one_call_asyncio": {
        "update_status, 8 tasks": 0.85,
        **{
            f"{name}{p10}": limit if "no hiredis" in name else 0.85
            for name, limit in _ONE_CALL.items()
            for p10 in ("", ", p10")
        },
    },
    "batches": {"poll": 3, "poll, 8 shards": 3, "poll, asyncio": 3},
    "batches_cheaper": {"update_many": 20, "poll": 30, "update_many, 8 shards": 20, "poll, 8 shards": 30},
    "together": {
        "200 asyncio updates gathered": 10,
        "16 threads of one store beside one": 2,
        "16 threads of one store beside SET": 2,
    },
    "memory": {
        "live room, MEMORY USAGE": 256,
        "live room, used_memory of 2,000": 256,
        "live room with request and owner, MEMORY USAGE": 384,
        "live room of 8 ranks under leases, all keys, MEMORY USAGE": 700,
    },
}
BUDGETED["woken"] = {f"{how}.wait, {figure}": ms for how in ("store", "mirror") for figure, ms in FIGURES.items()}
BUDGETED["mirror_ranks"] = {"mirror.consensus of all": 0.2, "mirror.collect, a room": 1.5}
_KINDS = ("a mirror's start", "consensus", "update_many", "touch", "abort of one room", "clear_many")
BUDGETED["rank_calls"] = {f"{kind}, 8 ranks": 10 for kind in _KINDS}
BUDGETED["mirror_read"] = {"mirror.get": 5, "mirror.poll, 1,000 rooms": 5}


def bench(*arguments: str, seconds: float = 100) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=pace.seconds(seconds))


def test_quick_run_reports_every_section(tmp_path):
    page, found = tmp_path / "page.md", tmp_path / "found.json"
    page.write_text(f"before\n{report.START}\nold\n{report.END}\nafter\n")
    done = bench("--quick", "--json", str(found), "--markdown", str(page))
    assert done.returncode == 0, done.stderr
    assert "budgets are kept" in done.stdout

    results = json.loads(found.read_text())
    assert {"server", "transport", "python", "redis-py", "hiredis", "cpus"} <= results["environment"].keys()
    sections = {section["id"]: {row["name"]: row for row in section["rows"]} for section in results["sections"]}
    budgets = {
        name: {row["name"]: row["budget"]["limit"] for row in rows.values() if row["budget"]}
        for name, rows in sections.items()
    }
    assert {name: rows for name, rows in budgets.items() if rows} == BUDGETED
    assert {"get", "get, no hiredis"} <= sections["one_call"].keys() & sections["one_call_asyncio"].keys()
    assert {"update_many", "touch", "clear_many"} <= sections["batches"].keys()
    assert {"1 mirror", "2 mirrors"} == sections["mirrors_cpu"].keys() == sections["mirrors_known"].keys()
    unmeasured = {row["name"]: row["note"] for rows in sections.values() for row in rows.values() if not row["figure"]}
    # The services that a quick run does not start are named.
    assert unmeasured.keys() >= {"PostgreSQL ON CONFLICT", "etcd transaction", "NATS KV compare-and-set"}
    assert set(unmeasured.values()) <= {"not in a quick run", "not installed: Python's zmq (extra bench)"}
    for rows in sections.values():
        for row in rows.values():
            if figure := row["figure"]:
                assert 0 < figure["low"] <= figure["median"] <= figure["high"]
                assert row["ours"] is None or row["ours"] > 0
    peers = sections["peers_4"]
    assert len(peers) == len(WAYS) - 1
    exact = ("(ours)", "WATCH", "redis.lock", "Manager")
    assert {row["result"] for name, row in peers.items() if any(word in name for word in exact)} == {"correct"}

    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "\nold\n" not in text
    assert "| poll, 8 shards | " in text
    pictured = set(re.findall(r"!\[[^]]+\]\((\S+)\)", text))
    assert (
        pictured
        == {f"page/{name}.svg" for name in sections}
        == {f"page/{p.name}" for p in (tmp_path / "page").iterdir()}
    )


def test_recovery_is_measured_alone():
    """Its time, and its ratio to writing the same rooms plainly."""
    done = bench("--quick", "--only", "recovery")
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith(" 2 owners with 200 rooms each")]
    assert len(rows) == 2
    assert "update_many" in rows[1]
    refused = bench("--quick", "--only", "recovery", "--markdown", "page.md")
    assert (refused.returncode, "whole run" in refused.stderr) == (2, True)


def test_scale_has_the_keys_that_programs_rely_on(tmp_path):
    """Its tables are printed, with a budget beside each figure that has one."""
    found = tmp_path / "found.json"
    done = bench("--quick", "--only", "scale", "--json", str(found), seconds=300)
    assert done.returncode == 0, done.stderr
    results = json.loads(found.read_text())
    mirrors = {"server_us_per_change", "bytes_out_per_change", "known_p50_ms"}
    scale = results["scale"]
    assert scale.pop("link_cpu_percent_at_200") > 0
    assert {name: figures.keys() for name, figures in scale.items()} == {
        **{f"followers_{count}": mirrors for count in (0, 8, 64, 128)},
        **{f"plugin_{count}": {"server_us_per_change"} for count in (64, 128)},
        "heartbeats_128": {"instructions_per_s"},
        "request_t8": {"server_instructions"},
    }
    assert scale["followers_0"]["known_p50_ms"] is None
    assert scale["followers_8"]["bytes_out_per_change"] > scale["followers_0"]["bytes_out_per_change"]
    counted = results["environment"]["instructions"]
    assert counted in (instructions.PERF, instructions.CALLGRIND, instructions.CPU_TIME)
    assert (scale["request_t8"]["server_instructions"] is None) == (counted == instructions.CPU_TIME)
    rows = [row for section in results["sections"] for row in section["rows"]]
    assert sorted(row["budget"]["limit"] for row in rows if row["budget"]) == [1.2, 2, 10, 10]
    for instances in (1, 4, 8, 16):
        assert f" {instances}+{instances}: one caller an instance " in done.stdout


@pytest.mark.parametrize("instances", [1, 8])
def test_capacity_is_what_the_model_says(instances):
    """With mirrors, 8 T changes and 13 N T^2 deliveries a request."""
    by = capacity(Inputs(change=80, delivery=23, heartbeat=0, request=1_000), instances)
    assert by.mirrors == pytest.approx(1e6 / (8 * 8 * 80 + 13 * instances * 64 * 23))
    assert by.failures == pytest.approx(1e6 / (8 * 8 * 80))
    assert by.one_caller == 1000
    assert capacity(Inputs(80, 23, 30, 1_000), instances).failures < by.failures


@pytest.mark.parametrize("output", ["--json", "--markdown"])
def test_output_that_cannot_be_written_is_refused_at_once(tmp_path, output):
    """A page that can be written, too, if its pictures have no folder."""
    path = tmp_path / "page.md"
    if output == "--json":
        path.mkdir()
    else:
        path.write_text(f"{report.START}\n{report.END}\n")
        path.with_suffix("").write_text("in the way")
    done = bench("--quick", output, str(path))
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1


def test_tables_are_printed_before_an_output_fails():
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    done = bench("--quick", "--only", "leases", "--json", "/dev/full")
    assert done.returncode == 1
    assert "budgets are kept" in done.stdout


def test_looking_at_a_large_table_is_measured_alone(tmp_path):
    """The command, kvpoll serve with its viewers, and a process that follows statistics."""
    done = bench("--quick", "--only", "operate", "--json", str(tmp_path / "found.json"))
    assert done.returncode == 0, done.stderr
    (section,) = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))["sections"]
    budgets = {row["name"]: row["budget"]["limit"] for row in section["rows"] if row["budget"]}
    assert budgets == {
        "ls --stuck of 2,000 rooms": 5000,
        "ls --stuck --serve of 2,000 rooms": 2000,
        "serve with 20 viewers, share of a CPU": 0.05,
        "statistics of 5,000 rooms: the walk's share of the server": 0.1,
        "memory": 200e6,
        "CPU of the process, a change": 60,
    }


@pytest.mark.parametrize(
    ("url", "message"),
    [("memory://", "needs one real server"), ("redis://127.0.0.1:1", "127.0.0.1:1"), ("foo://", "must start with")],
)
def test_unusable_server_is_one_sentence(url, message):
    done = bench("--quick", "--url", url)
    assert done.returncode == 1
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_page_without_markers_is_refused_before_the_run(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("nothing")
    done = bench("--quick", "--markdown", str(page))
    assert (done.returncode, page.read_text()) == (1, "nothing")
    assert len(done.stderr.splitlines()) == 1


def test_contenders_take_turns_and_prepare_untimed():
    order = []
    contenders = [
        Contender(name, lambda n=name: order.append(n), 2, lambda n=name: order.append(f"prepare {n}")) for name in "ab"
    ]
    times = interleave(contenders, rounds=2)
    assert {name: len(rounds) for name, rounds in times.items()} == {"a": 2, "b": 2}
    assert [step for step in order if len(step) == 1] == ["b", "a", "a", "b", "b", "a"]
    assert all(order[at - 1] == f"prepare {step}" for at, step in enumerate(order) if len(step) == 1)


def test_self_timed_contender_reports_its_own_seconds():
    assert interleave([SelfTimed("a", lambda: 3.0, 2), Contender("b", lambda: 3.0, 2)], rounds=1)["a"] == [1.5]


def test_sglang_benchmark_without_sglang_names_the_command():
    if importlib.util.find_spec("sglang"):
        pytest.skip("SGLang is installed here")
    done = subprocess.run(
        [sys.executable, "-m", "bench.sglang"], cwd=ROOT, capture_output=True, text=True, timeout=pace.seconds(100)
    )
    assert done.returncode == 1
    assert done.stderr == "bench: SGLang is not installed here: make bench-sglang\n"


def test_ratio_is_taken_round_by_round():
    # The machine was ten times slower in the second round, for both.
    assert ratio([1, 10, 1], [2, 20, 1]) == Spread(0.5, 0.5, 1)


@pytest.mark.parametrize(
    ("budget", "result"), [(Budget(2), "within"), (Budget(1.9), "over"), (Budget(3, True), "over")]
)
def test_budget_decides_the_result(budget, result):
    assert Row("a", "b", "us", 1, 1, Spread(2, 1, 9), budget).result == result


def test_merge_rule_of_the_alternatives_is_the_table_s():
    with StatusStore.from_url("memory://") as store:
        for current in (None, *KVPoll):
            for incoming in KVPoll:
                store.clear(1)
                if current is not None:
                    store.update_many({1: KVPoll.Bootstrapping})
                    store.update_status(1, current)
                store.update_status(1, incoming)
                assert merged(current, incoming) == store.get(1), (current, incoming)


def test_every_picture_of_the_page_exists():
    page = ROOT / "docs" / "benchmarks.md"
    pictured = set(re.findall(r"!\[[^]]+\]\((\S+)\)", page.read_text()))
    assert pictured == {f"benchmarks/{path.name}" for path in (page.parent / "benchmarks").iterdir()}
