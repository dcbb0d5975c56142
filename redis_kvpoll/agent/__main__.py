"""``python -m redis_kvpoll.agent``: the process of an agent that one of its clients has started.

It leaves the client's process tree before it imports anything large, so that the client waits for milliseconds.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run an agent until it ends; returns the exit status."""
    options = _parse(arguments)
    if os.fork():
        os._exit(0)  # The client waits for this one; the agent's parent is now init, or a subreaper.
    _forget_client()
    from redis_kvpoll.agent.server import running

    return running.run_started(options)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m redis_kvpoll.agent", description="The agent of an engine.")
    parser.add_argument("application", help="module:function that makes what opens the sessions")
    parser.add_argument("--name", required=True, help="the engine's name")
    parser.add_argument("--number", type=int, required=True, help="the agent's number")
    parser.add_argument("--descriptor", type=int, required=True, help="the listening socket")
    parser.add_argument("--idle", type=float, default=10.0, help="end so many seconds after the last process left")
    parser.add_argument("--limit", type=float, default=900.0, help="the same if not all is told by then; a room's TTL")
    return parser.parse_args(arguments)


def _forget_client() -> None:
    """Drop what an agent inherits from the thread that started it."""
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # It ends with its clients, not with a terminal.
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    with contextlib.suppress(AttributeError, OSError):
        os.sched_setaffinity(0, range(os.cpu_count() or 1))  # The kernel takes those that are allowed.


if __name__ == "__main__":
    sys.exit(main())
