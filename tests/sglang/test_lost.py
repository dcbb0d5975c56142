"""Failing fast: an operator's abort, and a prefill process that is killed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time

from chaos.servers import Server
from redis_kvpoll import KVPoll, StatusStore
from tests.sglang.conftest import LEASE
from tests.sglang.deployment import ROOT, Deployment, until
from tests.sglang.outcomes import breaks, is_aborted
from tests.support import pace
from tests.support.real import free_port

AT_ONCE = 1.0
"""Seconds."""
LOST = LEASE + pace.seconds(2)
"""Seconds within which a killed process is detected."""
LIVE = list(range(1, 9))


def test_abort_by_operator_fails_both_sides(
    with_plugin: Deployment, shared_server: Server, namespace: str, tables: dict[str, StatusStore]
) -> None:
    prefill, decode = with_plugin.pair()
    for worker in (prefill, decode):
        worker.open(5, 6)
    for role in ("prefill", "decode"):
        until(lambda role=role: tables[role].get(6) is not None, True)
    done = subprocess.run(
        [sys.executable, "-m", "redis_kvpoll.cli", "abort", "5", "--namespace", f"{namespace}-prefill"],
        env=os.environ | {"KVPOLL_URL": shared_server.url},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    until(lambda: prefill.poll(5) + decode.poll(5), [KVPoll.Failed] * 2, AT_ONCE)
    assert prefill.get(6) + decode.get(6) == [KVPoll.Bootstrapping, KVPoll.WaitingForInput]
    assert [worker.fail(5)[0] for worker in (prefill, decode)] == ["Aborted by hand."] * 2


def test_rooms_of_killed_prefill_fail_within_the_lease(with_plugin: Deployment, tables: dict[str, StatusStore]) -> None:
    prefill, decode = with_plugin.pair()
    for worker in (prefill, decode):
        worker.open(*LIVE)
    decode.update(LIVE[0], KVPoll.Success)
    for role in ("prefill", "decode"):
        until(lambda role=role: sum(tables[role].counts().values()), len(LIVE))
    failed = [KVPoll.Success] + [KVPoll.Failed] * (len(LIVE) - 1)
    with pace.Stopwatch() as took:
        prefill.kill()
        until(lambda: decode.poll(*LIVE), failed, LOST)
    assert took.seconds < LOST
    for room in LIVE[1:]:
        reason, _ = decode.fail(room)
        assert reason.startswith("prefill 127.0.0.1:")
        assert reason.endswith(" lost")
    until(lambda: tables["prefill"].poll(LIVE), [KVPoll.Failed] * len(LIVE))
    assert "lost" in (tables["prefill"].failure_reason(LIVE[1]) or "")


def test_killed_prefill_leaves_other_instances_alone(with_plugin: Deployment) -> None:
    """Two prefill instances serve one decode: the one that lives keeps its rooms, in both processes."""
    prefill, _ = with_plugin.pair()
    other, decode = with_plugin.pair()
    prefill.open(5)
    other.open(6)
    decode.open(6)
    prefill.kill()
    time.sleep(LEASE + 1.0)  # time in which they would fail
    assert other.get(6) + decode.get(6) == [KVPoll.Bootstrapping, KVPoll.WaitingForInput]


def test_killed_prefill_of_two_ranks_fails_decode(with_plugin: Deployment, tables: dict[str, StatusStore]) -> None:
    port = free_port()
    processes = ({"role": "prefill", "tp_size": 2, "tp_rank": rank} for rank in (0, 1))
    first, second = with_plugin.start(*processes, port=port)
    (decode,) = with_plugin.start({"role": "decode"}, port=port)
    assert decode.learn()
    for worker in (first, second, decode):
        worker.open(5)
    until(lambda: len(tables["prefill"].collect(5)), 2)
    first.kill()
    second.kill()
    until(lambda: decode.poll(5), [KVPoll.Failed], LOST)
    reason, _ = decode.fail(5)
    assert re.fullmatch(r"prefill 127\.0\.0\.1:\d+.* lost", reason)


def test_restarted_prefill_serves_the_same_rooms(deployment: Deployment) -> None:
    """The same rooms, from the same address."""
    port = free_port()
    rooms = list(range(20))
    (prefill,) = deployment.start({"role": "prefill"}, port=port)
    (decode,) = deployment.start({"role": "decode"}, port=port)
    assert decode.learn()
    for worker in (prefill, decode):
        worker.open(*rooms)
    prefill.kill()
    decode.lose_prefill()
    assert decode.poll(*rooms) == [KVPoll.Failed] * len(rooms)
    decode.clear(*rooms)
    (prefill,) = deployment.start({"role": "prefill"}, port=port)
    assert decode.learn()
    for worker in (prefill, decode):
        worker.serve(rooms, len(rooms))
    for worker in (prefill, decode):
        until(lambda worker=worker: worker.served(), len(rooms), 20.0)
        results = worker.results()
        assert results["errors"] == []
        for room, (status, _) in results["ended"].items():
            fails = breaks(int(room)) or is_aborted(int(room))
            assert status == (KVPoll.Failed if fails else KVPoll.Success)
