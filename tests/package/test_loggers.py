"""The tests leave the package's loggers as they were: a test that waits for a line may run behind any other."""

from __future__ import annotations

import logging

import pytest

from redis_kvpoll.agent.server.quiet import QUIET_LOGGERS, be_quiet
from tests.support.loggers import unchanged


@pytest.mark.parametrize("name", QUIET_LOGGERS)
def test_quiet_loggers_are_as_before(name):
    logger = logging.getLogger(name)
    before = logger.level, logger.filters[:]
    with unchanged():
        be_quiet()
        assert not logger.isEnabledFor(logging.WARNING)
    assert (logger.level, logger.filters) == before
    assert logger.isEnabledFor(logging.WARNING)


def test_logger_made_meanwhile_is_a_new_one():
    with unchanged():
        logger = logging.getLogger("redis_kvpoll.made_by_a_test")
        logger.disabled = True
        logger.setLevel(logging.CRITICAL)
    assert (logger.level, logger.disabled) == (logging.NOTSET, False)
