"""The processes that keep the CPUs awake are of the idle class, and end with the benchmark."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.awake import cpus_awake
from tests.support import real
from tests.support.internals import is_process_gone

ROOT = Path(__file__).parents[2]
_HOLD = """
from bench.awake import cpus_awake
with cpus_awake() as are_awake:
    print(are_awake, flush=True)
    input()
"""

pytestmark = pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="the kernel's idle class is Linux's")


def children(parent: int) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


def test_one_process_of_the_idle_class_is_on_each_cpu():
    before = children(os.getpid())
    with cpus_awake() as are_awake:
        counting = [pid for pid in children(os.getpid()) if pid not in before]
        assert are_awake
        assert {os.sched_getscheduler(pid) for pid in counting} == {os.SCHED_IDLE}
        assert [os.sched_getaffinity(pid) for pid in counting] == [{cpu} for cpu in os.sched_getaffinity(0)]
    assert all(map(is_process_gone, counting))


def test_class_that_is_refused_leaves_no_process(monkeypatch):
    def refuse(*_: object) -> None:
        raise PermissionError

    before = children(os.getpid())
    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    with cpus_awake() as are_awake:
        assert not are_awake
        assert children(os.getpid()) == before


def test_share_of_a_session_is_taken_when_the_system_allows_it(monkeypatch):
    """Others than root are refused a second one at once."""
    refusals, taken = iter([BlockingIOError()]), []

    def write(path: Path, text: str, **_: str) -> None:
        for refusal in refusals:
            raise refusal
        taken.append((path.name, text))

    monkeypatch.setattr(Path, "exists", lambda _: True)
    monkeypatch.setattr(Path, "write_text", write)
    with cpus_awake() as are_awake:
        monkeypatch.undo()
        assert are_awake
    assert taken == [("autogroup", "19")] * len(os.sched_getaffinity(0))


def test_killed_benchmark_leaves_no_process():
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as bench:
        assert bench.stdout
        assert bench.stdout.readline() == "True\n"
        counting = children(bench.pid)
        assert len(counting) == len(os.sched_getaffinity(0))
        bench.kill()
    real.until(lambda: all(map(is_process_gone, counting)), "they end")
