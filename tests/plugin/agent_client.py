"""A process of SGLang on an agent, with a stand-in for its manager: run by test_agent.py.

Its arguments are how many rooms it opens, and how many megabytes it touches. It says "open". Told to "end", it makes
more changes and kills itself; else it answers with the statuses of its rooms.
"""

from __future__ import annotations

import os
import signal
import sys

from redis_kvpoll.integrations.sglang import plugin
from tests.support.standin import manager

FIRST = 7000
PORT = 41000


def main() -> None:
    count, megabytes = map(int, sys.argv[1:])
    touched = bytearray(megabytes << 20)  # before it has a lease, since this holds the interpreter lock
    for page in range(0, len(touched), 4096):
        touched[page] = 1
    sglang = manager(rank_port=PORT)
    plugin.after_init(None, sglang)
    rooms = range(FIRST, FIRST + count)
    for room in rooms:
        sglang.request_status[room] = 1
    sys.stdout.write("open\n")
    sys.stdout.flush()
    while sys.stdin.readline() != "end\n":
        sys.stdout.write(f"{sorted(set(sglang.request_status.values()))}\n")
        sys.stdout.flush()
    for room in rooms:
        sglang.request_status[room] = 3
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
