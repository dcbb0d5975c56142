"""The threads of the test that runs now: a test of this process that failed before may have left others."""

from __future__ import annotations

import threading

_others: set[threading.Thread] = set()


def begin_test() -> None:
    """Take every thread that runs now as one of others."""
    _others.clear()
    _others.update(threading.enumerate())


def own_threads(*beginnings: str) -> list[threading.Thread]:
    """The threads whose names begin with one of these, and that have begun in this test."""
    return [one for one in threading.enumerate() if one not in _others and one.name.startswith(beginnings)]
