"""SGLang's prefill and decode side by hand, without a GPU: one in each of two shells. docs/sglang.md goes through it.

    make rehearse ROLE=prefill
    make rehearse ROLE=decode

Managers, senders and receivers are SGLang's own; the pages of the cache alone are not sent. A line is an order and its
arguments, mostly a room.
"""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

from tests.sglang.managers import KVPoll
from tests.sglang.worker import Worker

BOOTSTRAP_PORT = 8998
PORTS = {"prefill": 30000, "decode": 30001}
STATUSES = {value: name for name, value in vars(KVPoll).items() if isinstance(value, int)}
ORDERS = {
    "prefill": {"open": "make its sender", "send": "send the pages"},
    "decode": {"open": "make its receiver", "ask": "tell prefill where the pages go"},
}
BOTH = {
    "poll": "its status",
    "abort": "end it, as a client that has gone does",
    "fail": "its failure_exception: why it failed",
    "clear": "forget it",
}


def main(role: str) -> None:
    """Do what is typed."""
    logging.getLogger("redis_kvpoll").setLevel(logging.INFO)
    settings = {"role": role, "bootstrap_port": BOOTSTRAP_PORT, "port": PORTS[role]}
    worker = Worker({"settings": settings, "bootstraps": role == "prefill", "broken": None})
    orders = ORDERS[role] | BOTH
    say("\n".join(f"  {name} ROOM   {what}" for name, what in orders.items()))
    while True:
        say(f"{role}> ", end="")
        words = sys.stdin.readline().split()
        if not words:
            return
        try:
            name, rooms = words[0], [int(word) for word in words[1:]]
            if role == "decode" and name == "open":
                worker.learn()
            answer: Any = getattr(worker, name)(*rooms) if name in orders else "there is no such order"
        except Exception as error:
            answer = f"{type(error).__name__}: {error}"
        if name == "poll" and isinstance(answer, list):
            answer = ", ".join(STATUSES[status] for status in answer)
        if answer is not None:
            say(answer if isinstance(answer, str) else json.dumps(answer))


def say(text: str, end: str = "\n") -> None:
    sys.stdout.write(text + end)
    sys.stdout.flush()


if __name__ == "__main__":
    if sys.argv[1:] not in (["prefill"], ["decode"]):
        sys.exit("usage: python -m tests.sglang.rehearse prefill|decode")
    main(sys.argv[1])
