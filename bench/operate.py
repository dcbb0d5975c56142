"""What it costs to look at a large table: ``kvpoll ls --stuck``, statistics, and ``kvpoll serve`` with viewers.

The programs are processes of their own, so that their CPU and memory are theirs alone.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

from bench.ground import Ground
from bench.measure import Spread
from bench.results import Budget, Row, Section, Unit
from bench.services import free_ports
from redis_kvpoll import KVPoll, StatusStore

TABLE = "operate"
SCAN_BUDGET, ASKED_BUDGET = Budget(5000), Budget(2000)
WALK_BUDGET, MEMORY_BUDGET, CHANGE_BUDGET = Budget(0.10), Budget(200e6), Budget(60)
VIEWERS, VIEWERS_BUDGET = 20, Budget(0.05)
ROUNDS = 3
CHANGES_A_SECOND = 50
"""During the measurement of serve."""
_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class OperateSizes:
    """How much is measured."""

    listed: int
    """Rooms of the table that is listed and served."""
    followed: int
    """Rooms of the table that statistics follow."""
    changes: int
    viewed_seconds: float


def measure(ground: Ground, sizes: OperateSizes) -> Section:
    """The cost of looking at tables of some sizes."""
    section = Section("operate", "Looking at a large table", "", ours="figure")
    with ground.store(TABLE) as store:
        _fill(ground, store, 0, sizes.listed)
        with _serving(ground) as (server, url):
            section.rows += _lists(ground, url, sizes.listed)
            section.rows += _viewers(store, ground.ids(100), server, url, sizes.viewed_seconds)
        _fill(ground, store, sizes.listed, sizes.followed)
        section.rows += _statistics(ground, store, sizes)
    return section


def _row(name: str, unit: Unit, figures: list[float], budget: Budget | None = None, against: str = "") -> Row:
    figure = Spread.of(figures)
    shown = None if unit in ("ratio", "bytes") else figure.median
    return Row(name, against, unit, shown, None, figure, budget)


def _fill(ground: Ground, store: StatusStore, count: int, size: int) -> None:
    for at in range(count, size, 10_000):
        store.update_many(dict.fromkeys(ground.ids(min(10_000, size - at)), KVPoll.Transferring))


# Lists


def _lists(ground: Ground, url: str, count: int) -> list[Row]:
    """The command from its start to its end, and the CPU that it and the server take."""
    took: dict[str, list[float]] = {"alone": [], "asking": []}
    spent: dict[str, list[float]] = {"alone": [], "asking": []}
    for _ in range(ROUNDS):
        for way, more in (("alone", []), ("asking", ["--serve", url])):
            before, began = ground_cpu(ground) + _children_cpu(), time.perf_counter()
            _list(ground, more)
            took[way].append((time.perf_counter() - began) * 1000)
            spent[way].append((ground_cpu(ground) + _children_cpu() - before) * 1000)
    return [
        _row(f"ls --stuck of {count:,} rooms", "ms", took["alone"], SCAN_BUDGET),
        _row("its CPU, with the server's", "ms", spent["alone"]),
        _row(f"ls --stuck --serve of {count:,} rooms", "ms", took["asking"], ASKED_BUDGET),
        _row("its CPU, with the server's", "ms", spent["asking"]),
    ]


def _list(ground: Ground, more: list[str]) -> None:
    words = [sys.executable, "-m", "redis_kvpoll.cli", "ls", "--stuck=1ms", *more]
    where = ["--redis", ground.url, "-n", f"{ground.id}.{TABLE}"]
    done = subprocess.run([*words, *where], capture_output=True, text=True, check=True)  # noqa: S603 - our own program
    if ("kvpoll serve" in done.stderr) != bool(more) or "of no use" in done.stderr:
        raise RuntimeError(done.stderr)


# Serve


@contextlib.contextmanager
def _serving(ground: Ground) -> Iterator[tuple[int, str]]:
    """``kvpoll serve`` over the table, once it knows it: its process id, and its URL."""
    (port,) = free_ports(1)
    words = ["serve", "--redis", ground.url, "-n", f"{ground.id}.{TABLE}", "--port", str(port)]
    words = [sys.executable, "-m", "redis_kvpoll.cli", *words]
    with subprocess.Popen(words, stderr=subprocess.DEVNULL) as process:  # noqa: S603 - our own program
        try:
            url = f"http://127.0.0.1:{port}"
            while not _is_ready(url):
                if process.poll() is not None:
                    raise RuntimeError("kvpoll serve has ended")
                time.sleep(0.2)
            yield process.pid, url
        finally:
            process.terminate()


def _is_ready(url: str) -> bool:
    try:
        with urlopen(f"{url}/readyz", timeout=5) as reply:  # noqa: S310 - our own server
            return bool(reply.status == 200)
    except OSError:
        return False


def _viewers(store: StatusStore, rooms: list[int], server: int, url: str, seconds: float) -> list[Row]:
    """The share of a CPU that serve takes, beside changes: alone, and with viewers of its first page."""
    stop = threading.Event()
    changing = threading.Thread(target=_change, args=(store, rooms, stop))
    changing.start()
    try:
        alone = _share(server, seconds)
        with _watching(url):
            viewed = _share(server, seconds)
    finally:
        stop.set()
        changing.join()
    return [
        _row(f"serve with {VIEWERS} viewers, share of a CPU", "ratio", [viewed], VIEWERS_BUDGET),
        _row("serve with none", "ratio", [alone]),
    ]


def _change(store: StatusStore, rooms: list[int], stop: threading.Event) -> None:
    while not stop.is_set():
        for room in rooms:
            store.update_status(room, KVPoll.Bootstrapping)
            if stop.wait(1 / CHANGES_A_SECOND):
                return
        store.clear_many(rooms)


def _share(process: int, seconds: float) -> float:
    began, before = time.monotonic(), _cpu_of(process)
    time.sleep(seconds)
    return (_cpu_of(process) - before) / (time.monotonic() - began)


@contextlib.contextmanager
def _watching(url: str) -> Iterator[None]:
    """Viewers who read what the page gets."""
    connections = [http.client.HTTPConnection(url.removeprefix("http://")) for _ in range(VIEWERS)]
    readers = []
    for connection in connections:
        connection.request("GET", "/events?page=/")
        answer = connection.getresponse()
        readers.append(threading.Thread(target=_read, args=(answer,)))
        readers[-1].start()
    try:
        yield
    finally:
        for connection in connections:
            if connection.sock is not None:
                connection.sock.shutdown(2)
        for reader in readers:
            reader.join()


def _read(answer: http.client.HTTPResponse) -> None:
    with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
        while answer.readline():
            pass


# Statistics

FOLLOWER = """
import json, sys, time
from pathlib import Path
from redis_kvpoll import StatusStore

