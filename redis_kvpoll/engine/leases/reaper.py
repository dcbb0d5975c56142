"""Sweeping leases, and failing the rooms of lost ones.

A lost lease is dropped in every shard before its rooms there are failed: no later write takes part in a room under it.
Any process may run this at any time: the scripts fail each room once, and a later sweep continues an interrupted run.
A run that was held up over a loss of data ends: the lease may be held again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

from redis_kvpoll.engine.effects import AwaitCalls, Flow, PendingCall
from redis_kvpoll.engine.executor import Executor
from redis_kvpoll.model import Owner
from redis_kvpoll.protocol import keys, lease_commands, owner_listing
from redis_kvpoll.protocol.script_call import CallContext

OPERATION = "reap"
DROP_SECONDS = 1.0
"""To drop a lost lease in the other shards: one that is away must not keep a holder from its own heartbeats."""


def reap(executor: Executor) -> Flow[int]:
    """Sweep the leases of all shards once and fail the rooms of lost ones. Returns the number of rooms failed."""
    executor.session.check_writable(OPERATION)
    context = yield from executor.context(OPERATION)
    tags = keys.tags(context.namespace, context.shards)
    replies = yield from executor.send_calls(OPERATION, [lease_commands.sweep(context, tag) for tag in tags])
    return (yield from reap_lost(executor, context, lease_commands.lost_in(replies)))


def reap_lost(executor: Executor, context: CallContext, lost: Mapping[str, str], until: float = math.inf) -> Flow[int]:
    """Fail the live rooms in which lost incarnations hold a part. Returns the number of rooms failed.

    After ``until`` it stops at the end of a chunk; a later sweep continues. Other processes may do the same
    concurrently; each room is failed once.
    """
    tags, failed = keys.tags(context.namespace, context.shards), 0
    reached = tags  # a shard that did not answer for one lease costs the others no time
    # In the order of their leases, so that all fail a room by one.
    for incarnation, reason in sorted(lost.items(), key=lambda item: int(item[0])):
        reached = yield from _drop(executor, context, reached, incarnation, reason)
        is_done = len(reached) == len(tags)
        for tag in reached:
            reaper = _Reaper(executor, context, tag, incarnation, reason, until)
            yield from reaper.run()
            failed += reaper.failed
            is_done = is_done and not reaper.is_interrupted
        if is_done:
            calls = [lease_commands.reaped(context, tag, incarnation) for tag in tags]
            yield from executor.send_calls(OPERATION, calls)
        if time.monotonic() >= until:
            break
    return failed


def _drop(executor: Executor, context: CallContext, tags: list[str], incarnation: str, reason: str) -> Flow[list[str]]:
    """Drop a lost lease in these shards. Returns those that were reached; a later sweep tries the others again."""
    if context.shards == 1 or not tags:
        return tags
    give_up_at = time.monotonic() + min(executor.deadline, DROP_SECONDS)
    calls = [PendingCall(lease_commands.drop(context, tag, incarnation, reason), give_up_at) for tag in tags]
    yield AwaitCalls(calls)
    return [pending.call.tag for pending in calls if pending.reply is not None]


class _Reaper:
    """Fails the rooms of one incarnation in one shard."""

    def __init__(
        self, executor: Executor, context: CallContext, tag: str, incarnation: str, reason: str, until: float
    ) -> None:
        self.failed = 0
        self.is_interrupted = False
        self._executor = executor
        self._context = context
        self._tag = tag
        self._incarnation = incarnation
        self._reason = reason
        self._until = until

    def run(self) -> Flow[None]:
        """Fail its rooms, until it has found nothing new.

        The rooms of other incarnations that it may take part in come first. A room that moves on meanwhile, because
        their holder is lost, too, was looked at before, or is found by the next pass.
        """
        seen: set[str] = set()
        is_complete = False
        while not is_complete:
            is_complete, offset = True, 0
            while page := (yield from self._send(lease_commands.list_owned(self._tag, self._incarnation, offset))):
                for other in lease_commands.parse_pointers(page, self._incarnation):
                    if other not in seen:
                        seen.add(other)
                        is_complete = False
                        yield from self._fail_listed_for(other)
                rooms = yield from self._fail(page)
                offset += len(page) - rooms  # those are no longer among its own: the rest was added by hand, or points
                if self.is_interrupted:
                    return

    def _fail_listed_for(self, other: str) -> Flow[None]:
        """Fail its rooms among those that are listed for another incarnation.

        A room that leaves that list meanwhile is listed for one of its parts from then on: the next pass finds it.
        """
        pages = lease_commands.OwnedPages()
        while pages.offset is not None and not self.is_interrupted:
            words = lease_commands.list_owned(self._tag, other, pages.offset)
            yield from self._fail(pages.take((yield from self._send(words))))

    def _send(self, words: list[str]) -> Flow[list[bytes]]:
        found: list[bytes] = yield from self._executor.send_command(OPERATION, self._tag, words)
        return found

    def _fail(self, found: list[bytes]) -> Flow[int]:
        """Fail the rooms in a list. Returns how many rooms the list has."""
        rooms, size = lease_commands.parse_owned(self._context, self._tag, found), lease_commands.MAX_REAPED
        for at in range(0, len(rooms), size):
            if self.is_interrupted:
                break
            command = lease_commands.reap(rooms[at : at + size], self._incarnation, self._reason)
            reaped = yield from self._executor.run(command, [])
            self.failed += reaped.failed
            self.is_interrupted = reaped.is_stale or time.monotonic() >= self._until
        return len(rooms)


# Listing


def owners(executor: Executor) -> Flow[list[Owner]]:
    """Return all leases, oldest first, with those that were lost in the last hour. Writes nothing."""
    context = yield from executor.context("owners")
    found: list[list[Owner]] = []
    parts = owner_listing.Parts()
    for tag in keys.tags(context.namespace, context.shards):
        seconds, micros = yield from executor.send_command("owners", tag, ["TIME"])
        reply = yield from executor.send_command("owners", tag, ["HGETALL", keys.leases(tag)])
        words, due = owner_listing.words_of(reply), {}
        if owner_listing.has_lost(words):
            due = owner_listing.parse_due(
                (yield from executor.send_command("owners", tag, owner_listing.list_due(tag)))
            )
        found.append(owner_listing.parse_owners(words, int(seconds) + int(micros) / 1e6, due))
        owned = yield from rooms_of(executor, context, tag, "-inf", "+inf")
        yield from executor.run(owner_listing.parts(owned, parts), [])
    return [parts.of(owner) for owner in owner_listing.merge_owners(found)]


def owner_names(executor: Executor) -> Flow[list[str]]:
    """Return the names of those that ``owners`` lists, each once. Reads the leases alone, and writes nothing."""
    context = yield from executor.context("owners")
    names: dict[str, None] = {}
    for tag in keys.tags(context.namespace, context.shards):
        words = owner_listing.words_of((yield from executor.send_command("owners", tag, ["HGETALL", keys.leases(tag)])))
        names |= dict.fromkeys(owner.name for owner in owner_listing.parse_owners(words, now=0.0))
    return list(names)


def rooms_of(
    executor: Executor,
    context: CallContext,
    tag: str,
    incarnation: str,
    last: str | None = None,
    give_up_at: float | None = None,
) -> Flow[list[int]]:
    """Return the rooms in one shard that are listed for an incarnation, or for those up to another.

    ``give_up_at`` is the deadline of its calls, instead of the store's.
    """
    rooms: list[int] = []
    at = 0
    while True:
        words = lease_commands.list_owned(tag, incarnation, at, last)
        reply = yield from executor.send_command("owners", tag, words, give_up_at)
        if not reply:
            return rooms
        rooms += lease_commands.parse_owned(context, tag, reply)
        at += len(reply)
