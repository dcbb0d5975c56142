"""Tables for the pictures, like those of a busy deployment: traffic in waves, stuck rooms, a worker that dies.

What happens is the same in each run (the seed is fixed); times and ages are the server's own, so they differ.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import math
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

from redis_kvpoll import KVPoll, Room, StatusStore

ROLES = ("prefill", "decode")
NAMESPACES = tuple(f"prod-{role}" for role in ROLES)
PREFILL = ("prefill/10.0.0.1:8998", "prefill/10.0.0.2:8998")
DECODE = ("decode/10.0.0.7:30000", "decode/10.0.0.8:30000")
KILLED = "prefill/10.0.0.3:8998"
"""The worker that is killed at the end."""
KILLED_HEARTBEAT = 1.6
"""Seconds, of a ttl of 5: an owner stays suspected for two heartbeats, long enough for some commands."""
STUCK = {4402177609215883310: "62fd1c53", 7216003984456718022: "0c8e55d1"}
SHOWN = 4398046511105299417
"""The room of the pictures of one room: it fails in a transfer."""
ROOMS_OF_THE_KILLED = (5839001276639914485, 8101420537714420816)
RATE = 2.5
"""Requests a second, in waves of WAVE seconds."""
WAVE = 420.0
REASONS = (
    *["Mooncake session 10.0.0.2:14211 failed"] * 3,
    *["Request timed out after 300.0s in KVPoll.Bootstrapping"] * 2,
    "client disconnected",
)


class Traffic(threading.Thread):
    """Requests over both tables, until ``stop``."""

    def __init__(self, stores: dict[str, list[StatusStore]]) -> None:
        super().__init__(name="traffic", daemon=True)
        self._stores = stores
        self._random = Random(7)  # noqa: S311 - a scene, not a secret
        self._due: list[tuple[float, int, Callable[[], Any]]] = []
        self._number = itertools.count()
        self._ended = threading.Event()

    def stop(self) -> None:
        self._ended.set()
        self.join()

    def fail_one(self) -> None:
        """Let the room SHOWN live its life, which fails on both sides."""
        handles = [self._stores[role][1].open(SHOWN, request="d3fd6575") for role in ROLES]
        for status, seconds in ((KVPoll.WaitingForInput, 0.12), (KVPoll.Transferring, 0.31)):
            time.sleep(seconds / 4)
            self._all(handles, status)
            time.sleep(seconds)
        handles[0].fail("Mooncake session 10.0.0.2:14211 failed")
        handles[1].fail("failed on the prefill side")

    def run(self) -> None:
        began = time.monotonic()
        self._at(began, self._begin, began)
        while not self._ended.is_set():
            at, _, do = self._due[0]
            if self._ended.wait(max(0.0, at - time.monotonic())):
                return
            heapq.heappop(self._due)
            do()

    def _at(self, at: float, do: Callable[..., Any], *arguments: Any) -> None:
        heapq.heappush(self._due, (at, next(self._number), lambda: do(*arguments)))

    def _begin(self, began: float) -> None:
        now, random = time.monotonic(), self._random
        wave = 1 + 0.6 * math.sin(2 * math.pi * (now - began) / WAVE)
        self._at(now + random.expovariate(RATE * wave), self._begin, began)
        room, request = random.randrange(10**18, 2**63), f"{random.getrandbits(32):08x}"
        handles = [random.choice(self._stores[role]).open(room, request=request) for role in ROLES]
        waited = random.lognormvariate(-1, 1)
        moves = waited + random.lognormvariate(0.2, 0.8)
        ends = moves + random.lognormvariate(0.4, 0.7) * wave
        self._at(now + waited, self._all, handles, KVPoll.WaitingForInput)
        self._at(now + moves, self._all, handles, KVPoll.Transferring)
        if random.random() < 0.05:
            self._at(now + ends, handles[0].fail, random.choice(REASONS))
            self._at(now + ends + 0.02, handles[1].fail, "failed on the prefill side")
        else:
            self._at(now + ends, self._all, handles, KVPoll.Success)
        for handle in handles:
            self._at(now + ends + random.uniform(1, 4), handle.clear)
        if random.random() < 0.02:  # a late message, which the table refuses
            self._at(now + ends + 5, handles[0].update, KVPoll.Transferring)

    def _all(self, handles: list[Room], status: KVPoll) -> None:
        for handle in handles:
            handle.update(status)


@contextlib.contextmanager
def tables(url: str) -> Iterator[Traffic]:
    """Both tables under traffic, with stuck rooms."""
    with contextlib.ExitStack() as stack:
        stores: dict[str, list[StatusStore]] = {}
        for role, owners in zip(ROLES, (PREFILL, DECODE), strict=True):
            stores[role] = [
                stack.enter_context(StatusStore.from_url(url, namespace=f"prod-{role}", policy="strict"))
                for _ in owners
            ]
            for store, owner in zip(stores[role], owners, strict=True):
                stack.enter_context(store.lease(owner))
        for room, request in STUCK.items():
            stores["prefill"][1].open(room, request=request).update(KVPoll.Transferring)
        traffic = Traffic(stores)
        traffic.start()
        yield traffic
        traffic.stop()


@contextlib.contextmanager
def killed_worker(url: str) -> Iterator[None]:
    """A worker that is killed with SIGKILL; from here on it is suspected, and soon lost."""
    worker = subprocess.Popen([sys.executable, __file__, url], stdout=subprocess.PIPE)  # noqa: S603 - this file
    assert worker.stdout is not None  # noqa: S101 - it is a pipe
    worker.stdout.readline()
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    worker.stdout.close()
    with StatusStore.from_url(url, namespace=NAMESPACES[0], read_only=True) as store:
        while all(owner.state != "suspected" for owner in store.owners()):
            time.sleep(0.02)
        yield
        while store.get(ROOMS_OF_THE_KILLED[0]) is not KVPoll.Failed:
            time.sleep(0.02)


def _work(url: str) -> None:
    """The worker that is killed."""
    with StatusStore.from_url(url, namespace=NAMESPACES[0]) as store, store.lease(KILLED, heartbeat=KILLED_HEARTBEAT):
        for room in ROOMS_OF_THE_KILLED:
            store.open(room, request=f"{room % 2**32:08x}").update(KVPoll.WaitingForInput)
        print("ready", flush=True)  # noqa: T201
        time.sleep(60)


if __name__ == "__main__":
    _work(sys.argv[1])
