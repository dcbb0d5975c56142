"""What statistics ask of a shard whose slot moves, without a server."""

from __future__ import annotations

import pytest
from redis.exceptions import AskError, MovedError

from redis_kvpoll.engine.effects import FollowRedirect
from redis_kvpoll.statistics.asking import ask

WORDS = ["XLEN", "kvpoll:{ns}:feed"]


@pytest.fixture
def asking():
    asking = ask("ns", WORDS)
    assert next(asking).asking is None
    return asking


def test_absent_key_is_asked_for_at_the_target(asking):
    assert isinstance(asking.throw(AskError("3 10.0.0.1:7001")), FollowRedirect)
    again = asking.send(True)
    assert (again.tag, again.words, again.asking) == ("ns", WORDS, ("10.0.0.1", 7001))
    with pytest.raises(StopIteration) as end:
        asking.send(7)
    assert end.value.value == 7


def test_slot_that_has_moved_ends_the_session(asking):
    with pytest.raises(MovedError):
        asking.throw(MovedError("3 10.0.0.1:7001"))


def test_redirect_without_a_cluster_is_an_error(asking):
    asking.throw(AskError("3 10.0.0.1:7001"))
    with pytest.raises(AskError):
        asking.send(False)
