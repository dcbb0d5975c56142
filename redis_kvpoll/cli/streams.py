"""The standard streams of ``kvpoll``, whatever state they are in: closed, full, a pipe that ends, another encoding.

Invariant: what cannot be written is told in one line on stderr, if that can be written, and by the exit status.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import sys
import warnings
from typing import NoReturn


def prepare() -> None:
    """Make the streams fit for use; exit with status 1 if there is no stdout."""
    with contextlib.suppress(OSError):
        # Else a connection would get the number of a closed stream, and what is written there would go to the server.
        while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
            pass
        os.close(number)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # click takes ASCII (a bare C locale) for a mistake, and writes UTF-8; rich would write escapes.
            is_ascii = codecs.lookup(stream.encoding).name == "ascii"
            stream.reconfigure(encoding="utf-8" if is_ascii else None, errors="backslashreplace")
    if sys.stdin is None:  # what asks finds no terminal there
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: PTH123, SIM115 - for as long as the process lives
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 - for as long as the process lives
    if sys.stdout is None:
        give_up("stdout is closed")
    warnings.formatwarning = _sentence


def _sentence(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """A warning as one sentence, without Python's file and line."""
    return f"Warning: {message}\n"


def flush() -> None:
    """Write what is left, so that a failure is noticed."""
    sys.stdout.flush()


def give_up(why: str) -> NoReturn:
    """Say why on stderr, if possible, and exit with status 1."""
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(f"Error: {why}\n")
        sys.stderr.flush()
    # Python flushes both once more at its end, and would print a traceback.
    null = os.open(os.devnull, os.O_WRONLY)
    for number in (1, 2):
        os.dup2(null, number)
    sys.exit(1)
