"""This process: what it is called in the table, and what stays in it."""

from __future__ import annotations

import os
from typing import NoReturn


def this_process() -> str:
    """Return this process as the list of owners shows it, ``host:pid``."""
    return f"{os.uname().nodename}:{os.getpid()}"


class OfOneProcess:
    """What has connections, locks, threads or tasks: it can be neither pickled nor copied."""

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"{type(self).__name__} can be neither pickled nor copied: make a store in the other process, and there "
            "what it gives; only handles of rooms can be pickled"
        )
