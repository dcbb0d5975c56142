"""Client and server share a CPU for single calls, and no longer; a server that is not the run's own stays as it is."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from bench.one_cpu import on_one_cpu

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="a process cannot choose its CPU here")


@pytest.fixture
def server() -> Iterator[int]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process.pid
        process.kill()


def cpus(*pids: int) -> list[set[int]]:
    return [os.sched_getaffinity(pid) for pid in pids]


def test_client_and_server_are_on_one_cpu_meanwhile(server):
    before = cpus(0, server)
    with on_one_cpu(server) as is_one:
        assert is_one
        assert cpus(0, server) == [{min(before[0])}] * 2
    assert cpus(0, server) == before


def test_cpus_are_given_back_after_an_error(server):
    before = cpus(0, server)
    with pytest.raises(ValueError, match="a call failed"), on_one_cpu(server):
        raise ValueError("a call failed")
    assert cpus(0, server) == before


def test_client_of_anothers_server_stays_where_it_is():
    before = cpus(0)
    with on_one_cpu(None) as is_one:
        assert not is_one
        assert cpus(0) == before
