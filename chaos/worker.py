"""One worker: a process that uses the table until it is told to stop, or is killed.

It is told what to do by a line of JSON as its argument, and then by lines on its standard input; it answers each with a
line. When that input ends, so does the worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import itertools
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Coroutine, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from chaos.calls import MEANWHILE, Caller, Store
from chaos.handles import HandleCaller
from chaos.history import Writer
from chaos.notes import Notes, owner
from redis_kvpoll import AsyncMirror, AsyncStatusStore, KVPoll, Mirror, StatusStore
from redis_kvpoll.engine.session import StoreOptions

SYNC_SECONDS = 10.0
"""In which a mirror must be current again once all is quiet."""
LANES = 3
"""Threads or tasks of a worker that use its store at the same time."""


@dataclass(frozen=True)
class Plan:
    """What a worker is started with."""

    number: int
    url: str
    file: str
    seed: str
    start: float
    """On the monotonic clock: when the run began."""
    is_async: bool
    deadline: float
    ttl: float
    shards: int
    feed_length: int
    lease: float

    def text(self) -> str:
        return json.dumps(asdict(self))

    def options(self) -> StoreOptions:
        return StoreOptions(
            namespace="chaos",
            policy="strict",
            deadline=self.deadline,
            ttl=self.ttl,
            terminal_ttl=self.ttl,
            shards=self.shards,
            feed_length=self.feed_length,
        )


class Orders:
    """What the lines on standard input have said so far."""

    def __init__(self) -> None:
        self.quiet = threading.Event()
        """Make no more calls."""
        self.look = threading.Event()
        """Say what the mirror has of ``rooms``."""
        self.rooms: list[int] = []
        self.never = threading.Event()

    def listen(self) -> None:
        for line in sys.stdin:
            order: Any = json.loads(line)
            if order == "quiet":
                self.quiet.set()
            else:
                self.rooms = order
                self.look.set()
        os._exit(0)


def main() -> None:
    """Work."""
    _die_with_parent()
    plan = Plan(**json.loads(sys.argv[1]))
    orders = Orders()
    threading.Thread(target=orders.listen, daemon=True).start()
    if plan.is_async:
        asyncio.run(_work_async(plan, orders))
    else:
        _work(plan, orders)
    os._exit(0)  # past the thread that listens, which cannot be ended


def _work(plan: Plan, orders: Orders) -> None:
    writer = Writer(Path(plan.file))
    with StatusStore.from_url(plan.url, **plan.options()) as store, store.mirror() as mirror:
        for shift in itertools.count():
            callers = _callers(plan, store, mirror, writer, shift)
            with _lease(store, plan):
                if shift == 0:
                    _say("working")

                def lane(caller: Caller | HandleCaller, callers: Sequence[Notes] = callers) -> None:
                    while _goes_on(orders, callers):
                        finish(caller.call())
                        time.sleep(MEANWHILE)

                threads = [threading.Thread(target=lane, args=[caller]) for caller in callers]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                if not orders.quiet.is_set():
                    continue
                _say("quiet")
                orders.look.wait()
                since, give_up_at = time.monotonic(), time.monotonic() + SYNC_SECONDS
                while not _is_current(mirror, since) and time.monotonic() < give_up_at:
                    time.sleep(0.02)
                _say(json.dumps(_copy(mirror, orders.rooms, since)))
                orders.never.wait()  # others still look; at the end of a lease, its live rooms fail


async def _work_async(plan: Plan, orders: Orders) -> None:
    writer = Writer(Path(plan.file))
    async with AsyncStatusStore.from_url(plan.url, **plan.options()) as store, store.mirror() as mirror:
        for shift in itertools.count():
            callers = _callers(plan, store, mirror, writer, shift)
            async with _lease(store, plan):
                if shift == 0:
                    _say("working")

                async def lane(caller: Caller | HandleCaller, callers: Sequence[Notes] = callers) -> None:
                    while _goes_on(orders, callers):
                        await caller.call()
                        await asyncio.sleep(MEANWHILE)

                async with asyncio.TaskGroup() as group:
                    for caller in callers:
                        group.create_task(lane(caller))
                if not orders.quiet.is_set():
                    continue
                _say("quiet")
                await asyncio.to_thread(orders.look.wait)
                since, give_up_at = time.monotonic(), time.monotonic() + SYNC_SECONDS
                while not _is_current(mirror, since) and time.monotonic() < give_up_at:  # noqa: ASYNC110 - it is its lag
                    await asyncio.sleep(0.02)
                _say(json.dumps(_copy(mirror, orders.rooms, since)))
                await asyncio.to_thread(orders.never.wait)


def _lease(store: Store, plan: Plan) -> Any:
    """What makes a worker the owner of what it creates."""
    take = getattr(store, "lease", None)
    return take(owner(plan.number), ttl=plan.lease) if take else contextlib.nullcontext()


def _goes_on(orders: Orders, callers: Sequence[Notes]) -> bool:
    """Whether there is more to do. Who was taken for dead ends what is under way, and takes a new lease."""
    return not orders.quiet.is_set() and not any(caller.lost for caller in callers)


def _callers(
    plan: Plan, store: Store, mirror: Mirror | AsyncMirror, writer: Writer, shift: int
) -> list[Caller | HandleCaller]:
    """One lane makes plain calls, the others use handles."""
    seeds = [f"{plan.seed} {shift} {lane}" for lane in range(LANES)]
    handles = [HandleCaller(store, writer, seed, plan.start) for seed in seeds[1:]]
    return [Caller(store, mirror, writer, seeds[0], plan.start), *handles]


def finish(call: Coroutine[Any, Any, None]) -> None:
    """Run what awaits nothing that is not there at once."""
    try:
        call.send(None)
    except StopIteration:
        return
    raise RuntimeError("a blocking store was awaited")


def _is_current(mirror: Mirror | AsyncMirror, since: float) -> bool:
    """Whether it says that it is, and has seen the end of the feed since then."""
    return mirror.synced and time.monotonic() - mirror.lag > since


def _copy(mirror: Mirror | AsyncMirror, rooms: list[int], since: float) -> list[tuple[int, KVPoll | None]] | None:
    """What it says of these rooms; None if it is not current."""
    return list(zip(rooms, mirror.poll(rooms), strict=True)) if _is_current(mirror, since) else None


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _die_with_parent() -> None:
    """A worker that is stopped does not see its input end. The kernel kills it with its parent all the same."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


if __name__ == "__main__":
    main()
