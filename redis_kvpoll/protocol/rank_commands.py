"""Writes of a caller that speaks for several ranks: what they say of one room is one step on the server.

Each change has the identity of its rank, since the caller has none. The result is that of the same calls by a store of
each rank, in this order. Changes of one room that follow each other cost little more than one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

from redis_kvpoll.errors import KVPollError
from redis_kvpoll.model import KVPoll, Outcome, Update
from redis_kvpoll.protocol import replies, script_specs
from redis_kvpoll.protocol.script_call import Command, named
from redis_kvpoll.validation import reason as checked_reason
from redis_kvpoll.validation import status_name

MAX_RANKS = 64
"""Ranks of a room that are one step."""
_STATUS = "status:"
ABSENT = "absent"
"""The status of a rank that clears."""
_WIDTH = 6
"""The arguments of a rank."""

Answer: TypeAlias = Update | KVPollError


class RankIdentity(NamedTuple):
    """A rank, and the lease under which it takes part, if any."""

    rank: int
    world_size: int
    owner: str = ""
    incarnation: str = ""


class RankChange(NamedTuple):
    """What one rank says of one room."""

    room: int
    identity: RankIdentity
    generation: int
    """Its room's; 0 for a plain update."""
    status: KVPoll | None = None
    reason: str = ""
    length: int | None = None
    """The decode prefix length, recorded before the status."""
    clears: bool = False
    """Whether the rank clears the room; then there is no status."""


@named
def write_ranks(changes: Sequence[RankChange]) -> Command[list[Answer], list[Answer]]:
    """Apply changes in their order. The result has an update for each, or the error with which it was refused."""
    groups = _groups(changes)

    def finish(_: list[int], found: list[list[Answer]]) -> list[Answer]:
        # An error that replaces the outcomes of a room is the answer to each of its ranks.
        by_group = zip(groups, found, strict=True)
        return [answer for group, of_room in by_group for answer in (of_room * len(group))[: len(group)]]

    items: list[Any] = [_words(group) for group in groups]
    rooms = [group[0].room for group in groups]
    return Command("write_ranks", script_specs.WRITE_RANKS, rooms, items, _answers, finish)


def _groups(changes: Sequence[RankChange]) -> list[list[RankChange]]:
    """Return the changes, those together that can be one step: neighbours of one room, each of another rank."""
    groups: list[list[RankChange]] = []
    for change in changes:
        group = groups[-1] if groups else []
        if (
            group
            and len(group) < MAX_RANKS
            and (change.room, change.generation, change.reason, change.identity.world_size)
            == (group[0].room, group[0].generation, group[0].reason, group[0].identity.world_size)
            and all(change.identity.rank != other.identity.rank for other in group)
        ):
            group.append(change)
        else:
            groups.append([change])
    return groups


def _words(group: list[RankChange]) -> tuple[str, ...]:
    """What the ranks of one room say, as write_ranks.lua takes it."""
    first = group[0]
    reason = checked_reason(first.reason) if first.reason else ""
    ranks = [word for change in group for word in _words_of_rank(change)]
    return str(first.identity.world_size), str(first.generation or ""), reason, str(len(group)), *ranks


def _words_of_rank(change: RankChange) -> tuple[str, ...]:
    rank, _, owner, incarnation = change.identity
    status = ABSENT if change.clears else "" if change.status is None else status_name(change.status)
    length = "" if change.length is None else str(change.length)
    return f"{_STATUS}{rank}", f"by:{rank}", owner, incarnation, status, length


class SentChange(NamedTuple):
    """A change as a call has it."""

    identity: RankIdentity
    generation: int
    status: str
    """Empty if there is none, or the rank clears the room."""
    reason: str
    length: str
    clears: bool


def sent_changes(words: Sequence[str]) -> Iterator[SentChange]:
    """Yield the changes in the arguments of one room."""
    world_size, generation, reason = int(words[0]), int(words[1] or 0), words[2]
    for at in range(4, len(words), _WIDTH):
        field, _, owner, incarnation, status, length = words[at : at + _WIDTH]
        identity = RankIdentity(int(field[len(_STATUS) :]), world_size, owner, incarnation)
        said = "" if status == ABSENT else status
        yield SentChange(identity, generation, said, reason, length, status == ABSENT)


def outcomes_of(outcomes: Any) -> list[tuple[int, bytes]]:
    """Return the code and the text of each rank in the reply for one room; none if it is an error."""
    if not isinstance(outcomes, bytes):
        return []
    return [(int(code), text) for code, text in (told.split(b" ", 1) for told in outcomes.split(b";")[:-1])]


def _answers(operation: str, rooms: list[int], reply: list[Any]) -> list[list[Answer]]:
    return [_of_room(operation, room, outcomes) for room, outcomes in zip(rooms, reply, strict=True)]


def _of_room(operation: str, room: int, outcomes: Any) -> list[Answer]:
    if isinstance(outcomes, Exception):
        return [_answer(operation, room, Outcome.UNCHANGED.value, outcomes)]
    return [_answer(operation, room, code, text or None) for code, text in outcomes_of(outcomes)]


def _answer(operation: str, room: int, code: int, status: Any) -> Answer:
    try:
        if code in script_specs.CLEARED:
            return Update(Outcome.CLEARED, replies.parse_status(status))
        return replies.updates(operation, [room], [code, status])[0]
    except KVPollError as error:
        return error
