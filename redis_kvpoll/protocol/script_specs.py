"""The ScriptSpec of every script on rooms. A test compares each with the head of its script and with real replies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from redis_kvpoll.model import Ending, Outcome, Refusal, Update
from redis_kvpoll.protocol.script_call import NOT_REPORTED, ScriptSpec
from redis_kvpoll.protocol.scripts import load

# Equal to the head of lua/include/caller.lua.
_ROOM_KEYS = ("feed", "epoch", "leases", "owned")
_FAILED = ("failed",)
_CALLER = (
    *("feed_length", "ttl_ms", "terminal_ttl_ms", "epoch_ttl_ms", "nonce"),
    *("rank", "world_size", "owner", "incarnation", "author"),
)
CALLER_IDENTITY = slice(_CALLER.index("rank"), _CALLER.index("author"))
"""Rank, world_size, owner and incarnation, in the arguments of a call that has its caller's identity."""


def _reported_statuses(width: int) -> Callable[[list[Any]], list[Any]]:
    """For replies with a code and a status per room; a refused room has another value instead of the status."""
    return lambda reply: [
        status if code > 0 else NOT_REPORTED for code, status in zip(reply[::width], reply[1::width], strict=True)
    ]


WRITTEN = frozenset(outcome.value for outcome in Outcome if Update(outcome, None).changed)
"""The codes of writes that changed a room."""
CLEARED = frozenset({Outcome.CLEARED.value, Ending.ENDED.value})
"""The codes of a clear that has cleared something."""
_MERGED = (Outcome.CREATED, Outcome.ADVANCED, Outcome.UNCHANGED, Outcome.FAILED, Outcome.SKIPPED)

