"""Mutations of scripts, client and plugin: each makes the test fail that is named beside it.

That test runs in here, first without and then with the mutation. A mutation whose text is gone fails at once.
"""

from __future__ import annotations

import logging
import os
import socket
import threading

import pytest

from redis_kvpoll import KVPollError
from tests.mutation import mutate
from tests.mutation.in_agent import IN_THE_AGENT
from tests.mutation.in_client import IN_THE_CLIENT
from tests.mutation.in_doctor import IN_THE_DOCTOR
from tests.mutation.in_followers import IN_FOLLOWERS
from tests.mutation.in_lua import IN_LUA
from tests.mutation.in_plugin import IN_THE_PLUGIN
from tests.mutation.in_recovery import IN_RECOVERY
from tests.mutation.in_serve import IN_SERVE
from tests.mutation.in_statistics import IN_STATISTICS
from tests.support.loggers import errors_of, unheard

OF_USERS = IN_THE_PLUGIN + IN_THE_DOCTOR + IN_SERVE + IN_STATISTICS + IN_THE_AGENT
ALL = IN_LUA + IN_THE_CLIENT + IN_RECOVERY + IN_FOLLOWERS + OF_USERS


@pytest.mark.parametrize(("where", "good", "bad", "test"), [pytest.param(*change, id=name) for name, *change in ALL])
def test_mutation_is_caught(where, good, bad, test):
    twice = mutate.run_twice(f"tests/{test}", where, good, bad)
    assert twice.ran == 1, "no such test, or several"
    if twice.skips:
        pytest.skip(twice.skips[0])
    assert not twice.failures, "it fails without the mutation, too:\n" + "\n".join(twice.failures)
    assert twice.errors, "the test passes with the mutation"
    # An assertion of the test, or an error of the library that it did not expect; not a crash of mutated code.
    assert isinstance(twice.errors[0], AssertionError | pytest.fail.Exception | KVPollError), repr(twice.errors[0])


def test_mutation_without_its_text_is_an_error():
    with pytest.raises(mutate.NoSuchTextError, match="0 times"), mutate.mutation("update.lua", "no such text", ""):
        pass
    with (
        pytest.raises(mutate.NoSuchTextError, match="not once"),
        mutate.mutation("engine.recovery.tracked_rooms:TrackedRooms.mark_room_clearing", "room", ""),
    ):
        pass


@pytest.mark.parametrize("is_grouped", [False, True], ids=["alone", "in a group"])
def test_what_a_mutated_test_left_open_is_let_go(is_grouped):
    def fail():
        left = socket.socket(socket.AF_UNIX)
        raise AssertionError(left.fileno())

    errors = []
    try:
        fail()
    except AssertionError as error:
        descriptor = error.args[0]
        errors.append(ExceptionGroup("of several tasks", [error]) if is_grouped else error)
    mutate.let_go(errors)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_what_python_cannot_raise_is_not_reported():
    """A mutated test may end, and its fixtures fail, before anybody has looked for it."""
    with mutate.unreported():
        socket.socket(socket.AF_UNIX)  # dropped at once, which is a ResourceWarning
        thread = threading.Thread(target=lambda: 1 / 0)
        thread.start()
        thread.join()


def test_errors_that_a_mutated_test_logs_are_not_heard():
    """The fixtures of the outer test listen, too."""
    logger = logging.getLogger("tests.mutation")
    with errors_of(logger.name) as outer:
        with unheard(logger.name), errors_of(logger.name) as inner:
            logger.error("of the inner test")
        logger.error("of the outer test")
    assert (outer, inner) == (["of the outer test"], ["of the inner test"])


def test_each_kind_has_enough_mutations():
    assert min(len(IN_LUA), len(IN_THE_CLIENT), len(IN_RECOVERY)) >= 12
    assert len(IN_THE_PLUGIN) >= 5
    assert len({change[:3] for change in ALL}) == len(ALL)
