"""A follower with replies that no real server gives on demand: late ones, and ones with lower ids."""

from __future__ import annotations

import contextlib
import itertools

import pytest
from redis.exceptions import NoPermissionError

from redis_kvpoll.engine.effects import Send, Sleep
from redis_kvpoll.replica.follow import HEARTBEAT, Follower
from redis_kvpoll.replica.replica import Replica
from tests.support.contexts import context
from tests.support.internals import catch_up, follow_feed, read_once

CONTEXT = context(feed_length="100000")


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


FEED = b"kvpoll:{ns}:feed"


def entry(number):
    return b"%d-0" % number, [b"ttl_ms", b"300000", b"1", b"Transferring"]


def nothing_new(read):
    """The reply to a read; a look with it finds its entry."""
    return reply_to(read, [])


def reply_to(read, entries, is_anchor_there=True):
    reply = [[FEED, entries]] if entries else None
    return [reply, [[b"5-0", []]] if is_anchor_there else []] if read.then else reply


@pytest.fixture
def now(monkeypatch):
    """The follower's clock; a list, so that it can be set."""
    now = [1000.0]
    monkeypatch.setattr("redis_kvpoll.replica.follow.time.monotonic", lambda: now[0])
    return now


def synced_replica(context):
    replica = Replica(context, contextlib.nullcontext(), lambda room: True)
    replica.start_resync("ns", b"5-0", 1000.0)
    replica.read("ns", [], True, 1000.0)
    replica.mark_synced("ns", 0)
    return replica


@pytest.fixture
def replica():
    return synced_replica(CONTEXT)


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


@pytest.mark.parametrize(("late", "lag"), [(0.4, 0.0), (0.6, HEARTBEAT + 0.6)])
def test_no_news_counts_from_the_end_of_its_wait(follower, replica, now, late, lag):
    """The server has waited for the whole heartbeat; only what came after that can make the reply old."""
    reading = read_once(follower)
    effect = next(reading)
    now[0] += HEARTBEAT + late
    with pytest.raises(StopIteration):
        reading.send(nothing_new(effect))
    assert replica.lag(now[0]) == pytest.approx(lag)


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
        effect = following.send(nothing_new(effect) if effect.words[0] == "XREAD" else [b"3-0", None, -2])
    assert commands[:4] == ["XREAD", "EVALSHA"] * 2


def test_session_that_may_not_read_the_feed_learns_no_room(now):
    """Sessions fail so, one after the other, for as long as nobody corrects the ACL."""
    replica = Replica(CONTEXT, contextlib.nullcontext(), lambda room: True)
    session = catch_up(Follower(replica, ["ns"], Host(), False, 5.0, True))
    next(session)
    assert session.send([b"5-0"]).words[0] == "SCAN"
    assert session.send([b"0", [b"kvpoll:{ns}:room:1"]]).words[0] == "XREAD"
    with pytest.raises(NoPermissionError):
        session.throw(NoPermissionError("this user has no permissions to run the 'xread' command"))
    assert replica.statuses == {}


