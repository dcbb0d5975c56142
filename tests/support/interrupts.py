"""Signal handlers and finalizers that interrupt code at any place, tried one after the other.

Python runs them between two steps of a thread: when a function begins, and when a C function returns.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
from unittest.mock import patch

from redis_kvpoll import StoreClosedError
from tests.support import pace


class Interrupted(BaseException):
    """Like KeyboardInterrupt: no except clause of the library catches it."""


def interrupted_at(number, call, handler, where):
    """Run ``handler`` at the ``number``-th place of ``call`` in files with such parts of a path. False if it has fewer
    places."""
    count, was_handled = 0, False

    def profile(frame, event, _):
        nonlocal count, was_handled
        code = frame.f_code
        is_there = any(part in code.co_filename for part in where) and code.co_name != "<genexpr>"
        if event in ("call", "c_return") and is_there:
            count += 1
            if count == number:
                sys.setprofile(None)
                was_handled = True
                handler()

    sys.setprofile(profile)
    try:
        call()
    except (Interrupted, StoreClosedError):
        pass
    finally:
        sys.setprofile(None)
    return was_handled


@contextlib.contextmanager
def failing_start(name, error, *, after=False):
    """Let each start of a thread whose name begins so raise ``error``: in its place, or once the thread runs."""
    start = threading.Thread.start

    def failing(thread):
        if after or not thread.name.startswith(name):
            start(thread)
        if thread.name.startswith(name):
            raise error

    with patch.object(threading.Thread, "start", failing):
        yield


def completes(work):
    """Run ``work`` in a thread that may hang; what it returns or raises."""
    outcome = []

    def run():
        try:
            outcome.append((work(), None))
        except BaseException as error:
            outcome.append((None, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(pace.seconds(20))
    assert outcome, "it waits for a lock that its own thread holds"
    value, error = outcome[0]
    if error is not None:
        raise error
    return value


def every_place(interrupt, at_least=10):
    """Interrupt at one place after the other, as long as there is one; how many there were."""
    number = 0
    is_interrupted = True
    while is_interrupted:
        number += 1
        is_interrupted = completes(functools.partial(interrupt, number))
    assert number > at_least
    return number
