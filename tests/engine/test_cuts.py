"""Cut connections over a wire with a constant delay: a loss causes no further loss, blocking and asyncio.

All times are multiples of one that fits the machine, so their ratios, which decide, are the same everywhere.
"""

from __future__ import annotations

import pytest

from chaos.proxy import Proxy
from tests.support import pace, real
from tests.support.calls import calls_may_take
from tests.support.wire import Tally, crowd, cutting, total, verifications

ROOMS = range(64)


@pytest.fixture
def proxy():
    with real.World("sync") as world, Proxy(world.shared().socket) as proxy:
        yield proxy


class TestRegularCuts:
    """The server is healthy; every 0.25 s all connections are cut for an instant, time for five round trips."""

    @pytest.fixture
    def second(self):
        return pace.seconds(1)

    @pytest.fixture
    def store(self, side, proxy, second):
        """A call may be tried for as long as 20 cuts."""
        return side.open(f"{proxy.url}?socket_timeout={0.3 * second}", shards=4, deadline=5 * second)

    def call_while_cut(self, store, proxy, second):
        """Call all shards at once and single ones, over the wire with cuts. The store has opened all rooms."""
        handles = [store.open(room, request="rid") for room in ROOMS]
        proxy.delay = 0.025 * second
        proxy.commands.clear()
        with cutting(proxy, 0.25 * second):
            tallies = crowd([lambda: store.poll(ROOMS), *(handle.status for handle in handles[:4])], 7 * second)
        proxy.delay = 0.0
        return total(tallies)

    def test_no_call_gives_up(self, store, proxy, second):
        """The work of a reconnect fits between two cuts, and none is done again for another connection's sake."""

        def attempt():
            with store.lease("prefill-0", ttl=60 * second, heartbeat=0.5 * second):
                tally = self.call_while_cut(store, proxy, second)
            assert tally.errors == []
            assert tally.calls > 20

        pace.undisturbed(attempt)

    def test_same_server_is_not_verified_again(self, store, proxy, second):
        """A new connection reports the run id that the store knows: nothing was lost."""
        self.call_while_cut(store, proxy, second)
        assert proxy.connections > 20
        assert verifications(proxy) == []


def test_calls_after_one_cut_succeed(side, proxy):
    """A single thread calls a single shard; the deadline has time for five round trips."""
    second = pace.seconds(1)
    store = side.open(f"{proxy.url}?socket_timeout={2 * second}", deadline=2 * second)
    with calls_may_take(store, 60.0):
        handle = store.open(1)

    def attempt():
        proxy.delay = 0.2 * second
        with calls_may_take(store, 60.0):
            handle.status()
        proxy.cut()
        tally = Tally()
        for _ in range(3):
            tally.count(handle.status)
        assert tally.errors == []

    pace.undisturbed(attempt)
