"""The doctor's look at one namespace, as ``serve`` takes it each minute."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

from redis_kvpoll.doctor import registry
from redis_kvpoll.doctor.examination import Doctor
from redis_kvpoll.doctor.findings import Finding


class Examination(NamedTuple):
    """What one look has found."""

    findings: Sequence[Finding]
    """Worst first."""
    server: str
    """valkey, redis; empty if it was not told."""
    server_version: str


Examine = Callable[[float | None], Examination]
"""Looks, for some seconds, which it blocks. It takes how many seconds the statistics are behind, if that is known."""


def examiner(url: str, namespace: str) -> Examine:
    """Return the doctor of a namespace; each of its looks compares with the one before."""
    doctor = Doctor(url, namespace)

    def examine(lag: float | None) -> Examination:
        facts = doctor.look(lag)
        info = next((node.info for node in facts.nodes if node.info), {})
        server = info.get("server_name", "redis" if "redis_version" in info else "")
        version = info.get(f"{server}_version", info.get("redis_version", ""))
        return Examination(registry.run(facts), server, version)

    return examine


async def in_daemon_thread(examine: Examine, lag: float | None) -> Examination:
    """Return the result of a look, in a thread of its own, for which the end of the process does not wait."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Examination] = loop.create_future()

    def settle(result: Examination | None, error: BaseException | None) -> None:
        if done.cancelled():
            return
        if result is None:
            done.set_exception(error or RuntimeError("no result"))
        else:
            done.set_result(result)

    def look() -> None:
        result, error = None, None
        try:
            result = examine(lag)
        except Exception as caught:
            error = caught
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=look, name="the doctor's look", daemon=True).start()
    return await done