WRITE = ScriptSpec(
    load("write"),
    shard_keys=_ROOM_KEYS,
    last_keys=_FAILED,
    last_keys_if="Failed",
    shared_args=(*_CALLER, "policy"),
    room_args=("status", "generation", "reason"),
    reply=("outcome", "status"),
    codes=(*_MERGED, Outcome.STALE, Refusal.LEASE, Refusal.WORLD_SIZE, Refusal.CORRUPT),
    prefix_in_prefill=True,
    epoch=True,
    statuses_after=_reported_statuses(2),
    max_rooms=200,
    may_stop=True,
)
UPDATE = ScriptSpec(
    load("update"),
    shard_keys=("feed", "epoch"),
    last_keys=_FAILED,
    last_keys_if="Failed",
    shared_args=("feed_length", "policy", "ttl_ms", "terminal_ttl_ms", "epoch_ttl_ms"),
    room_args=("status",),
    reply=("outcome", "status"),
    codes=(*_MERGED, Refusal.WORLD_SIZE),
    prefix_in_prefill=True,
    statuses_after=_reported_statuses(2),
    may_stop=True,
    for_owner=WRITE,
)
WRITE_RANKS = ScriptSpec(
    load("write_ranks"),
    shard_keys=(*_ROOM_KEYS, "cleared"),
    last_keys=_FAILED,
    last_keys_if="Failed",
    room_keys=("room", "prefix"),
    shared_args=(*_CALLER, "policy", "mode"),
    room_args=("ranks",),
    is_nested=True,
    reply=("outcomes",),
    epoch=True,
    max_rooms=100,
    may_stop=True,
)
"""For a caller that speaks for many ranks. No statuses_after: each outcome has the status as its rank sees it, so a
mirror takes it from the feed."""
OPEN = ScriptSpec(
    load("open"),
    shard_keys=_ROOM_KEYS,
    room_keys=("room", "prefix"),
    shared_args=_CALLER,
    room_args=("request", "status", "seen"),
    reply=("outcome", "status", "generation", "age_ms", "of_owner", "of_request", "opened"),
    codes=(
        *(Outcome.CREATED, Outcome.UNCHANGED, Outcome.FAILED),
        *(Refusal.BUSY, Refusal.LEASE, Refusal.WORLD_SIZE, Refusal.CORRUPT),
    ),
    epoch=True,
    statuses_after=_reported_statuses(7),
    max_rooms=200,
    may_stop=True,
)
REPLAY = ScriptSpec(
    load("replay"),
    shard_keys=(*_ROOM_KEYS, "cleared"),
    last_keys=_FAILED,
    last_keys_if="Failed",
    room_keys=("room", "prefix"),
    shared_args=_CALLER,
    room_args=(
        "generation",
        "request",
        "status",
        "reason",
        "length",
        "role",
        "loss",
        "opened",
        "written",
        "updated_ms",
    ),
    reply=("outcome", "status", "opened"),
    codes=(*_MERGED, Outcome.STALE, Refusal.LEASE, Refusal.WORLD_SIZE, Refusal.CORRUPT),
    epoch=True,
    statuses_after=_reported_statuses(3),
    max_rooms=400,
    may_stop=True,
)
ATTACH = ScriptSpec(
    load("attach"),
    shard_keys=("epoch",),
    room_keys=("room", "prefix"),
    shared_args=("rank",),
    reply=("status", "generation", "request", "length", "opened"),
    epoch=True,
)
ABORT = ScriptSpec(
    load("abort"),
    shard_keys=("feed",),
    last_keys=_FAILED,
    shared_args=("feed_length", "terminal_ttl_ms", "author", "rank"),
    room_args=("reason",),
    reply=("outcome", "status"),
    codes=(Outcome.UNCHANGED, Outcome.FAILED, Outcome.SKIPPED, Refusal.CORRUPT),
    prefix_in_prefill=True,
    statuses_after=_reported_statuses(2),
    max_rooms=500,
    may_stop=True,
)
REAP = ScriptSpec(
    load("reap"),
    shard_keys=("feed", "owned", "leases"),
    last_keys=_FAILED,
    shared_args=("feed_length", "terminal_ttl_ms"),
    room_args=("incarnation", "reason"),
    reply=("outcome", "status"),
    codes=(Outcome.UNCHANGED, Outcome.FAILED, Outcome.SKIPPED, Outcome.STALE),
    prefix_in_prefill=True,
    max_rooms=500,
    may_stop=True,
)
"""No statuses_after: the reply lacks the status as a rank sees it, so a mirror takes it from the feed."""
RECORD_FAILURE = ScriptSpec(
    load("record_failure"),
    shard_keys=("feed",),
    last_keys=_FAILED,
    shared_args=("feed_length", "author"),
    room_args=("reason", "generation"),
    reply=("stored",),
)
CLEAR = ScriptSpec(
    load("clear"),
    shard_keys=("feed", "epoch", "owned", "cleared"),
    room_keys=("room", "prefix"),
    shared_args=("feed_length", "rank", "world_size"),
    room_args=("generation",),
    reply=("outcome", "status", "reason"),
    codes=(Outcome.SKIPPED, Outcome.STALE, Outcome.CLEARED, Ending.ENDED, Refusal.WORLD_SIZE, Refusal.CORRUPT),
    epoch=True,
    repeatable=False,
    max_rooms=250,
    may_stop=True,
    statuses_after=lambda reply: [
        None if code in CLEARED else status
        for code, status in zip(reply[::3], _reported_statuses(3)(reply), strict=True)
    ],
)
CLEAR_FENCED = replace(CLEAR, repeatable=True)
POLL_RANK = ScriptSpec(load("poll_rank"), shared_args=("rank",))
POLL = ScriptSpec(load("poll"))
"""The consensus of a room's ranks; without ranks, its status."""
POLL_OWN = replace(POLL, for_rank=POLL_RANK)
CONSENSUS = ScriptSpec(load("consensus"), reply=("status", "generation", "version"))
TOUCH = ScriptSpec(
    load("touch"),
    shard_keys=("feed", "epoch", "owned"),
    room_keys=("room", "prefix"),
    shared_args=("feed_length", "ttl_ms"),
    reply=("kept",),
    epoch=True,
    max_rooms=500,
)
ENTRY = ScriptSpec(
    load("entry"),
    room_keys=("room", "prefix"),
    shared_args=("length_field",),
    reply=("ttl_ms", "length", "fields"),
    max_rooms=500,
    may_stop=True,
)
SET_PREFIX = ScriptSpec(
    load("set_prefix"),
    shard_keys=("epoch",),
    room_keys=("room", "prefix"),
    shared_args=("ttl_ms", "length_field"),
    room_args=("length", "generation"),
    reply=("stored",),
    epoch=True,
)
POP_PREFIX = ScriptSpec(
    load("pop_prefix"), room_keys=("prefix",), shared_args=("length_field",), reply=("length",), repeatable=False
)
SNAPSHOT_RANKS = ScriptSpec(
    load("snapshot_ranks"),
    shard_keys=("feed",),
    shared_args=("feed_ttl_ms", "rank"),
    reply=("status", "left_ms", "ranks"),
    statuses_after=lambda reply: reply[::3],
    max_rooms=500,
    may_stop=True,
)
SNAPSHOT = ScriptSpec(
    load("snapshot"),
    shard_keys=("feed",),
    shared_args=("feed_ttl_ms",),
    reply=("status", "left_ms"),
    statuses_after=lambda reply: reply[::2],
    for_rank=SNAPSHOT_RANKS,
)
SNAPSHOT_FIELDS = ScriptSpec(
    load("snapshot_fields"), shard_keys=("feed",), reply=("status", "left_ms", "opening", "updated_ms", "owner")
)

FAILURES = ScriptSpec(
    load("failures"),
    shard_keys=("feed", "failed"),
    shared_args=("feed_ttl_ms",),
    reply=("status", "generation", "request", "owner", "by", "reason"),
)

SPECS = (
    WRITE_RANKS,
    *(UPDATE, WRITE, OPEN, REPLAY, ATTACH, ABORT, REAP, RECORD_FAILURE, CLEAR, CLEAR_FENCED, POLL, POLL_OWN, POLL_RANK),
    *(CONSENSUS, TOUCH, ENTRY, SET_PREFIX, POP_PREFIX, SNAPSHOT, SNAPSHOT_RANKS, SNAPSHOT_FIELDS, FAILURES),
)
