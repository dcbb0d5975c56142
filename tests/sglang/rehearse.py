"""SGLang's prefill and decode side by hand, without a GPU: one in each of two shells. docs/sglang.md goes through it.

    make rehearse ROLE=prefill
    make rehearse ROLE=decode

Managers, senders and receivers are SGLang's own; the pages of the cache alone are not sent. A line is an order and its
rooms. What is logged looks as it does in SGLang's own logs.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from typing import Any

from redis_kvpoll import KVPoll

USAGE = "usage: make rehearse ROLE=prefill, and in another shell: make rehearse ROLE=decode"
BOOTSTRAP_PORT = 8998
PORTS = {"prefill": 30000, "decode": 30001}
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
    """Do what is typed, until the input ends."""
    os.environ.setdefault("SGLANG_HOST_IP", "127.0.0.1")
    worker = start(role)
    say("\n".join(f"  {name + ' ROOM':12} {what}" for name, what in (ORDERS[role] | BOTH).items()))
    say(f"This is process {os.getpid()}. Ctrl-D ends it in order, kill -9 {os.getpid()} does not.")
    while True:
        try:
            words = input(f"{role}> ").split()
        except EOFError:
            say("")
            return
        if words:
            obey(worker, role, *words)


def start(role: str) -> Any:
    """SGLang's manager of a role, with its logs as SGLang shows them."""
    from tests.sglang.worker import Worker

    settings = {"role": role, "bootstrap_port": BOOTSTRAP_PORT, "port": PORTS[role]}
    handler = logging.StreamHandler()
    # The prompt is over by the time that something is said.
    handler.setFormatter(logging.Formatter("\r[%(asctime)s] %(message)s", datefmt="%Y-%m-%d %H:%M:%S"))
    logging.getLogger().addHandler(handler)
    logging.getLogger().setLevel(logging.INFO)
    worker = Worker({"settings": settings, "bootstraps": role == "prefill", "broken": None})
    logging.getLogger("redis_kvpoll").setLevel(logging.INFO)
    return worker


def obey(worker: Any, role: str, name: str, *words: str) -> None:
    """Do one order for each of its rooms, and say what came of it."""
    orders = ORDERS[role] | BOTH
    if name not in orders or not words or not all(word.isdecimal() for word in words):
        say(f"an order is one of {', '.join(orders)}, and rooms, which are numbers: poll 42")
        return
    for room in map(int, words):
        if name != "open" and not worker.has(room):
            say(f"room {room} has not been opened here: open {room}")
            continue
        try:
            answer = do(worker, role, name, room)
        except Exception as error:
            answer = f"{type(error).__name__}: {error}"
        if answer:
            say(answer)


def do(worker: Any, role: str, name: str, room: int) -> str | None:
    """One order for one room; what is to be said of it."""
    if name == "open" and role == "decode" and not worker.learn():
        return "prefill is not there yet: start it in another shell"
    if name == "send" and not worker.is_asked_for(room):
        return f"decode has not said yet where the pages go: ask {room}, there"
    answer: Any = getattr(worker, name)(room)
    if name == "poll":
        return str(KVPoll(answer[0]).name)
    if name == "fail":
        reason, is_of_another = answer
        return f"{reason} (said by another rank)" if is_of_another else str(reason)
    return None


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    if sys.argv[1:] not in (["prefill"], ["decode"]):
        sys.exit(USAGE)
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - input() then edits lines, and knows those before
    try:
        main(sys.argv[1])
    except KeyboardInterrupt:
        say("")
