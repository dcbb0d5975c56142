"""Which node of a cluster gets a call: the slot map and redirects, without I/O."""

from __future__ import annotations

from typing import ClassVar

import pytest
from redis.exceptions import AskError, MovedError

from redis_kvpoll.engine.classify import NotSent
from redis_kvpoll.engine.effects import FollowRedirect, Sleep
from redis_kvpoll.engine.executor import Executor
from redis_kvpoll.engine.reads import read_settings
from redis_kvpoll.engine.session import Session
from redis_kvpoll.protocol.settings import ExpectedSettings
from redis_kvpoll.transport.slot_map import SlotMap


def test_owner_is_asked_again_after_failed_ask():
    """The importing node may be gone, and the slot may stay where it was."""
    executor = Executor(Session(ExpectedSettings.checked("prod", None, None, None, None), 9.0, 9.0, 5.0))
    effects = read_settings(executor)
    assert next(effects).asking is None
    assert isinstance(effects.throw(AskError("5 10.0.0.1:7000")), FollowRedirect)
    assert effects.send(True).asking == ("10.0.0.1", 7000)
    assert isinstance(effects.throw(NotSent()), Sleep)
    assert effects.send(None).asking is None


class TestTopology:
    """The slot map, without I/O."""

    REPLY: ClassVar = [
        [0, 8191, [b"10.0.0.1", 7000, b"id", []], [b"10.0.0.9", 7000]],
        [8192, 16383, [b"", 7001, b"id"]],
    ]

    def test_node_without_address_is_the_asked_one(self):
        slot_map = SlotMap([("seed", 1)])
        assert slot_map.learn(self.REPLY, ("seed", 1))
        assert {slot_map.owner(name) for name in "abcdef"} == {("10.0.0.1", 7000), ("seed", 7001)}

    def test_empty_reply_keeps_the_map(self):
        slot_map = SlotMap([("seed", 1)])
        slot_map.learn(self.REPLY, ("seed", 1))
        slot_map.stale = True
        assert not slot_map.learn([], ("seed", 1))
        assert slot_map.stale
        assert slot_map.owner("a")

    def test_announced_addresses_are_remapped(self):
        slot_map = SlotMap([("seed", 1)], lambda host, port: ("proxy", port + 1))
        slot_map.learn(self.REPLY, ("seed", 1))
        assert {slot_map.owner(name) for name in "abcdef"} == {("proxy", 7001), ("proxy", 7002)}
        assert slot_map.asked("a", "10.0.0.1", 5) == ("proxy", 6)

    @pytest.mark.parametrize("metadata", [[b"ip", b"10.0.0.7"], {b"ip": b"10.0.0.7"}], ids=["RESP2", "RESP3"])
    def test_node_without_a_name_has_its_address(self, metadata):
        """It announces "?" while cluster-preferred-endpoint-type is hostname and it has none."""
        slot_map = SlotMap([("seed", 1)])
        slot_map.learn([[0, 16383, [b"?", 7000, b"id", metadata]]], ("seed", 1))
        assert slot_map.owner("a") == ("10.0.0.7", 7000)

    @pytest.mark.parametrize("host", ["", "?"])
    def test_redirect_without_host_is_to_the_asked_node(self, host):
        slot_map = SlotMap([("seed", 1)])
        slot_map.learn(self.REPLY, ("seed", 1))
        (owner, _) = slot_map.owner("a")
        assert slot_map.asked("a", host, 7009) == (owner, 7009)
        slot_map.moved(MovedError(f"5 {host}:7009"))
        assert slot_map.stale

    def test_replicas_are_candidates(self):
        slot_map = SlotMap([("seed", 1)])
        slot_map.learn(self.REPLY, ("seed", 1))
        assert set(slot_map.nodes()) == {("10.0.0.1", 7000), ("10.0.0.9", 7000), ("seed", 7001), ("seed", 1)}

    def test_nodes_are_asked_in_turn(self):
        slot_map = SlotMap([("one", 1), ("two", 1)])
        assert {slot_map.nodes()[0] for _ in range(2)} == {("one", 1), ("two", 1)}