class TestLooks:
    """Whether an entry was missed is asked once per heartbeat, not with each read."""

    def follow(self, follower, now, reads, seconds, is_anchor_there=lambda look: True):
        """Read so many entries, one with each read, within so many seconds; the reads that were sent."""
        following, sent = follow_feed(follower), []
        effect = next(following)
        while len(sent) < reads:
            if isinstance(effect, Sleep):
                effect = following.send(None)
                continue
            sent.append(effect)
            now[0] += seconds / reads
            effect = following.send(reply_to(effect, [entry(5 + len(sent))], is_anchor_there(effect)))
        return sent

    def test_busy_feed_costs_four_looks_a_second(self, follower, now):
        sent = self.follow(follower, now, reads=400, seconds=4.0)
        assert sum(len(read.then) for read in sent) in range(14, 18)
        assert not {words[0] for read in sent for words in read.then} - {"XREVRANGE"}

    def test_idle_feed_costs_a_look_with_each_heartbeat(self, follower, now):
        following = follow_feed(follower)
        effect = next(following)
        for _ in range(12):
            assert [words[0] for words in effect.then] == ["XREVRANGE"]
            now[0] += HEARTBEAT
            effect = following.send(nothing_new(effect))

    def test_look_asks_for_end_of_last_proof(self, follower, now):
        """Not for the last entry read: after a hole, that one is there."""
        sent = self.follow(follower, now, reads=400, seconds=4.0)
        looks = [(number, read.then[0]) for number, read in enumerate(sent) if read.then]
        assert len(looks) > 10
        for (before, _), (_, words) in itertools.pairwise(looks):
            assert words == ["XREVRANGE", FEED.decode(), f"{6 + before}-0", f"{6 + before}-0"]

    def test_hole_is_found_by_next_look(self, follower, replica, now):
        """The feed was trimmed behind the position; what came later was read as ever."""
        with pytest.raises(Exception, match="no longer reaches back"):
            self.follow(follower, now, reads=400, seconds=4.0, is_anchor_there=lambda look: now[0] < 1002)
        assert now[0] < 1002.5
        assert replica.is_synced(1002.0)

    def test_reads_without_look_do_not_keep_copy_synced(self, follower, replica, now):
        """What a hole hides is no older than the last look."""
        following = follow_feed(follower)
        effect = following.send(nothing_new(next(following)))
        proved_at = now[0]
        for number in range(6, 20):
            now[0] += 0.01
            effect = following.send(reply_to(effect, [entry(number)])) if isinstance(effect, Send) else next(following)
        assert replica.lag(now[0]) == pytest.approx(now[0] - proved_at)
        assert replica.is_synced(proved_at + 0.99)
        assert not replica.is_synced(proved_at + 1.01)

    def test_copy_stays_synced_after_a_short_burst(self, follower, replica, now):
        """The read after the last entry proves nothing, so it does not wait for a whole heartbeat."""
        following = follow_feed(follower)
        effect = next(following)
        now[0] += 0.1
        effect = following.send(reply_to(effect, [entry(6)]))
        sent = []
        while len(sent) < 5:
            sent.append(effect)
            now[0] += int(effect.words[effect.words.index("BLOCK") + 1]) / 1000 + 0.05
            assert replica.is_synced(now[0])
            effect = following.send(nothing_new(effect))
        assert [bool(read.then) for read in sent] == [False, True, True, True, True], "an idle feed costs no more"

    def test_short_feed_is_looked_at_with_each_read(self, now):
        """Else the trimming that it needs would remove what a look asks for."""
        replica = synced_replica(context(feed_length="1000"))
        sent = self.follow(Follower(replica, ["ns"], Host(), False, 5.0, True), now, reads=100, seconds=1.0)
        assert all(read.then for read in sent)

    def test_fast_feed_is_looked_at_before_half_of_it(self, now):
        replica = synced_replica(context(feed_length="10000"))
        sent = self.follow(Follower(replica, ["ns"], Host(), False, 5.0, True), now, reads=20_000, seconds=1.0)
        looks = [number for number, read in enumerate(sent) if read.then]
        assert max(later - earlier for earlier, later in itertools.pairwise(looks)) <= 5000


class TestPeriod:
    """A follower for those who only watch: what it costs depends on time alone."""

    @pytest.fixture
    def paced(self, now):
        replica = Replica(context(feed_length="100000"), contextlib.nullcontext(), lambda room: True, period=2.0)
        replica.start_resync("ns", b"5-0", 1000.0)
        replica.read("ns", [], True, 1000.0)
        replica.mark_synced("ns", 0)
        return Follower(replica, ["ns"], Host(), False, 5.0, True, period=2.0), replica

    def test_reads_come_once_per_period(self, paced, now):
        follower, replica = paced
        following, reads = follow_feed(follower), []
        effect = next(following)
        while now[0] < 1004.9:
            if isinstance(effect, Sleep):
                assert effect.seconds <= 0.25, "it can be stopped"
                now[0] += effect.seconds
                effect = following.send(None)
            else:
                reads.append(now[0])
                assert "BLOCK" not in effect.words
                effect = following.send(reply_to(effect, [entry(5 + len(reads))]))
            assert replica.is_synced(now[0])
        assert reads == pytest.approx([1000, 1002, 1004], abs=0.01)

    def test_full_page_is_followed_by_the_next_at_once(self, paced, now):
        follower, _ = paced
        following = follow_feed(follower)
        effect = following.send(reply_to(next(following), [entry(number) for number in range(6, 1006)]))
        while isinstance(effect, Sleep):
            assert effect.seconds < 0.01
            effect = following.send(None)
        assert effect.words[0] == "XREAD"

    def test_copy_is_stale_a_second_after_its_period(self, paced, now):
        _, replica = paced
        assert replica.is_synced(1002.9)
        assert not replica.is_synced(1003.1)
