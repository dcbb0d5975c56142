"""A process of SGLang on an agent, with a stand-in for its manager: run by test_agent.py.

Its argument is how many rooms it opens. It says "open". Told to "end", it makes more changes and kills itself; else it
answers with the statuses of its rooms.
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
    sglang = manager(rank_port=PORT)
    plugin.after_init(None, sglang)
    rooms = range(FIRST, FIRST + int(sys.argv[1]))
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
