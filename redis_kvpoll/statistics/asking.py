"""Sends the commands of statistics, also while a cluster moves a slot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis.exceptions import AskError, MovedError

from redis_kvpoll.engine.effects import FollowRedirect, Send
from redis_kvpoll.replica.requests import FollowerFlow


def ask(tag: str, words: Sequence[str]) -> FollowerFlow[Any]:
    """Send a command to a shard; to the node that gets its slot, if the key has moved there or is absent."""
    try:
        return (yield Send(tag, words))
    except MovedError:
        raise
    except AskError as redirect:
        if not (yield FollowRedirect(redirect)):
            raise
        return (yield Send(tag, words, asking=(redirect.host, redirect.port)))
