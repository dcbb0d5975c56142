"""Each alternative of the benchmark is correct on its real service, where that is installed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from random import Random

import pytest

from bench import services
from bench.ground import opened as open_ground
from bench.peers import contest
from bench.peers.contest import WAYS
from bench.peers.known import p99
from bench.peers.rates import Score, TurnCounts
from bench.peers.way import Way, merged
from redis_kvpoll import KVPoll
from tests.support import pace, real

ROOT = Path(__file__).parents[2]
UNGUARDED = ("naive", "zmq")


@pytest.fixture(scope="module")
def ground():
    with open_ground("embedded://") as found:
        yield found


def gone(pid: int) -> bool:
    for _ in pace.turns(10):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
    return False


@pytest.fixture(scope="module", params=WAYS)
def ways(request, ground):
    """A way's name, and a function that makes its two ends."""
    name = request.param
    with contest.opened(ground, only={WAYS[name].service}) as found:
        if name in found.missing:
            pytest.skip(found.missing[name])

        def ends(title: str) -> list[Callable[[], Way]]:
            return [partial(WAYS[name], end._replace(lock=found.lock)) for end in found.turn(name, title, 2)]

        yield name, ends


def test_every_way_merges_by_the_rule_and_notifies(ways):
    here, there = (end() for end in ways[1]("rule"))
    with contextlib.closing(here), contextlib.closing(there):
        room = 0
        for current in (None, *KVPoll):
            for incoming in KVPoll:
                room += 1
                if current is not None:
                    assert here.merge(room, KVPoll.Bootstrapping)
                    assert not here.merge(room, current)
                new = merged(current, incoming)
                assert here.merge(room, incoming) == (current is None and new is not None)
                assert here.read([room]) == [new], (current, incoming)
                assert here.clear(room) == (new is not None)
                assert here.read([room, room + 1]) == [None, None]
        here.merge(room + 1, KVPoll.Bootstrapping)
        there.listen([room + 1])
        here.announce(room + 1, KVPoll.Success)
        there.until(room + 1, KVPoll.Success)
        assert there.read([room + 1]) == [KVPoll.Success]


def test_answers_of_two_processes_at_once_add_up(ways):
    name, ends = ways
    if name in UNGUARDED:
        pytest.skip("it has no guard, as the benchmark's table shows")
    rooms, start = [1, 2], threading.Barrier(2)

    def play(end: Callable[[], Way], seed: int) -> int:
        random, sum_ = Random(seed), 0
        with contextlib.closing(end()) as way:
            start.wait(pace.seconds(60))
            for _ in range(150):
                room, status = random.choice(rooms), random.choice((1, 2, 3, 4, 0, None, None))
                sum_ += way.merge(room, status) if status is not None else -way.clear(room)
        return sum_

    here, there = ends("race")
    with ThreadPoolExecutor(2) as threads:
        created = sum(threads.map(play, (here, there), (1, 2)))
    with contextlib.closing(here()) as way:
        assert created == sum(status is not None for status in way.read(rooms))


def test_missing_service_is_named():
    service = services.Service("some-package", "no-such-program-at-all", "", services._nats)
    with pytest.raises(services.ServiceMissingError, match="not installed: Debian's some-package"):
        services.find(service)
    with pytest.raises(services.ServiceMissingError, match=r"not installed: Python's no_such_module \(extra bench\)"):
        services.find(services.Service("some-package", "sh", "no_such_module", services._nats))


def test_service_and_its_folder_end_with_the_block(tmp_path):
    folder = tmp_path / "service"
    folder.mkdir()
    # It answers at once, with its process id in its log.
    command = ["/bin/sh", "-c", "echo $$; exec sleep 60"]
    log = folder / "log"
    with services._guarded(command, folder, "TERM", lambda: log.exists() and log.read_text().endswith("\n")):
        pid = int(log.read_text())
        os.kill(pid, 0)
    assert gone(pid)
    assert not folder.exists()


def test_service_that_does_not_start_is_an_error(tmp_path):
    folder = tmp_path / "service"
    folder.mkdir()
    with (
        pytest.raises(services.ServiceMissingError, match="did not start: no room"),
        services._guarded(["/bin/sh", "-c", "echo no room >&2"], folder, "TERM", lambda: False),
    ):
        pass
    assert not folder.exists()


def test_killed_run_leaves_no_service(tmp_path):
    folder = tmp_path / "service"
    folder.mkdir()
    code = (
        "import pathlib, sys; from bench import services\n"
        "folder = pathlib.Path(sys.argv[1]); log = folder / 'log'\n"
        "with services._guarded(['/bin/sh', '-c', 'echo $$; exec sleep 60'], folder, 'TERM', lambda: log.exists()):\n"
        "    print('up', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(folder)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as run:
        assert run.stdout.readline() == b"up\n"
        log = real.until((folder / "log").read_text, "its process id")
        run.send_signal(signal.SIGKILL)
    assert gone(int(log))


def turn(created: int, cleared: int, left: list[int | None]) -> TurnCounts:
    return TurnCounts(10, created, cleared, 1.0, left)


@pytest.mark.parametrize(
    ("counts", "result"),
    [
        ([turn(3, 1, [4, None, 2]), turn(1, 1, [4, None, 2])], "correct"),
        ([turn(3, 1, [4, None, 2]), turn(2, 1, [4, None, 2])], "1 wrong"),  # two created the same room
        ([turn(3, 1, [4, None, 2]), turn(1, 1, [4, None, 1])], "1 rooms differ"),
        ([turn(4, 1, [4, None, 2]), turn(1, 1, [None, None, 1])], "1 wrong, 2 rooms differ"),
    ],
)
def test_score_checks_the_sum_and_the_final_tables(counts, result):
    score = Score()
    score.add(counts)
    assert (score.result, score.rates) == (result, [20.0])


def test_failure_is_noted_for_others_and_raised_for_ours(ground):
    found = contest.Contest(ground, None, None, None, {})
    with found.may_fail("etcd"):
        raise OSError("no answer")
    assert found.missing == {"etcd": "failed: OSError('no answer')"}
    with pytest.raises(OSError, match="no answer"), found.may_fail("ours"):
        raise OSError("no answer")


def test_p99_is_the_delay_that_99_of_100_do_not_exceed():
    assert p99([*range(1, 101)]) == 99
    assert p99([*range(1, 301)]) == 297
    assert p99([5.0]) == 5
