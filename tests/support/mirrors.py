"""The waiters and the followers of mirrors and stores."""

from __future__ import annotations

from tests.support import real
from tests.support.internals import replica_of
from tests.support.own_threads import own_threads


def sleeping(mirror_or_waits, count=1):
    """Whether at least so many waiters are asleep on synced shards."""
    replica = replica_of(mirror_or_waits)
    if replica is None:
        return False
    waiters = [w for shard in list(replica.shards.values()) for of in list(shard.waiters.values()) for w in list(of)]
    return sum(waiter.armed for waiter in waiters) >= count and all(s.synced for s in replica.shards.values())


def following(side):
    """The threads or tasks that follow the feed."""
    return side.loop.tasks() if side.is_async else threads_that_follow()


def threads_that_follow():
    return own_threads("kvpoll-follow")


def never_stale(monkeypatch):
    """Let no silence end a session, or make a copy stale: a machine that stands still for a moment changes nothing."""
    for module in ("follow", "replica", "failures"):
        monkeypatch.setattr(f"redis_kvpoll.replica.{module}.STALE_AFTER", 1e3)


def current(mirror, store, rooms=range(10)):
    """Wait until the mirror is synced, and then it must be right."""
    real.until(lambda: mirror.synced, "synced")
    assert mirror.poll(rooms) == store.poll(rooms)
