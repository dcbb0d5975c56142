"""One process imports SGLang, which takes seconds, and every worker is a fork of it, which takes none.

Its standard input is a unix socket. Each message there has the file descriptor that becomes a worker's standard input
and output. It forks before SGLang has opened any socket or started any thread, which it asserts.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import sys
import threading
from typing import Any


def main() -> None:
    """Fork a worker for each message, until the input ends."""
    _die_with_parent()
    from tests.sglang import worker  # all of SGLang comes with it

    assert threading.active_count() == 1, threading.enumerate()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps the children
    commands = socket.socket(fileno=0)
    commands.sendall(b"ready\n")
    while True:
        line, descriptors, _, _ = socket.recv_fds(commands, 65536, 1)
        if not line:
            os._exit(0)
        plan = json.loads(line)
        child = os.fork()
        if child == 0:
            _become(plan, descriptors[0], commands)
            worker.main(plan)
        os.close(descriptors[0])
        commands.sendall(b"%d\n" % child)


def _become(plan: dict[str, Any], descriptor: int, commands: socket.socket) -> None:
    """Become a worker, which does not outlive the host."""
    _die_with_parent()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    errors = os.open(plan["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    commands.detach()
    for number, source in ((0, descriptor), (1, descriptor), (2, errors)):
        os.dup2(source, number)
    for number in (descriptor, errors):
        os.close(number)
    sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    os.environ.update(plan["environment"])


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


if __name__ == "__main__":
    main()
