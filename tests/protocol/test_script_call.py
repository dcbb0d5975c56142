"""A call is made from its context alone."""

from __future__ import annotations

from dataclasses import replace

from redis_kvpoll import KVPoll
from redis_kvpoll.protocol import fenced_commands
from tests.support.contexts import context


def shared_args(of):
    (call,) = fenced_commands.update(1, 1, KVPoll.Success).calls(of)
    return call.shared_args


def test_calls_of_a_replaced_context_are_its_own():
    """A context keeps the arguments that its calls share; one made from it must not."""
    first = context(owner="a", incarnation="1")
    assert "a" in shared_args(first)
    second = replace(first, owner="b")
    assert "b" in shared_args(second)
    assert "a" in shared_args(first)
