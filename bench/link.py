"""What the plugin's link takes of a CPU in SGLang's process, while changes come that do not concern it.

The link is the real one, in a process of its own, without SGLang: it holds no room.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from multiprocessing.connection import Connection
from typing import Any

from bench.ground import Ground
from redis_kvpoll import KVPoll
from redis_kvpoll.integrations.sglang.compat import ProcessIdentity
from redis_kvpoll.integrations.sglang.settings import PluginSettings
from redis_kvpoll.integrations.sglang.worker import TableWorker

RATE = 200.0
"""Changes a second in the table of the link's own role."""
_JOIN_SECONDS = 30.0


def cpu_percent(ground: Ground, seconds: float) -> float:
    """Percent of a CPU during so many seconds of changes."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_link, args=(ground.url, f"{ground.id}.link", theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        _receive(ours)
        with ground.store("link-prefill", policy="strict") as store:
            rooms = ground.ids(int(RATE * seconds))
            store.counts()  # connects
            before, began = _ask(ours), time.monotonic()
            for number, room in enumerate(rooms):
                time.sleep(max(0.0, began + number / RATE - time.monotonic()))
                store.update_status(room, KVPoll.Bootstrapping)
            used, took = _ask(ours) - before, time.monotonic() - began
        return 100 * used / took
    finally:
        ours.close()
        process.join(5)
        process.kill()
        process.join()


def _ask(pipe: Connection[Any, Any]) -> float:
    pipe.send("used")
    return _receive(pipe)


def _receive(pipe: Connection[Any, Any]) -> float:
    if not pipe.poll(_JOIN_SECONDS):
        raise TimeoutError("the plugin's link does not answer")
    return float(pipe.recv())


def _link(url: str, namespace: str, pipe: Connection[Any, Any]) -> None:
    """Join the table; then say what CPU this process has used, whenever it is asked."""
    identity = ProcessIdentity("prefill", "prefill/bench", "prefill/bench@127.0.0.1:1", 0, 1, (0,))
    worker = TableWorker(PluginSettings(url, namespace=namespace), identity)
    worker.join()
    pipe.send(0.0)
    with contextlib.suppress(EOFError, OSError):
        while True:
            pipe.recv()
            pipe.send(time.process_time())
    worker.close()
