"""Which life of a room a thread of SGLang's acts on.

SGLang reads a status, decides, and writes the next one, in separate steps that differ between releases. A scope covers
such steps: it begins with the life that the room has at that moment, and a write inside it applies to that life only.
So the maps do not depend on how SGLang reads, and nothing is left in a thread's memory after the steps.
"""

from __future__ import annotations

import threading
from typing import NamedTuple


class Scope(NamedTuple):
    """The steps of one thread on one room."""

    room: int
    number: int | None
    """The life that they act on; None if the room was absent when they began."""
    publish: bool = True
    """Whether what they write goes into the table; False for what comes from there."""


class Claim(NamedTuple):
    """A sender or receiver of a room."""

    room: int
    request: str
    """SGLang's id of the request; empty if it is not known."""


class ThreadScope(threading.local):
    """The innermost scope of each thread."""

    current: Scope | None = None
    claim: Claim | None = None
    """The room whose sender or receiver this thread makes."""
