"""Which outcomes set or renew a room's TTL, and what happens at its end."""

from __future__ import annotations

import pytest

from redis_kvpoll import KVPoll, Outcome
from tests.support.calls import put
from tests.support.leasing import ManualLease

ROOM = 2**64 - 1
KEY, PREFIX = f"kvpoll:{{default}}:room:{ROOM}", f"kvpoll:{{default}}:prefix:{ROOM}"
MARGIN = 120.0
"""Seconds for which a machine may stand still between a write and a look at its TTL."""
DAY = 24 * 3600.0
WEEK = ("settings", "refused", "epoch", "leases", "owned", "due")
LIVE = (KVPoll.Bootstrapping, KVPoll.WaitingForInput, KVPoll.Transferring)


class TestTimeToLive:
    TTL, TERMINAL = 1000.0, 300.0

    @pytest.fixture
    def store(self, make_store):
        return make_store(ttl=self.TTL, terminal_ttl=self.TERMINAL)

    def left(self, client, key=KEY):
        return client.pttl(key) / 1000

    @pytest.mark.parametrize("status", LIVE)
    def test_live_room_has_live_ttl(self, store, client, status):
        store.update_status(ROOM, status)
        assert self.TTL - MARGIN < self.left(client) <= self.TTL

    def test_ended_room_has_terminal_ttl(self, store, client):
        for end in (
            lambda: store.update_status(ROOM, 4),
            lambda: store.update_status(ROOM, 0),
            lambda: store.abort(ROOM),
        ):
            store.clear(ROOM)
            store.update_status(ROOM, KVPoll.Bootstrapping)
            end()
            assert self.TERMINAL - MARGIN < self.left(client) <= self.TERMINAL

    def test_feed_begun_again_by_an_opening_has_a_ttl(self, store, client):
        """An opening renews the TTL of a feed that is there only now and then."""
        store.open(1)
        client.delete("kvpoll:{default}:feed")
        store.open(2)
        assert self.left(client, "kvpoll:{default}:feed") > 3600

    def test_shared_keys_have_the_promised_ttls(self, store, client):
        """The feed and the stream of failures a day, all others a week."""
        lease = ManualLease(store).take()
        store.open(1).fail("why")
        store.open(2)
        store.update_status(3, KVPoll.Failed)  # refused
        found = {key.rpartition(":")[2]: self.left(client, key) for key in client.scan_iter() if ":room:" not in key}
        lease.release()
        assert found == pytest.approx(dict.fromkeys(WEEK, 7 * DAY) | {"feed": DAY, "failed": DAY}, abs=MARGIN)

    def test_epoch_in_use_lives_on_while_generations_are_ahead(self, store, client):
        """The server's clock was a year ahead, and went back."""
        epoch = "kvpoll:{default}:epoch"
        store.update_many({1: KVPoll.Bootstrapping})
        client.hincrby(epoch, "generation", 365 * 24 * 3600 * 10**6)
        client.pexpire(epoch, 600_000)
        store.update_many({2: KVPoll.Bootstrapping, 3: KVPoll.Bootstrapping})
        assert self.left(client, epoch) > 3600

    def test_call_that_writes_nothing_keeps_ttl(self, make_store, client):
        store = make_store(ttl=self.TTL, terminal_ttl=self.TERMINAL)
        put(store, ROOM, KVPoll.Transferring)
        client.pexpire(KEY, 100_000)
        store.update_status(ROOM, KVPoll.WaitingForInput)
        assert self.left(client) <= 100
        store.abort(ROOM)
        client.pexpire(KEY, 100_000)
        store.abort(ROOM)
        store.update_status(ROOM, KVPoll.Failed)
        assert self.left(client) <= 100

    def test_leaving_failed_restores_live_ttl(self, store, client):
        put(store, ROOM, KVPoll.Failed)
        store.update_status(ROOM, KVPoll.Transferring)
        assert self.left(client) > self.TERMINAL

    def test_touch_extends_live_rooms_and_prefix_lengths(self, store, client):
        store.update_many({ROOM: 2, 1: 4, 2: 1})
        store.abort(2)
        store.set_decode_prefix_len(ROOM, 7)
        for key in (KEY, PREFIX, "kvpoll:{default}:room:1", "kvpoll:{default}:room:2"):
            client.pexpire(key, 100_000)
        assert store.touch([ROOM, 1, 2, 3, ROOM]) == 1
        assert self.left(client) > 100
        assert self.left(client, PREFIX) > 100
        assert self.left(client, "kvpoll:{default}:room:1") <= 100
        assert self.left(client, "kvpoll:{default}:room:2") <= 100

    def test_expired_room_is_absent(self, store, client):
        put(store, ROOM, KVPoll.Transferring)
        client.pexpireat(KEY, 1)
        assert store.get(ROOM) is None
        assert store.update_status(ROOM, KVPoll.Failed).outcome is Outcome.SKIPPED
