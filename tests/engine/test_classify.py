"""What an exception means for the call that raised it."""

from __future__ import annotations

import ssl

import pytest
from redis import exceptions

from redis_kvpoll.engine import classify
from redis_kvpoll.engine.classify import Failure, NotSent, ServerChanged
from redis_kvpoll.engine.retry import Attempts, CallFailed
from redis_kvpoll.engine.session import Session


@pytest.mark.parametrize("code", ["NOREPLICAS", "READONLY", "BUSY", "LOADING", "MASTERDOWN"])
def test_temporary_refusal_is_not_executed_in_script_or_outside(code):
    for text in (f"{code} why", f"ERR Error running script (call to f_1): @user_script:8: -{code} why"):
        assert classify.classify(exceptions.ResponseError(text)) is Failure.NOT_EXECUTED


@pytest.mark.parametrize("start", ["", "Error running script (call to f_1): @user_script:8: @user_script: 8: "])
def test_script_without_the_key_that_it_removed_ran_in_part(start):
    error = exceptions.ResponseError(f"{start}Script attempted to access a non local key in a cluster node")
    assert classify.classify(error) is Failure.UNKNOWN
    assert not classify.ends_connection(error)


def test_untrusted_certificate_is_final_only_when_connecting():
    untrusted = exceptions.ConnectionError("Error 1 connecting to h:1. [SSL: CERTIFICATE_VERIFY_FAILED]")
    untrusted.__context__ = ssl.SSLCertVerificationError("self-signed")
    unsent = NotSent()
    unsent.__cause__ = untrusted
    assert classify.classify(unsent) is Failure.REJECTED
    assert classify.classify(untrusted) is Failure.UNKNOWN


@pytest.mark.parametrize(
    ("error", "changed"),
    [
        (exceptions.ResponseError("NOREPLICAS Not enough good replicas to write."), False),
        (exceptions.ResponseError("BUSY Redis is busy running a script."), False),
        (exceptions.ResponseError("ERR Error running script: @user_script:8: -NOREPLICAS why"), False),
        (exceptions.TryAgainError("Multiple keys request during rehashing of slot"), False),
        (exceptions.ReadOnlyError("You can't write against a read only replica."), True),
        (exceptions.MasterDownError("Link with MASTER is down"), True),
        (exceptions.ResponseError("ERR Error running script: @user_script:8: -READONLY why"), True),
        (exceptions.BusyLoadingError("Redis is loading the dataset in memory"), True),
        (exceptions.ConnectionError("Connection closed by server."), True),
        (exceptions.TimeoutError("Timeout reading from socket"), True),
    ],
)
def test_call_that_was_only_not_executed_leaves_server_verified(error, changed):
    assert classify.ends_connection(error) is changed


def test_server_that_always_changes_is_named_as_the_reason():
    """As behind a balancer of several servers. The caller is told that, and no name of a class."""
    session = Session.checked("prod", (1, 1, 1), (None, None, None, None, False), (None, None))
    attempts = Attempts(session, give_up_at=0.0)
    with pytest.raises(CallFailed, match=r"last: another server has taken over\)"):
        sum(len(list(attempts.server_changed(ServerChanged(b"another")))) for _ in range(9))
