"""What one call shows of its room under the policy strict: the room's state, and what the call may have done.

Statuses are numbers, as in a history. A room's place is how far it has got: absent, 1 … 4, and Failed beyond all.
"""

from __future__ import annotations

from chaos.history import CallRecord
from redis_kvpoll import KVPoll, Outcome

ABSENT, FAILED = 0, 9
WRITES = frozenset({"update", "update_many", "abort"})
CLEARS = frozenset({"clear", "clear_many", "failure_exception"})
READS = frozenset({"get", "poll", "wait", "mirror"})
CREATING = frozenset({KVPoll.Bootstrapping, KVPoll.WaitingForInput})


def place(status: int | None) -> int:
    """How far a room at this status has got."""
    return ABSENT if status is None else FAILED if status == KVPoll.Failed else int(status)


def place_after(record: CallRecord) -> int | None:
    """The room's place at one moment of the call, after the call's own effect; None if unknown."""
    if record.error or record.ended == float("inf"):
        return None
    if record.name in WRITES:
        return place(record.answer[1])
    if record.name in CLEARS:
        return ABSENT
    return place(record.answer) if record.name in READS else None


def place_before(record: CallRecord) -> int | None:
    """The room's place at one moment of the call, before the call's own effect; None if unknown.

    Of a write that was sent twice, the answer may be the second's: it shows the state that the first left.
    """
    if record.error or record.ended == float("inf"):
        return None
    if record.name in CLEARS:
        return place(record.answer)
    if record.name in WRITES:
        return ABSENT if record.answer[0] in (Outcome.CREATED.name, Outcome.SKIPPED.name) else None
    return place_after(record)


def may_remove(record: CallRecord) -> bool:
    """Whether the call may have removed its room; a clear that found nothing has not."""
    if record.name not in CLEARS:
        return False
    return bool(record.error) or record.ended == float("inf") or record.answer is not None


def may_create(record: CallRecord) -> bool:
    """Whether the call may have created its room."""
    return record.name in ("update", "update_many") and record.argument in CREATING


def invalid_answer(record: CallRecord) -> str:
    """What is wrong with an answer whatever came before; empty if it is valid."""
    if record.error or record.ended == float("inf") or record.name not in WRITES:
        return ""
    given = int(KVPoll.Failed) if record.name == "abort" else record.argument
    outcome, status = record.answer
    valid = {
        Outcome.CREATED.name: given in CREATING and status == given,
        Outcome.ADVANCED.name: given != KVPoll.Failed and status == given,
        Outcome.UNCHANGED.name: status is not None and place(status) >= place(given),
        Outcome.FAILED.name: given == status == KVPoll.Failed,
        Outcome.SKIPPED.name: given not in CREATING and status is None,
    }
    return "" if valid.get(outcome, False) else f"{KVPoll(given).name} was answered {outcome}, {status}"
