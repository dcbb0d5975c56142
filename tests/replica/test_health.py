"""What a follower logs of its failures, and what it keeps of them for others."""

from __future__ import annotations

import logging

import pytest

from redis_kvpoll.errors import ServerRefusedError
from redis_kvpoll.replica.health import FollowerHealth, trouble_of


@pytest.fixture
def health():
    """The health of a follower that has caught up."""
    health = FollowerHealth("failures of namespace 'n'", 1.0, lambda: None)
    health.succeeded()
    return health


def test_rejection_that_comes_back_is_logged_again(health, caplog):
    caplog.set_level(logging.ERROR, "redis_kvpoll")
    for _ in range(2):
        for _ in range(3):
            health.rejected(ServerRefusedError("WRONGPASS"))
        health.succeeded()
    assert [record.getMessage().rpartition(": ")[2] for record in caplog.records] == ["WRONGPASS"] * 2


def test_trouble_is_the_latest_loss_until_it_is_current(health):
    health.lost(ConnectionResetError("closed"))
    health.lost(ConnectionRefusedError("refused"))
    other = FollowerHealth("other", 1.0, lambda: None)
    assert trouble_of([other, health]) == "refused (check that the server is up and reachable)"
    health.rejected(ServerRefusedError("WRONGPASS"))  # which is logged
    assert trouble_of([other, health]) == ""
    health.lost(ConnectionRefusedError("refused"))
    health.succeeded()
    assert trouble_of([other, health]) == ""
