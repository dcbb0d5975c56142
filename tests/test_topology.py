"""Which node of a cluster a call goes to: the map of slots, and redirects, by themselves."""

from __future__ import annotations

from typing import ClassVar

from redis.exceptions import AskError

from redis_kvpoll.engine.classify import NotSent
from redis_kvpoll.engine.effects import Pause, Reroute
from redis_kvpoll.engine.executor import Delivery
from redis_kvpoll.protocol.settings import Agreement
from redis_kvpoll.transport.slot_map import Topology


def test_after_a_failed_ask_the_owner_is_asked_again():
    """The importing node may be gone, and the slot may stay where it was."""
    delivery = Delivery(Agreement.checked("prod", None, None, None, None), 9.0, 9.0, 5.0)
    flow = delivery.settings()
    assert next(flow).asking is None
    assert isinstance(flow.throw(AskError("5 10.0.0.1:7000")), Reroute)
    assert flow.send(True).asking == ("10.0.0.1", 7000)
    assert isinstance(flow.throw(NotSent()), Pause)
    assert flow.send(None).asking is None


class TestTopology:
    """The map of slots by itself."""

    REPLY: ClassVar = [
        [0, 8191, [b"10.0.0.1", 7000, b"id", []], [b"10.0.0.9", 7000]],
        [8192, 16383, [b"", 7001, b"id"]],
    ]

    def test_a_node_without_a_known_address_is_where_we_asked(self):
        topology = Topology([("seed", 1)])
        assert topology.learn(self.REPLY, ("seed", 1))
        assert {topology.owner(name) for name in "abcdef"} == {("10.0.0.1", 7000), ("seed", 7001)}

    def test_an_empty_map_is_none(self):
        topology = Topology([("seed", 1)])
        topology.learn(self.REPLY, ("seed", 1))
        topology.stale = True
        assert not topology.learn([], ("seed", 1))
        assert topology.stale
        assert topology.owner("a")

    def test_announced_addresses_are_mapped(self):
        topology = Topology([("seed", 1)], lambda host, port: ("proxy", port + 1))
        topology.learn(self.REPLY, ("seed", 1))
        assert {topology.owner(name) for name in "abcdef"} == {("proxy", 7001), ("proxy", 7002)}
        assert topology.redirected("10.0.0.1", 5) == ("proxy", 6)

    def test_replicas_are_asked_too(self):
        topology = Topology([("seed", 1)])
        topology.learn(self.REPLY, ("seed", 1))
        assert set(topology.nodes()) == {("10.0.0.1", 7000), ("10.0.0.9", 7000), ("seed", 7001), ("seed", 1)}

    def test_each_node_is_asked_first_in_turn(self):
        topology = Topology([("one", 1), ("two", 1)])
        assert {topology.nodes()[0] for _ in range(2)} == {("one", 1), ("two", 1)}
