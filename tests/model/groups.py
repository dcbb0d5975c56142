"""Writes of a caller that speaks for both ranks, beside those of the ranks themselves."""

from __future__ import annotations

from typing import Any

from redis_kvpoll import KVPoll, Outcome, Update
from redis_kvpoll.protocol.rank_commands import RankChange, RankIdentity, write_ranks
from tests.model.handles import fence
from tests.model.operations import Operation, Process
from tests.model.table import ROOM

RANKS = ("0", "1")


def _learn(process: Process, value: Any) -> Process:
    """A process whose writes are all stale, or that has cleared, drops its handle."""
    over = (Outcome.STALE, Outcome.CLEARED)
    is_over = all(isinstance(answer, Update) and answer.outcome in over for answer in value)
    return process._replace(handle=b"") if is_over else process


def _group(name: str, *statuses: KVPoll | None, reason: str = "") -> Operation:
    """What each rank says; None for a clear."""

    def command(process: Process, _: Any) -> Any:
        if not process.handle:
            return None
        generation = int(process.handle)
        changes = [
            RankChange(ROOM, RankIdentity(rank, len(RANKS)), generation, status, reason, clears=status is None)
            for rank, status in enumerate(statuses)
        ]
        return write_ranks(changes)

    saying = tuple(rank for rank, status in zip(RANKS, statuses, strict=True) if status is KVPoll.Success)
    worst = min((status for status in statuses if status is not None), default=None)
    return Operation(
        name,
        command,
        _learn,
        lambda _: worst.name if worst is not None else None,
        fence,
        clears=worst is None,
        saying=saying,
        all_ranks=RANKS,
    )


GROUPS = (
    _group("both wait for input", KVPoll.WaitingForInput, KVPoll.WaitingForInput),
    _group("both are at Success", KVPoll.Success, KVPoll.Success),
    _group("one is at Success, one transfers", KVPoll.Success, KVPoll.Transferring),
    _group("one fails", KVPoll.Failed, KVPoll.Success, reason="one failed"),
    _group("both clear", None, None),
)