def memory():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))

def say(**facts):
    print(json.dumps({"memory": memory(), "cpu": time.process_time(), "at": time.monotonic(), **facts}), flush=True)

with StatusStore.from_url(sys.argv[1], namespace=sys.argv[2], read_only=True) as store:
    store.settings()
    say()
    with store.statistics() as statistics:
        statistics.wait_synced()
        say(rooms=statistics.snapshot().total)
        for line in sys.stdin:
            began = time.perf_counter()
            snapshot = statistics.snapshot()
            say(rooms=snapshot.total, snapshot=time.perf_counter() - began)
"""
"""A process that follows statistics: it tells of itself before the walk, after it, and for each line that it gets."""


def _statistics(ground: Ground, store: StatusStore, sizes: OperateSizes) -> list[Row]:
    words = [sys.executable, "-c", FOLLOWER, ground.url, f"{ground.id}.{TABLE}"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as follower:  # noqa: S603
        assert follower.stdin is not None  # noqa: S101 - pipes
        assert follower.stdout is not None  # noqa: S101

        def told() -> dict[str, float]:
            found: dict[str, float] = json.loads(follower.stdout.readline())  # type: ignore[union-attr]
            return found

        def ask() -> dict[str, float]:
            follower.stdin.write("\n")  # type: ignore[union-attr]
            follower.stdin.flush()  # type: ignore[union-attr]
            return told()

        first, before = told(), ground_cpu(ground)
        walked = told()
        share = (ground_cpu(ground) - before) / (walked["at"] - first["at"])
        seconds = walked["at"] - first["at"]
        then = ask()
        rooms = ground.ids(sizes.changes)
        for room in rooms:
            store.update_status(room, KVPoll.Bootstrapping)
        while (now := ask())["rooms"] < then["rooms"] + len(rooms):
            time.sleep(0.5)
        a_change = (now["cpu"] - then["cpu"]) / len(rooms) * 1e6
        follower.stdin.close()
    name = f"statistics of {sizes.followed:,} rooms"
    return [
        _row(f"{name}: the walk's share of the server", "ratio", [share], WALK_BUDGET),
        _row("the walk", "ms", [seconds * 1000]),
        _row("memory", "bytes", [walked["memory"] - first["memory"]], MEMORY_BUDGET),
        _row("CPU of the process, a change", "us", [a_change], CHANGE_BUDGET),
        _row("a snapshot", "us", [now["snapshot"] * 1e6]),
    ]


# CPU


def ground_cpu(ground: Ground) -> float:
    """Seconds of CPU that the server has taken."""
    found = ground.client.info("cpu")
    return float(found["used_cpu_user"]) + float(found["used_cpu_sys"])


def _children_cpu() -> float:
    found = os.times()
    return found.children_user + found.children_system


def _cpu_of(process: int) -> float:
    words = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / _TICK
