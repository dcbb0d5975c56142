"""The package's loggers, which code under test may change for its whole process, as an agent and a replay do."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator


@contextlib.contextmanager
def unchanged() -> Iterator[None]:
    """Undo at the end what was done to the loggers: the next test in this process may wait for a line of theirs."""
    before = {one.name: (one.level, one.disabled, one.filters[:]) for one in _loggers()}
    try:
        yield
    finally:
        for one in _loggers():
            level, one.disabled, one.filters[:] = before.get(one.name, (logging.NOTSET, False, []))
            one.setLevel(level)  # it also empties the cache of what is enabled


class _Errors(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append(self.format(record))


@contextlib.contextmanager
def errors_of(name: str) -> Iterator[list[str]]:
    """Collect the errors that a logger gets meanwhile, with their tracebacks."""
    handler = _Errors()
    logging.getLogger(name).addHandler(handler)
    try:
        yield handler.found
    finally:
        logging.getLogger(name).removeHandler(handler)


@contextlib.contextmanager
def unheard(name: str) -> Iterator[None]:
    """Keep what a logger gets meanwhile from the handlers that it has now."""
    logger = logging.getLogger(name)
    handlers, logger.handlers = logger.handlers, []
    try:
        yield
    finally:
        logger.handlers = handlers


def _loggers() -> list[logging.Logger]:
    known = list(logging.root.manager.loggerDict.values())
    return [one for one in known if isinstance(one, logging.Logger) and one.name.partition(".")[0] == "redis_kvpoll"]
