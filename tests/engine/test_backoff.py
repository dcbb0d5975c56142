"""The pauses between tries: short at first, bounded, and there after any number of failures."""

from __future__ import annotations

import pytest

from redis_kvpoll.engine.backoff import Backoff
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
