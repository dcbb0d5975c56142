"""What this process is called in the table."""

from __future__ import annotations

import os


def this_process() -> str:
    """Return this process as the list of owners shows it, ``host:pid``."""
    return f"{os.uname().nodename}:{os.getpid()}"
