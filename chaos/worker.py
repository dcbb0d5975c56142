"""One worker: a process that uses the table until it gets a command to stop, or is killed.

Its plan is a line of JSON in its argument. Commands are lines of JSON on standard input; the worker answers each with a
line. It ends with that input.
"""

from __future__ import annotations

import asyncio
import ctypes
import itertools
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from chaos.calls import CALL_INTERVAL, PlainCaller, Store
from chaos.following import FollowingCaller, Holdings
from chaos.handles import HandleCaller
from chaos.history import HistoryWriter
from chaos.holding import HoldingCaller, WaitingCaller
from chaos.recording import Recorder, owner
from redis_kvpoll import AsyncMirror, AsyncStatusStore, KVPoll, Mirror, StatusStore
from redis_kvpoll.engine.store_options import StoreOptions

SYNC_SECONDS = 10.0
"""Seconds within which a mirror must be synced once no calls are made."""
CALLERS = 3
"""Threads or tasks of a worker that share its store."""

Mirrors = Sequence[Mirror | AsyncMirror]
Caller = PlainCaller | HandleCaller | WaitingCaller | FollowingCaller


@dataclass(frozen=True)
class Plan:
    """What a worker is started with."""

    number: int
    url: str
    file: str
    seed: str
    start: float
    """When the run began, on the monotonic clock."""
    is_async: bool
    deadline: float
    ttl: float
    shards: int
    feed_length: int
    lease: float
    is_holding: bool = False
    """Whether it also holds rooms for the whole run."""
    mirrors: int = 1
    followers: int = 0
    """Followers of failures. With some, it also works on the rooms that they follow."""

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


class Commands:
    """The commands received so far."""

    def __init__(self) -> None:
        self.quiesce = threading.Event()
        """Make no more calls."""
        self.report = threading.Event()
        """Print the mirror's statuses of ``rooms``."""
        self.rooms: list[int] = []
        self.never = threading.Event()

    def receive(self) -> None:
        for line in sys.stdin:
            command: Any = json.loads(line)
            if command == "quiesce":
                self.quiesce.set()
            else:
                self.rooms = command
                self.report.set()
        os._exit(0)


def main() -> None:
    """Run one worker."""
    die_with_parent()
    plan = Plan(**json.loads(sys.argv[1]))
    commands = Commands()
    threading.Thread(target=commands.receive, daemon=True).start()
    if plan.is_async:
        asyncio.run(_work_async(plan, commands))
    else:
        _work(plan, commands)
    os._exit(0)  # the thread that reads commands cannot be ended


def _work(plan: Plan, commands: Commands) -> None:
    writer = HistoryWriter(Path(plan.file))
    holdings = Holdings(writer)
    with ExitStack() as stack:
        store = stack.enter_context(StatusStore.from_url(plan.url, **plan.options()))
        mirrors = [stack.enter_context(store.mirror()) for _ in range(plan.mirrors)]
        for _ in range(plan.followers):
            holdings.add(stack.enter_context(store.failures(holdings.rooms)))
        for lease_number in itertools.count():
            callers = _callers(plan, store, mirrors, writer, lease_number, holdings)
            with _lease(store, plan):
                if lease_number == 0:
                    answer("working")

                def make_calls(caller: Caller, callers: Sequence[Recorder] = callers) -> None:
                    while _may_continue(commands, callers):
                        finish(caller.call())
                        time.sleep(CALL_INTERVAL)

                threads = [threading.Thread(target=make_calls, args=[caller]) for caller in callers]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                if not commands.quiesce.is_set():
                    continue
                answer("quiet")
                commands.report.wait()
                since, give_up_at = time.monotonic(), time.monotonic() + SYNC_SECONDS
                while not _are_current(mirrors, holdings, since) and time.monotonic() < give_up_at:
                    time.sleep(0.02)
                holdings.record(since)
                answer(json.dumps(_copies(mirrors, commands.rooms, since)))
                commands.never.wait()  # the lease must last: its end would fail rooms that are still being read


