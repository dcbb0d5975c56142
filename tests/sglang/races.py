"""Races of two threads in SGLang's own code, with random pauses between its lines."""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from sglang.srt.disaggregation.common import conn

from tests.sglang.managers import KVPoll, Sender

LONGEST = 0.0004
"""Seconds of the longest pause between two lines."""
LATE = (KVPoll.Transferring, KVPoll.Success, KVPoll.Failed)
"""Statuses that must not bring back a cleared room."""
SENDERS: list[Sender] = []
"""Those of rooms that end Failed, kept as a request keeps its sender: a Failed room without one ends in the table."""

Call = Callable[[], Any]


def run(name: str, manager: Any, address: str, first: int, trials: int) -> int:
    """Return how many trials of a race end wrong; each has a room of its own."""
    return sum(RACES[name](manager, address, first + trial, random.Random(trial)) for trial in range(trials))


def _failed_lost(manager: Any, address: str, room: int, chance: random.Random) -> bool:
    SENDERS.append(Sender(manager, address, room))
    status = chance.choice((KVPoll.WaitingForInput, KVPoll.Transferring, KVPoll.Success))
    _run_together(
        chance,
        lambda: manager.update_status(room, KVPoll.Failed),
        lambda: manager.update_status(room, status),
    )
    return manager.request_status.get(room) != KVPoll.Failed


def _revived(manager: Any, address: str, room: int, chance: random.Random) -> bool:
    sender = Sender(manager, address, room)
    status = chance.choice(LATE)
    _run_together(chance, sender.clear, lambda: manager.update_status(room, status))
    return room in manager.request_status


def _key_error(manager: Any, address: str, room: int, chance: random.Random) -> bool:
    sender, other = Sender(manager, address, room), Sender(manager, address, room)

    def check() -> None:
        if room in manager.request_status:
            manager.check_status(room)

    errors = _run_together(chance, sender.clear, chance.choice((other.poll, check)))
    return any(isinstance(error, KeyError) for error in errors)


RACES: dict[str, Callable[[Any, str, int, random.Random], bool]] = {
    "failed lost": _failed_lost,
    "revived": _revived,
    "key error": _key_error,
}


def _run_together(chance: random.Random, *calls: Call) -> list[Exception]:
    """Run all calls at the same time; return what they raise."""
    errors: list[Exception] = []
    start = threading.Barrier(len(calls))

    def run(call: Call, seed: float) -> None:
        pauses = random.Random(seed)

        def trace(frame: FrameType, event: str, _: Any) -> Any:
            if frame.f_code.co_filename not in (conn.__file__, __file__):
                return None
            if event == "line":
                time.sleep(pauses.random() * LONGEST)
            return trace

        start.wait()
        sys.settrace(trace)
        try:
            call()
        except Exception as error:
            errors.append(error)
        finally:
            sys.settrace(None)

    threads = [threading.Thread(target=run, args=(call, chance.random())) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors
