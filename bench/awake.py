"""Keep the CPUs awake while single calls are timed.

A call waits twice: until the server runs, and until the caller runs again. Where a CPU sleeps meanwhile, above all in a
virtual machine, its waking takes as long as the call, and most of what is measured is waking. The hosts of a serving
cluster are not idle. So one process on each CPU counts in the kernel's idle class: it runs only while nobody else wants
that CPU.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

# It ends with its parent, however that ends.
_COUNT = """
import os, sys
while os.getppid() == int(sys.argv[1]):
    for _ in range(10_000):
        pass
"""


@contextlib.contextmanager
def cpus_awake() -> Iterator[bool]:
    """Keep this process's CPUs awake; False where the system has no idle class (it is Linux's), and they may sleep."""
    with contextlib.ExitStack() as closing:
        yield hasattr(os, "SCHED_IDLE") and _keep_awake(closing)


def _keep_awake(closing: contextlib.ExitStack) -> bool:
    try:
        for cpu in os.sched_getaffinity(0):
            command = [sys.executable, "-I", "-c", _COUNT, str(os.getpid())]
            process = subprocess.Popen(command, start_new_session=True)  # noqa: S603 - Python
            closing.callback(process.wait)
            closing.callback(process.kill)
            os.sched_setaffinity(process.pid, {cpu})
            os.sched_setscheduler(process.pid, os.SCHED_IDLE, os.sched_param(0))
            _take_least_share(process.pid)
    except OSError:  # a container may refuse the class
        closing.close()
        return False
    return True


def _take_least_share(pid: int) -> None:
    """Where each session has its share of a CPU (autogroup), give this process's session the least.

    Only root may do so more than once in 100 ms.
    """
    share = Path(f"/proc/{pid}/autogroup")
    until = time.monotonic() + 1
    while share.exists():
        try:
            share.write_text("19", encoding="ascii")
        except BlockingIOError:
            if time.monotonic() > until:
                raise
            time.sleep(0.02)
        else:
            return
