"""The pauses between tries: short at first, bounded, there after any number of failures, and apart from redirects."""

from __future__ import annotations

import pytest
from redis import exceptions

from redis_kvpoll.engine.backoff import Backoff
from redis_kvpoll.engine.effects import Send, Sleep
from redis_kvpoll.engine.retry import Attempts
from redis_kvpoll.engine.session import Session
from redis_kvpoll.errors import StoreUnavailableError
from redis_kvpoll.replica.health import FollowerHealth


def test_first_pause_is_short_and_the_longest_bounded():
    assert Backoff().compute(1) <= 0.02
    assert 0.125 <= Backoff().compute(20) <= 0.25


@pytest.mark.parametrize("failures", [31, 1_100, 10**6])
def test_pause_of_a_long_outage_is_the_longest(failures):
    """Minutes of failures: the power of two of redis-py's own backoff fits no float."""
    assert 0.125 <= Backoff().compute(failures) <= 0.25


def test_follower_survives_a_long_outage():
    health = FollowerHealth("mirror", 5.0, lambda: None)
    for _ in range(1_100):
        health.session_begins()
        assert health.lost(StoreUnavailableError("away")) <= 0.25


LOST, MOVED = exceptions.ConnectionError("lost"), exceptions.MovedError("0 127.0.0.1:7000")


@pytest.fixture
def failures_at_pauses(monkeypatch):
    """Return by how many failures each pause of a call is chosen that meets these errors, and then succeeds."""

    def meet(*errors):
        paused = []
        monkeypatch.setattr("redis_kvpoll.engine.retry._BACKOFF.compute", lambda failures: paused.append(failures) or 0)
        session = Session.checked("prod", (9, 9, 60), (None, None, None, None, False), (None, None))
        flow, left = Attempts(session, float("inf")).send(Send("prod", ["PING"])), list(errors)
        effect = next(flow)
        while left or not isinstance(effect, Send):
            if isinstance(effect, Send):
                effect = flow.throw(left.pop(0))
            else:
                effect = flow.send(None if isinstance(effect, Sleep) else True)
        return paused

    return meet


def test_failures_leave_a_first_redirect_without_a_pause(failures_at_pauses):
    assert failures_at_pauses(LOST, LOST, LOST, LOST, MOVED) == [1, 2, 3, 4]


def test_redirects_leave_the_pause_of_a_first_failure_short(failures_at_pauses):
    assert failures_at_pauses(MOVED, MOVED, MOVED, MOVED, LOST) == [1]


def test_redirects_pause_only_after_some(failures_at_pauses):
    assert failures_at_pauses(*[MOVED] * 6) == [1, 2]


def test_lost_authentication_after_a_redirect_is_not_final(failures_at_pauses):
    """It was made before, like the first one: only a connection after a failure is certainly new."""
    assert failures_at_pauses(MOVED, exceptions.ResponseError("NOAUTH Authentication required.")) == [1]
