"""Two threads that meet in SGLang's own code, again and again, held up at random between its lines."""

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
"""Seconds between two lines."""
LATE = (KVPoll.Transferring, KVPoll.Success, KVPoll.Failed)
"""What must not bring back a room that was cleared."""

Do = Callable[[], Any]


def run(name: str, manager: Any, address: str, first: int, trials: int) -> int:
    """How many of the trials of a race end wrong; each has a room of its own."""
    return sum(RACES[name](manager, address, first + trial, random.Random(trial)) for trial in range(trials))


def _failed_lost(manager: Any, address: str, room: int, chance: random.Random) -> bool:
    Sender(manager, address, room)
    status = chance.choice((KVPoll.WaitingForInput, KVPoll.Transferring, KVPoll.Success))
    _meet(
        chance,
        lambda: manager.update_status(room, KVPoll.Failed),
        lambda: manager.update_status(room, status),
    )
    return manager.request_status.get(room) != KVPoll.Failed


def _revived(manager: Any, address: str, room: int, chance: random.Random) -> bool:
    sender = Sender(manager, address, room)
    status = chance.choice(LATE)
    _meet(chance, sender.clear, lambda: manager.update_status(room, status))
    return room in manager.request_status


def _key_error(manager: Any, address: str, room: int, chance: random.Random) -> bool:
    sender, other = Sender(manager, address, room), Sender(manager, address, room)

    def look() -> None:
        if room in manager.request_status:
            manager.check_status(room)

    errors = _meet(chance, sender.clear, chance.choice((other.poll, look)))
    return any(isinstance(error, KeyError) for error in errors)


RACES: dict[str, Callable[[Any, str, int, random.Random], bool]] = {
    "failed lost": _failed_lost,
    "revived": _revived,
    "key error": _key_error,
}


def _meet(chance: random.Random, *dos: Do) -> list[Exception]:
    """Run all at the same time; what they raise."""
    errors: list[Exception] = []
    start = threading.Barrier(len(dos))

    def lane(do: Do, seed: float) -> None:
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
            do()
        except Exception as error:
            errors.append(error)
        finally:
            sys.settrace(None)

    threads = [threading.Thread(target=lane, args=(do, chance.random())) for do in dos]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors
