"""Keep client and server on one CPU while single calls are timed.

With a CPU each, a call waits twice for a CPU to be woken: until the server runs, and until the caller runs again. That
takes as long as the call, above all in a virtual machine, and it is the same for all contenders, so it hides what they
differ in. On one CPU a call takes what the client, the kernel and the server do for it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator


@contextlib.contextmanager
def on_one_cpu(server: int | None) -> Iterator[bool]:
    """Keep this thread, the threads that it starts meanwhile, and the server on one CPU.

    ``server`` is the process id of the run's own server; None if it is another's, and maybe on another host. False, and
    all stay where they are, if it is None, or if the system does not let a process choose its CPU.
    """
    if server is None or not hasattr(os, "sched_setaffinity"):
        yield False
        return
    allowed = {pid: os.sched_getaffinity(pid) for pid in (0, server)}  # the server's first thread executes all commands
    try:
        for pid in allowed:
            os.sched_setaffinity(pid, {min(allowed[0])})
        yield True
    finally:
        for pid, cpus in allowed.items():
            os.sched_setaffinity(pid, cpus)
