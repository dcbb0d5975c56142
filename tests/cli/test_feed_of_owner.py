"""kvpoll tail --owner: the changes of one owner's rooms, also of those that have gone."""

from __future__ import annotations

import contextlib
import signal

from chaos.proxy import Proxy
from redis_kvpoll import Change, FeedGap, KVPoll, StatusStore
from redis_kvpoll.cli.feed_of_owner import LEFT_OUT, changes_of_owner
from tests.support import pace, real
from tests.support.tailing import Tailing


def change(at, status, **more):
    return Change(f"{int(at * 1000)}-0", at, 1, status, **more)


def test_tail_has_its_rooms_alone(url, store):
    with store.lease("prefill-0"):
        store.open(7)
        with StatusStore.from_url(url, namespace="prod") as other, other.lease("prefill-1"):
            other.open(8)
            with Tailing(url, "--owner", "prefill-0") as tailing:
                assert tailing.line().split("\t")[1] == "7"
                other.update_status(8, 3)
                store.update_status(7, 3)
                assert tailing.line().split("\t")[1:3] == ["7", "Transferring"]


def test_tail_notices_who_joins(url):
    """A rank whose owner is asked for takes part in a room that was met before as another owner's."""
    ranks = [StatusStore.from_url(url, namespace="prod", rank=rank, world_size=2) for rank in (0, 1)]
    with ranks[0], ranks[1], ranks[0].lease("prefill-0"), ranks[1].lease("prefill-1"):
        ranks[0].open(8, request="rid")
        ranks[1].open(7)
        with Tailing(url, "--owner", "prefill-1") as tailing:
            assert tailing.line().split("\t")[1] == "7"
            ranks[1].open(8, request="rid")
            assert tailing.line().split("\t")[1] == "8"


def test_tail_notices_the_next_of_an_id(url, store, watched):
    """A room that was gone when it was met is the owner's once the owner opens it."""
    store.update_status(5, 1)
    watched[0].delete("kvpoll:{prod}:room:5")  # leaves no change, as an expiry
    with store.lease("prefill-0"):
        store.open(7)
        with Tailing(url, "--owner", "prefill-0") as tailing:
            assert tailing.line().split("\t")[1] == "7"
            store.open(5)
            assert tailing.line().split("\t")[1] == "5"


def test_tail_has_rooms_that_are_gone(url, store):
    with store.lease("prefill-0"):
        for room in (1, 2):
            store.open(room)
            store.abort(room, "Mooncake failed")
            store.clear(room)
    store.update_status(3, 1)
    with Tailing(url, "--owner", "prefill-0") as tailing:
        words = [tailing.line().split("\t")[1:3] for _ in range(6)]
        assert words == [[room, what] for room in "12" for what in ("Bootstrapping", "Failed", "cleared")]
    with Tailing(url, "--owner", "prefill-0", "--last", "3") as tailing:  # its opening is before the last changes
        assert tailing.line().split("\t")[1:] == ["2", "Failed", "Mooncake failed\n"]


def test_tail_tells_lives_of_one_id_apart(url, store):
    with store.lease("prefill-0"):
        store.open(7)
        store.clear(7)
    with StatusStore.from_url(url, namespace="prod") as other, other.lease("prefill-1"):
        other.open(7)
        other.update_status(7, 3)
        with Tailing(url, "--owner", "prefill-0") as tailing:
            assert [tailing.line().split("\t")[2] for _ in range(2)] == ["Bootstrapping", "cleared"]
            store.abort(7, "owner prefill-0 lost")
            assert tailing.line().split("\t")[2] == "Failed"


def test_tail_says_what_it_leaves_out(url, store, watched):
    with store.lease("prefill-0"):
        store.open(7)
        watched[0].xtrim("kvpoll:{prod}:feed", maxlen=0)
        store.update_status(7, 3)
        store.clear(7)
        store.open(8)
        with Tailing(url, "--owner", "prefill-0") as tailing:
            assert tailing.line().split("\t")[1] == "8"
            tailing.process.send_signal(signal.SIGINT)
            assert tailing.end() == (130, f"{LEFT_OUT}\n")


def test_tail_forgets_what_a_gap_may_hide(store):
    def changes():
        store.update_status(1, 1)
        yield change(10, KVPoll.Bootstrapping, opens=True, owner="prefill-0")
        yield FeedGap("10000-0", None)
        yield change(2e9, KVPoll.Transferring)

    found = list(changes_of_owner(changes(), store, "prefill-0"))
    assert [isinstance(each, FeedGap) for each in found] == [False, True]


def test_tail_outlasts_a_lost_server(monkeypatch):
    """Its room is read, and the server is lost before the leases are; the next change asks for them again."""
    owners, losses = StatusStore.owners, iter([True])
    with real.World("sync") as world, contextlib.ExitStack() as stack:
        socket = world.serve().socket
        for rank in (0, 1):
            store = StatusStore.from_url(f"unix://{socket}", namespace="prod", rank=rank, world_size=2)
            stack.enter_context(store)
            if rank == 1:
                stack.enter_context(store.lease("prefill-1"))
            store.open(1, request="rid")
        proxy = stack.enter_context(Proxy(socket))
        looking = StatusStore.from_url(proxy.url, namespace="prod", deadline=pace.seconds(1))
        stack.enter_context(looking)

        def losing(self):
            if next(losses, False):
                proxy.refusing = True
                proxy.cut()
            return owners(self)

        def changes():
            yield change(2e9, KVPoll.Bootstrapping, ttl=900)
            proxy.refusing = False
            yield change(2e9 + 1, KVPoll.Transferring, ttl=900)

        monkeypatch.setattr(StatusStore, "owners", losing)
        found = list(changes_of_owner(changes(), looking, "prefill-1"))
        assert [each.at for each in found] == [2e9, 2e9 + 1]
        assert next(losses, "lost") == "lost"


def test_tail_knows_restored_rooms(url, watched):
    """Each process opens its rooms again after a loss of all data; the feed begins with that."""
    with StatusStore.from_url(url, namespace="prod") as store, store.lease("prefill-0"):
        store.open(7)
        watched[0].flushall()
        store.update_status(7, 3)
        store.clear(7)
        with Tailing(url, "--owner", "prefill-0") as tailing:
            assert [tailing.line().split("\t")[2] for _ in range(3)] == ["Bootstrapping", "Transferring", "cleared"]
