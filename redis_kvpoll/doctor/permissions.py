"""Asks which commands of the ACL rule a user is denied, by calls that change nothing whatever they are answered.

A server checks the rights before it looks at a command's arguments or at its own state. So a command that writes is
sent for a key that nobody has, in a form that does nothing there or that is refused. Each denied call is an entry in
the server's ACL LOG, so for a user who may only look the commands that write are sent once.

To ask for another command: add it to CALLS, or with the reason to NOT_ASKED.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from redis.exceptions import ResponseError

from redis_kvpoll.doctor import node_look
from redis_kvpoll.doctor.facts import Permissions
from redis_kvpoll.doctor.node_look import FAILURES
from redis_kvpoll.engine import remedies
from redis_kvpoll.engine.effects import Send
from redis_kvpoll.protocol import acl, keys
from redis_kvpoll.sync.transport import Transport

_SCRIPT = "return 1"
_KEY = "KEY"
CALLS = {
    "del": "DEL KEY",
    "exists": "EXISTS KEY",
    "hdel": "HDEL KEY field",
    "hexists": "HEXISTS KEY field",
    "hget": "HGET KEY field",
    "hgetall": "HGETALL KEY",
    "hincrby": "HINCRBY KEY field no-number",
    "hlen": "HLEN KEY",
    "hmget": "HMGET KEY field",
    "hset": "HSET KEY field value field-without-value",
    "info": "INFO server",
    "pexpire": "PEXPIRE KEY 1000",
    "pttl": "PTTL KEY",
    "scan": "SCAN 0 COUNT 1",
    "time": "TIME",
    "xadd": "XADD KEY NOMKSTREAM * name value",
    "xlen": "XLEN KEY",
    "xrange": "XRANGE KEY - + COUNT 1",
    "xread": "XREAD COUNT 1 STREAMS KEY 0",
    "xrevrange": "XREVRANGE KEY + - COUNT 1",
    "zadd": "ZADD KEY no-number member",
    "zcard": "ZCARD KEY",
    "zcount": "ZCOUNT KEY 0 0",
    "zrangebyscore": "ZRANGEBYSCORE KEY 0 0",
    "zrem": "ZREM KEY member",
    "zremrangebyscore": "ZREMRANGEBYSCORE KEY 0 0",
    "zscore": "ZSCORE KEY member",
}
NOT_ASKED = {
    "hello": "a connection begins with it, where it is needed",
    "client|setname": "the same",
    "select": "the same",
    "hsetnx": "has no form that does nothing",
    "cluster|slots": "a cluster was asked before",
    "asking": "only after a redirect",
    "command": "redis-py's cluster client alone sends it",
    "readonly": "the same",
}


def look_at(transport: Transport, tag: str, before: Permissions | None = None) -> Permissions | None:
    """Return what the user is denied; None if the server does not answer. ``before`` is what an earlier look found."""

    def is_denied(words: list[str]) -> bool:
        try:
            transport.perform(Send(tag, words, node_look.REACH_SECONDS))
        except ResponseError as error:
            return remedies.code_of(error) == "NOPERM"
        return False

    try:
        return _permissions(is_denied, keys.nothing(tag), before if before and before.is_of_reader else None)
    except FAILURES:
        return None


def _permissions(is_denied: Callable[[list[str]], bool], key: str, reader: Permissions | None) -> Permissions:
    """Ask about each command; if the user is known as a reader, only whether it may still read."""
    calls = {name: [key if word == _KEY else word for word in line.split()] for name, line in CALLS.items()}
    calls["eval"] = ["EVAL", _SCRIPT, "0"]  # first: then the server has it
    calls["evalsha"] = ["EVALSHA", hashlib.sha1(_SCRIPT.encode(), usedforsecurity=False).hexdigest(), "0"]
    reading = acl.commands(read_only=True)
    asked = [command for command in acl.commands() if command in calls and (reader is None or command in reading)]
    asked.sort(key="evalsha".__eq__)
    denied = [command for command in asked if is_denied(calls[command])]
    return Permissions(
        tuple(command for command in denied if command in reading),
        reader.writes if reader else tuple(command for command in denied if command not in reading),
        reader.asked_writes if reader else sum(command not in reading for command in asked),
        # A server's words for the two cases differ from version to version.
        all((key in calls[command]) == (command in denied) for command in asked),
    )
