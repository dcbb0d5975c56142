"""A process with a channel, for tests that kill it: ``python -m tests.agent.client NAME ENGINE [--…]``.

It prints "connected", then does what each line of its standard input says, and ends with it.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import threading
import time
from pathlib import Path

from redis_kvpoll.agent import ring
from redis_kvpoll.agent.client.channel import AgentChannel, Timing
from redis_kvpoll.agent.client.launch import Launcher
from tests.agent.application import RECORD, record


def sockets():
    """The descriptors of this process's sockets."""
    found = []
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            if str(path.readlink()).startswith("socket:"):
                found.append(int(path.name))
    return found


def say(word):
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("engine")
    parser.add_argument("--messages", type=int, default=0)
    parser.add_argument("--megabytes", type=int, default=0)
    parser.add_argument("--hold", action="store_true", help="leave the socket to a child")
    parser.add_argument("--socket", action="store_true", help="use no ring")
    parser.add_argument("--application", default="tests.agent.application:make")
    parser.add_argument("--service", help="the path of the agent, which nobody here starts")
    parser.add_argument("--unanswered", type=int, default=10**6, help="ticks until it gives its agent up")
    options = parser.parse_args()
    if options.socket:
        ring.is_supported = lambda: False
    connected = threading.Event()
    channel = AgentChannel(
        options.service or Launcher(options.engine, options.application, ("--idle=0.5",)),
        options.name.encode(),
        lambda *_: None,
        lambda _: connected.set(),
        lambda: None,
        timing=Timing(unanswered=options.unanswered),
    )
    channel.start()
    connected.wait()
    touched = bytearray(options.megabytes << 20)
    touched[::4096] = b"x" * len(touched[::4096])
    if options.hold:
        child = subprocess.Popen(["sleep", "1000"], pass_fds=sockets(), stdout=subprocess.DEVNULL)
        record("holds", pid=child.pid)
    say("connected")
    for line in sys.stdin:
        if line == "send\n":
            for number in range(options.messages):
                while not channel.send(RECORD, b"%d" % number):
                    time.sleep(0.001)
            say("sent")
        elif line == "close\n":
            channel.close(20)
            say("closed")


if __name__ == "__main__":
    main()
