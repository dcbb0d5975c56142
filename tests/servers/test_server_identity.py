"""Which server a connection leads to, and what that means for it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import redis
from redis.exceptions import ResponseError

from redis_kvpoll.engine.effects import Send
from redis_kvpoll.transport.server_identity import KnownServer
from tests.support.internals import (
    give_back_connection,
    idle_connections_of,
    known_server_of,
    take_connection,
)


def replies(run_id, replication_id="r1"):
    """The replies to INFO server and INFO replication."""
    return [
        f"# Server\r\nredis_version:7.0\r\nrun_id:{run_id}\r\n".encode(),
        f"# Replication\r\nrole:master\r\nmaster_replid:{replication_id}\r\nmaster_replid2:00\r\n".encode(),
    ]


def admitted(known, run_id=None, replication_id="r1", before=None):
    """A new connection."""
    connection = SimpleNamespace()
    known.admit(connection, before or known.snapshot(), [] if run_id is None else replies(run_id, replication_id))
    return connection


class TestIdentity:
    def test_restart_and_promotion_are_other_servers(self):
        known = KnownServer()
        found = {admitted(known, run, replid).server for run, replid in (("a", "r1"), ("b", "r1"), ("a", "r2"))}
        assert len(found) == 3
        assert admitted(known, "a", "r2").server == known.current

    def test_lost_connection_to_same_server_changes_nothing(self):
        known = KnownServer()
        before = admitted(known, "a").server
        known.lost()
        assert admitted(known, "a").server == before

    @pytest.mark.parametrize("silent", [[], [ResponseError("NOPERM"), ResponseError("NOPERM")], [b"", b""]])
    def test_silent_server_is_another_after_each_loss(self, silent):
        known, one, two, three = KnownServer(), *(SimpleNamespace() for _ in range(3))
        known.admit(one, known.snapshot(), silent)
        known.admit(two, known.snapshot(), silent)
        known.lost()
        known.admit(three, known.snapshot(), silent)
        assert one.server == two.server != three.server

    def test_connection_that_was_overtaken_is_refused(self):
        """It was under way while another one found the new server: it may lead to the old one."""
        known = KnownServer()
        admitted(known, "old")
        before = known.snapshot()
        admitted(known, "new")
        with pytest.raises(redis.ConnectionError, match="another server took over"):
            admitted(known, "old", before=before)
        assert admitted(known, "new", before=before).server == known.current

    def test_former_server_may_come_back(self):
        known = KnownServer()
        old = admitted(known, "old").server
        admitted(known, "new")
        assert admitted(known, "old").server == known.current == old


class TestMaySend:
    def test_call_goes_to_the_server_it_is_meant_for(self):
        known = KnownServer()
        connection = admitted(known, "a")
        assert known.may_send(connection, Send("ns", [], server=connection.server))
        assert not known.may_send(connection, Send("ns", [], server=b"another"))
        assert known.may_send(connection, Send("ns", [], server=b"another", asking=("host", 1)))

    def test_call_for_any_server_notes_which_it_was(self):
        known = KnownServer()
        connection, effect = admitted(known, "a"), Send("ns", [])
        assert known.may_send(connection, effect)
        assert effect.server == connection.server


@pytest.mark.parametrize("world", ["sync"], indirect=True)
def test_connection_in_flight_during_a_loss_is_not_kept(world):
    """What ended the one has most likely hit the other, too."""
    store = world.open(world.shared().tcp)
    store.poll([1])
    first = take_connection(store)
    give_back_connection(store, first)
    assert idle_connections_of(store) == [first]
    first = take_connection(store)
    known_server_of(store).lost()
    give_back_connection(store, first)
    assert idle_connections_of(store) == []