async def _work_async(plan: Plan, commands: Commands) -> None:
    writer = HistoryWriter(Path(plan.file))
    holdings = Holdings(writer)
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(AsyncStatusStore.from_url(plan.url, **plan.options()))
        mirrors = [await stack.enter_async_context(store.mirror()) for _ in range(plan.mirrors)]
        for _ in range(plan.followers):
            holdings.add(await stack.enter_async_context(store.failures(holdings.rooms)))
        for lease_number in itertools.count():
            callers = _callers(plan, store, mirrors, writer, lease_number, holdings)
            async with _lease(store, plan):
                if lease_number == 0:
                    answer("working")

                async def make_calls(caller: Caller, callers: Sequence[Recorder] = callers) -> None:
                    while _may_continue(commands, callers):
                        await caller.call()
                        await asyncio.sleep(CALL_INTERVAL)

                async with asyncio.TaskGroup() as group:
                    for caller in callers:
                        group.create_task(make_calls(caller))
                if not commands.quiesce.is_set():
                    continue
                answer("quiet")
                await asyncio.to_thread(commands.report.wait)
                since, give_up_at = time.monotonic(), time.monotonic() + SYNC_SECONDS
                while not _are_current(mirrors, holdings, since) and time.monotonic() < give_up_at:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
                holdings.record(since)
                answer(json.dumps(_copies(mirrors, commands.rooms, since)))
                await asyncio.to_thread(commands.never.wait)


def _lease(store: Store, plan: Plan) -> Any:
    """The lease that makes a worker the owner of the rooms it creates."""
    return store.lease(owner(plan.number), ttl=plan.lease)


def _may_continue(commands: Commands, callers: Sequence[Recorder]) -> bool:
    """Whether callers go on. After the loss of a lease they end, and start again under a new lease."""
    return not commands.quiesce.is_set() and not any(caller.lost_lease for caller in callers)


def _callers(
    plan: Plan, store: Store, mirrors: Mirrors, writer: HistoryWriter, lease_number: int, holdings: Holdings
) -> list[Caller]:
    """One caller of plain calls; the others use handles. If the plan says so, more work on rooms that are held for the
    whole run, or followed."""
    seeds = [f"{plan.seed} {lease_number} {number}" for number in range(CALLERS)]
    handles = [HandleCaller(store, writer, seed, plan.start) for seed in seeds[1:]]
    callers: list[Caller] = [PlainCaller(store, mirrors, writer, seeds[0], plan.start), *handles]
    if plan.is_holding:
        seed = f"{plan.seed} {lease_number} holding"
        holder = HoldingCaller(store, writer, seed, plan.start, plan.number, lease_number)
        callers += [holder, WaitingCaller(store, writer, seed, plan.start, holder)]
    if plan.followers:
        seed = f"{plan.seed} {lease_number} following"
        callers.append(FollowingCaller(store, writer, seed, plan.start, holdings))
    return callers


def finish(call: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine that must not really wait."""
    try:
        call.send(None)
    except StopIteration:
        return
    raise RuntimeError("a blocking store was awaited")


def _is_current(mirror: Mirror | AsyncMirror, since: float) -> bool:
    """Whether the mirror is synced and has read the end of the feed since a time."""
    return mirror.synced and time.monotonic() - mirror.lag > since


def _are_current(mirrors: Mirrors, holdings: Holdings, since: float) -> bool:
    return all(_is_current(mirror, since) for mirror in mirrors) and holdings.are_current(since)


def _copies(mirrors: Mirrors, rooms: list[int], since: float) -> list[list[tuple[int, KVPoll | None]] | None]:
    """Each mirror's statuses of these rooms; None for one that is not current."""
    return [
        list(zip(rooms, mirror.poll(rooms), strict=True)) if _is_current(mirror, since) else None for mirror in mirrors
    ]


def answer(line: str) -> None:
    """Send a line to the pool."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def die_with_parent() -> None:
    """Let the kernel kill this process with its parent: a stopped worker does not notice the end of its input."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


if __name__ == "__main__":
    main()
