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
from tests.sglang.crew import ROOT, Crew, soon
from tests.sglang.fates import breaks, is_aborted
from tests.support import pace
from tests.support.real import free_port

AT_ONCE = 1.0
"""Seconds."""
LOST = LEASE + pace.seconds(2)
"""Seconds after which a killed process is known to be lost."""
LIVE = list(range(1, 9))


def test_an_operators_abort_reaches_both_sides(
    plugged: Crew, shared_server: Server, namespace: str, tables: dict[str, StatusStore]
) -> None:
    prefill, decode = plugged.pair()
    for worker in (prefill, decode):
        worker.open(5, 6)
    for role in ("prefill", "decode"):
        soon(lambda role=role: tables[role].get(6) is not None, True)
    told = subprocess.run(
        [sys.executable, "-m", "redis_kvpoll.cli", "abort", "5", "--namespace", f"{namespace}-prefill"],
        env=os.environ | {"KVPOLL_URL": shared_server.url},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=pace.seconds(20),
    )
    assert told.returncode == 0, told.stderr
    soon(lambda: prefill.poll(5) + decode.poll(5), [KVPoll.Failed] * 2, AT_ONCE)
    assert prefill.get(6) + decode.get(6) == [KVPoll.Bootstrapping, KVPoll.WaitingForInput]
    assert [worker.fail(5)[0] for worker in (prefill, decode)] == ["Aborted by hand."] * 2


def test_the_rooms_of_a_prefill_that_was_killed_fail_at_once(plugged: Crew, tables: dict[str, StatusStore]) -> None:
    prefill, decode = plugged.pair()
    for worker in (prefill, decode):
        worker.open(*LIVE)
    decode.update(LIVE[0], KVPoll.Success)
    for role in ("prefill", "decode"):
        soon(lambda role=role: sum(tables[role].counts().values()), len(LIVE))
    failed = [KVPoll.Success] + [KVPoll.Failed] * (len(LIVE) - 1)
    with pace.Stopwatch() as took:
        prefill.kill()
        soon(lambda: decode.poll(*LIVE), failed, LOST)
    assert took.seconds < LOST
    for room in LIVE[1:]:
        reason, _ = decode.fail(room)
        assert reason.startswith("prefill 127.0.0.1:")
        assert reason.endswith(" lost")
    soon(lambda: tables["prefill"].poll(LIVE), [KVPoll.Failed] * len(LIVE))
    assert "lost" in (tables["prefill"].failure_reason(LIVE[1]) or "")


def test_another_prefill_is_not_its_neighbour(plugged: Crew) -> None:
    """Two prefill instances serve one decode: who lives on keeps its rooms, in both processes."""
    prefill, _ = plugged.pair()
    other, decode = plugged.pair()
    prefill.open(5)
    other.open(6)
    decode.open(6)
    prefill.kill()
    time.sleep(LEASE + 1.0)  # what must not happen has had its time
    assert other.get(6) + decode.get(6) == [KVPoll.Bootstrapping, KVPoll.WaitingForInput]


def test_a_prefill_of_two_ranks_that_was_killed(plugged: Crew, tables: dict[str, StatusStore]) -> None:
    port = free_port()
    places = ({"role": "prefill", "tp_size": 2, "tp_rank": rank} for rank in (0, 1))
    first, second = plugged.start(*places, port=port)
    (decode,) = plugged.start({"role": "decode"}, port=port)
    assert decode.learn()
    for worker in (first, second, decode):
        worker.open(5)
    soon(lambda: len(tables["prefill"].collect(5)), 2)
    first.kill()
    second.kill()
    soon(lambda: decode.poll(5), [KVPoll.Failed], LOST)
    reason, _ = decode.fail(5)
    assert re.fullmatch(r"prefill 127\.0\.0\.1:\d+.* lost", reason)


def test_a_prefill_that_comes_back_serves_again(crew: Crew) -> None:
    """The same rooms, from the same address."""
    port = free_port()
    rooms = list(range(20))
    (prefill,) = crew.start({"role": "prefill"}, port=port)
    (decode,) = crew.start({"role": "decode"}, port=port)
    assert decode.learn()
    for worker in (prefill, decode):
        worker.open(*rooms)
    prefill.kill()
    decode.lose_prefill()
    assert decode.poll(*rooms) == [KVPoll.Failed] * len(rooms)
    decode.clear(*rooms)
    (prefill,) = crew.start({"role": "prefill"}, port=port)
    assert decode.learn()
    for worker in (prefill, decode):
        worker.serve(rooms, len(rooms))
    for worker in (prefill, decode):
        soon(lambda worker=worker: worker.served(), len(rooms), 20.0)
        results = worker.results()
        assert results["errors"] == []
        for room, (status, _) in results["ended"].items():
            fails = breaks(int(room)) or is_aborted(int(room))
            assert status == (KVPoll.Failed if fails else KVPoll.Success)
