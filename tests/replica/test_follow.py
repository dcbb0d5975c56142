"""A follower with replies that no real server gives on demand: late ones, and ones with lower ids."""

from __future__ import annotations

import contextlib

import pytest

from redis_kvpoll.engine.effects import Send, Sleep
from redis_kvpoll.replica.follow import Follower
from redis_kvpoll.replica.replica import Replica
from tests.support.contexts import context
from tests.support.internals import follow_feed, read_once

CONTEXT = context()


class Host:
    """Whom the follower works for."""

    def notify(self):
        pass

    def progressed(self):
        pass

    def may_end(self, replica, tags):
        return False

    def is_held(self, tag, room):
        return False


@pytest.fixture
def now(monkeypatch):
    """The follower's clock; a list, so that it can be set."""
    now = [1000.0]
    monkeypatch.setattr("redis_kvpoll.replica.follow.time.monotonic", lambda: now[0])
    return now


@pytest.fixture
def replica():
    replica = Replica(CONTEXT, contextlib.nullcontext(), lambda room: True)
    replica.start_resync("ns", b"5-0", 1000.0)
    replica.read("ns", [], True, 1000.0)
    replica.mark_synced("ns", 0)
    return replica


@pytest.fixture
def follower(replica, now):
    return Follower(replica, ["ns"], Host(), False, 5.0, True)


def test_reply_from_before_process_pause_is_unsynced(follower, replica, now):
    """The reply came in time, but the process was stopped: later entries are still to be read."""
    reading = read_once(follower)
    next(reading)
    now[0] += 600
    with pytest.raises(StopIteration):
        reading.send([[[b"kvpoll:{ns}:feed", [(b"6-0", [b"ttl_ms", b"300000", b"1", b"Success"])]]], [b"5-0"]])
    assert not replica.is_synced(now[0])
    assert replica.lag(now[0]) == 600
    assert replica.due("ns", now[0], 10) == [1]


def test_ignored_snapshot_does_not_stop_feed_reading(follower, replica, now):
    """The data was lost and the clock set back: only the feed shows it."""
    replica.read("ns", [(b"9-0", [b"ttl_ms", b"1", b"1", b"Success"])], True, now[0])
    now[0] += 0.5
    following = follow_feed(follower)
    effect, commands = next(following), []
    for _ in range(20):
        if isinstance(effect, Sleep):
            effect = following.send(None)
            continue
        assert isinstance(effect, Send)
        commands.append(effect.words[0])
        effect = following.send([None, [b"9-0"]] if effect.words[0] == "XREAD" else [b"3-0", None, -2])
    assert commands[:4] == ["XREAD", "EVALSHA"] * 2
