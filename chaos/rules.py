"""What one call says of its room, under the policy strict: how the room was then, and what the call may have done.

Statuses are numbers, as in a history. A room's place is how far it has got: absent, 1 … 4, and Failed beyond all.
"""

from __future__ import annotations

from chaos.history import Done
from redis_kvpoll import KVPoll, Outcome

ABSENT, FAILED = 0, 9
WRITES = frozenset({"update", "update_many", "abort"})
CLEARS = frozenset({"clear", "clear_many", "failure_exception"})
READS = frozenset({"get", "poll", "wait", "mirror"})
CREATING = frozenset({KVPoll.Bootstrapping, KVPoll.WaitingForInput})


def place(status: int | None) -> int:
    """How far a room at this status has got."""
    return ABSENT if status is None else FAILED if status == KVPoll.Failed else int(status)


def place_after(done: Done) -> int | None:
    """Where the room was at one moment of the call, after what the call itself did; None: it says nothing."""
    if done.error or done.ended == float("inf"):
        return None
    if done.name in WRITES:
        return place(done.answer[1])
    if done.name in CLEARS:
        return ABSENT
    return place(done.answer) if done.name in READS else None


def place_before(done: Done) -> int | None:
    """Where the room was at one moment of the call, before what the call itself did; None: it says nothing.

    Of a write that was sent twice, the second may answer: it says how the first left the room.
    """
    if done.error or done.ended == float("inf"):
        return None
    if done.name in CLEARS:
        return place(done.answer)
    if done.name in WRITES:
        return ABSENT if done.answer[0] in (Outcome.CREATED.name, Outcome.SKIPPED.name) else None
    return place_after(done)


def may_remove(done: Done) -> bool:
    """Whether it may have removed its room, at some moment: a clear that found nothing has not."""
    if done.name not in CLEARS:
        return False
    return bool(done.error) or done.ended == float("inf") or done.answer is not None


def may_create(done: Done) -> bool:
    """Whether it may have made its room."""
    return done.name in ("update", "update_many") and done.argument in CREATING


def misfit(done: Done) -> str:
    """What is wrong with an answer as such, whatever came before; empty: nothing is."""
    if done.error or done.ended == float("inf") or done.name not in WRITES:
        return ""
    given = int(KVPoll.Failed) if done.name == "abort" else done.argument
    outcome, status = done.answer
    fits = {
        Outcome.CREATED.name: given in CREATING and status == given,
        Outcome.ADVANCED.name: given != KVPoll.Failed and status == given,
        Outcome.UNCHANGED.name: status is not None and place(status) >= place(given),
        Outcome.FAILED.name: given == status == KVPoll.Failed,
        Outcome.SKIPPED.name: given not in CREATING and status is None,
    }
    return "" if fits.get(outcome, False) else f"{KVPoll(given).name} was answered {outcome}, {status}"
