"""SGLang's prefill and decode side by hand, without a GPU: one in each of two shells. docs/sglang.md goes through it.

    make rehearse ROLE=prefill
    make rehearse ROLE=decode

Managers, senders and receivers are SGLang's own; only the pages of the cache are not sent. A line is a command and its
rooms. Log lines look as in SGLang's own logs.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

from redis_kvpoll import KVPoll

USAGE = "usage: make rehearse ROLE=prefill, and in another shell: make rehearse ROLE=decode"
BOOTSTRAP_PORT = 8998
HEARTBEAT_SECONDS = 8
"""SGLang's own default is 5 s. Two heartbeats must fail, so the table's lease of 5 s + 2 s always comes first here."""
PORTS = {"prefill": 30000, "decode": 30001}
COMMANDS = {
    "prefill": {"open": "make its sender", "send": "send the pages"},
    "decode": {"open": "make its receiver", "ask": "tell prefill where the pages go"},
}
COMMON_COMMANDS = {
    "poll": "its status",
    "abort": "end it, as when its client disconnects",
    "fail": "its failure_exception: why it failed",
    "clear": "forget it",
}


def main(role: str, port: int = BOOTSTRAP_PORT) -> None:
    """Run the commands that are typed, until the input ends."""
    os.environ.setdefault("SGLANG_HOST_IP", "127.0.0.1")
    os.environ.setdefault("SGLANG_DISAGGREGATION_HEARTBEAT_INTERVAL", str(HEARTBEAT_SECONDS))
    show("importing SGLang")
    worker = start(role, port)
    show("\n".join(f"  {name + ' ROOM':12} {what}" for name, what in (COMMANDS[role] | COMMON_COMMANDS).items()))
    show(f"This is process {os.getpid()}. Ctrl-D ends it in order, kill -9 {os.getpid()} does not.")
    while True:
        sys.stdout.write(f"{role}> ")
        sys.stdout.flush()
        # Not input(): with line editing it changes the terminal, and a killed process leaves it without an echo.
        line = sys.stdin.readline()
        if not line:
            show("")
            return
        if words := line.split():
            run(worker, role, *words)


def start(role: str, port: int) -> Any:
    """Return a worker with SGLang's manager of a role, with its logs as SGLang shows them."""
    from tests.sglang.worker import Worker

    settings = {"role": role, "bootstrap_port": port, "port": PORTS[role]}
    handler = logging.StreamHandler()
    # \r: the line overwrites the prompt.
    handler.setFormatter(logging.Formatter("\r[%(asctime)s] %(message)s", datefmt="%Y-%m-%d %H:%M:%S"))
    logging.getLogger().addHandler(handler)
    logging.getLogger().setLevel(logging.INFO)
    worker = Worker({"settings": settings, "bootstraps": role == "prefill", "incompatibility": None})
    logging.getLogger("redis_kvpoll").setLevel(logging.INFO)
    if role == "decode":
        worker.start_heartbeat()  # decode forgets a prefill instance that is gone, and its port with it
    return worker


def run(worker: Any, role: str, name: str, *rooms: str) -> None:
    """Run one command for each of its rooms, and show the results."""
    commands = COMMANDS[role] | COMMON_COMMANDS
    if name not in commands or not rooms or not all(room.isdecimal() for room in rooms):
        show(f"a command is one of {', '.join(commands)}, followed by rooms, which are numbers: poll 42")
        return
    for room in map(int, rooms):
        if name != "open" and not worker.has(room):
            show(f"room {room} has not been opened here: open {room}")
            continue
        try:
            answer = do(worker, role, name, room)
        except Exception as error:
            answer = f"{type(error).__name__}: {error}"
        if answer:
            show(answer)


def do(worker: Any, role: str, name: str, room: int) -> str | None:
    """Run one command for one room; return what to show."""
    if name == "open" and role == "decode" and not worker.learn():
        return "prefill is not running yet: start it in another shell"
    if name == "send" and not worker.has_transfer_info(room):
        return f"decode has not sent where the pages go: type ask {room} there"
    answer: Any = getattr(worker, name)(room)
    if name == "poll":
        return str(KVPoll(answer[0]).name)
    if name == "fail":
        reason, is_from_another = answer
        return f"{reason} (from another rank)" if is_from_another else str(reason)
    return None


def show(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    if sys.argv[1:2] not in (["prefill"], ["decode"]):
        sys.exit(USAGE)
    try:
        main(sys.argv[1], *map(int, sys.argv[2:]))
    except KeyboardInterrupt:
        show("")
