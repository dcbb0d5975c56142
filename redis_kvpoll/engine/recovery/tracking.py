"""What each reply says about the rooms that a store tracks.

To track another script: add a function to _BY_SCRIPT.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from redis_kvpoll.engine.recovery.marks import Mark
from redis_kvpoll.engine.recovery.tracked_rooms import TERMINAL, TrackedRooms
from redis_kvpoll.engine.recovery.tracked_state import TrackedRoom
from redis_kvpoll.model import Ending, KVPoll, Outcome, Refusal
from redis_kvpoll.protocol import script_specs as specs
from redis_kvpoll.protocol.replies import parse_status
from redis_kvpoll.protocol.script_call import Call

logger = logging.getLogger("redis_kvpoll.leases")

CLEARING = (specs.CLEAR, specs.CLEAR_FENCED, specs.WRITE_RANKS)
"""The scripts that may clear rooms."""

_CREATED, _FAILED, _SKIPPED, _STALE, _LEASE_LOST = (
    code.value for code in (Outcome.CREATED, Outcome.FAILED, Outcome.SKIPPED, Outcome.STALE, Refusal.LEASE)
)
_DONE = frozenset(outcome.value for outcome in Outcome) - {_SKIPPED, _STALE}
_GONE = frozenset({*specs.CLEARED, _STALE, _SKIPPED})
"""The outcomes of clears after which the caller has no part in the room."""


def observe(rooms: TrackedRooms, call: Call, reply: Sequence[Any], mark: Mark | None, now: float) -> None:
    """Update the tracked rooms from the reply to a call of their store, over a connection to a verified shard.

    ``mark`` is the entry that the call has appended to the feed, if any; for a replay, at least an earlier one.
    """
    observer = _BY_SCRIPT.get(call.spec.script.name)
    if observer is not None:
        observer(rooms, call, reply, mark, now)


def _observe_open(rooms: TrackedRooms, call: Call, reply: Sequence[Any], mark: Mark | None, now: float) -> None:
    for room, (code, status, generation, _, _, request, opened) in zip(call.rooms, specs.OPEN.rows(reply), strict=True):
        if code > 0 and generation:
            created = TrackedRoom(int(generation), request.decode(), "creator", parse_status(status), now)
            tracked = rooms.track(call.tag, room, created, now)
            tracked.add_opening(room, opened)
            if code in specs.WRITTEN:
                tracked.changed = mark
                rooms.mark(call.tag, room, tracked, mark)
            else:
                rooms.mark_end(call.tag, room, tracked, mark)


def _observe_attach(rooms: TrackedRooms, call: Call, reply: Sequence[Any], mark: Mark | None, now: float) -> None:
    rooms_here = rooms.in_shard(call.tag)
    for room, (name, number, request, _, opened) in zip(call.rooms, specs.ATTACH.rows(reply), strict=True):
        status, generation = parse_status(name), int(number or 0)
        tracked = rooms_here.get(room)
        if tracked and tracked.generation > generation and tracked.awaiting_since is None:
            del rooms_here[room]  # cleared or expired
        elif generation and status is not None and (tracked is None or tracked.generation < generation):
            request = request.decode() if request else ""
            tracked = rooms.track(call.tag, room, TrackedRoom(generation, request, "attached", status, now), now)
            tracked.add_opening(room, opened)
            rooms.unmark(call.tag, room)
        elif tracked and tracked.generation == generation:
            if status != tracked.status:
                rooms.unmark(call.tag, room)
            rooms.merge_status(tracked, status, now)


def _observe_write(rooms: TrackedRooms, call: Call, reply: Sequence[Any], mark: Mark | None, now: float) -> None:
    """Process a write: fenced ones, and plain ones to tracked rooms, whose replies have the status, too."""
    width = len(call.spec.room_args)
    for number, room in enumerate(call.rooms):
        code, status = reply[number * 2], parse_status(reply[number * 2 + 1])
        words = call.room_args[number * width : (number + 1) * width]
        generation = int(words[1] or 0) if call.spec is specs.WRITE else 0
        reason = "" if call.spec is specs.UPDATE else words[-1]
        observe_written(rooms, call.tag, room, (generation, code, status, reason), mark, now)


def observe_written(
    rooms: TrackedRooms,
    tag: str,
    room: int,
    found: tuple[int, int, KVPoll | None, str],
    mark: Mark | None,
    now: float,
) -> None:
    """Process a write to one room: its generation (0 for a plain one), its code, its status, and the reason sent."""
    generation, code, status, reason = found
    rooms_here = rooms.in_shard(tag)
    tracked = rooms_here.get(room)
    if tracked is None or generation > tracked.generation:  # which is over then
        if not (generation and code in _DONE and status is not None):
            return
        tracked = rooms.track(tag, room, TrackedRoom(generation, "", "attached", None, now), now)
    elif generation and generation != tracked.generation:
        return
    elif code == _LEASE_LOST or (generation and code == _STALE):
        if code == _STALE and tracked.is_clearing:  # by a clear whose reply was lost
            observe_cleared(rooms, tag, room, str(generation), code, mark, now)
        elif tracked.awaiting_since is None and tracked.role != "cleared":  # then it is late, and changes nothing
            del rooms_here[room]
        return
    if not generation and code == _CREATED and not (rooms.has_rank and tracked.role == "attached"):
        del rooms_here[room]  # the room was absent, so the generation that was tracked is over
        return
    if code in specs.WRITTEN:
        tracked.written = tracked.changed = mark
        if rooms.unmarked:
            rooms.unmarked.get(tag, {}).pop(room, None)
    elif code in _DONE and status != tracked.status:
        rooms.unmark(tag, room)
    if code in _DONE:
        rooms.merge_status(tracked, status, now)
        if code == _FAILED:
            tracked.reason = tracked.reason or reason


def _observe_replay(rooms: TrackedRooms, call: Call, reply: Sequence[Any], mark: Mark | None, now: float) -> None:
    rooms_here = rooms.in_shard(call.tag)
    for room, (code, status, opened) in zip(call.rooms, specs.REPLAY.rows(reply), strict=True):
        tracked = rooms_here.get(room)
        is_waiting = False
        if tracked is None:
            pass
        elif code == _SKIPPED and not tracked.is_over:
            is_waiting = True
            tracked.awaiting_since = now if tracked.awaiting_since is None else tracked.awaiting_since
        elif code in _DONE:
            tracked.awaiting_since = None
            rooms.mark(call.tag, room, tracked, mark)
            if tracked.length and code not in specs.WRITTEN and mark is not None:
                rooms.unmark(call.tag, room, mark.id)  # the length that it sent left no entry
            tracked.add_opening(room, opened)
            rooms.merge_status(tracked, parse_status(status), now)
        elif tracked.is_clearing:
            tracked.awaiting_since = None  # the reply to its clear decides
        else:
            del rooms_here[room]
        rooms.replayed(call.tag, room, is_waiting)
    rooms.schedule_retry(call.tag, now)


def _observe_clear(rooms: TrackedRooms, call: Call, reply: Sequence[Any], mark: Mark | None, now: float) -> None:
    for room, (code, _, _), fence in zip(call.rooms, specs.CLEAR.rows(reply), call.room_args, strict=True):
        observe_cleared(rooms, call.tag, room, fence, code, mark, now)


def observe_cleared(
    rooms: TrackedRooms, tag: str, room: int, fence: str, code: int, mark: Mark | None, now: float
) -> None:
    """Process a clear of one room; ``fence`` is its generation, empty for any."""
    rooms_here = rooms.in_shard(tag)
    tracked = rooms_here.get(room)
    if tracked is None or (fence and int(fence) != tracked.generation):
        return
    if tracked.is_over:
        tracked.is_clearing = False
    elif rooms.has_rank and code in _GONE and tracked.status is not None:
        # The rank's last status still counts for the others, also if an earlier clear has done it, maybe one whose
        # reply was lost. If all have cleared since, or the room is over, the replay is ignored.
        tracked.role, tracked.is_clearing, tracked.until = "cleared", False, now + rooms.ttl
        if code in specs.CLEARED:
            rooms.mark(tag, room, tracked, mark)
        else:
            rooms.unmark(tag, room)
        if code == Ending.ENDED.value:
            rooms.end(tag, room, tracked.generation, now)
    elif tracked.awaiting_since is None or tracked.role == "creator":  # whom else would it await?
        del rooms_here[room]


def _observe_touch(rooms: TrackedRooms, call: Call, reply: Sequence[Any], mark: Mark | None, now: float) -> None:
    rooms_here, gone = rooms.in_shard(call.tag), list[int]()
    if not rooms_here and -2 not in reply:
        return  # nothing to learn, and the loop is slow
    for room, kept in zip(call.rooms, reply, strict=True):
        tracked = rooms_here.get(room)
        if kept == 1 and tracked:
            tracked.until, tracked.has_ended = now + rooms.ttl, False
        elif kept == 0 and tracked:
            tracked.has_ended = True
        elif (kept == -2 or (kept == -1 and rooms.holds(call.tag, room, now))) and not (
            tracked and tracked.awaiting_since is not None  # its creator brings it back
        ):
            rooms_here.pop(room, None)
            if not (tracked and (tracked.has_ended or tracked.status in TERMINAL)):  # after its end it may expire
                gone.append(room)
    if gone:
        shown = ", ".join(map(str, gone[:3])) + (", ..." if len(gone) > 3 else "")
        logger.warning(
            "shard %r: %d rooms that were held are gone from the server (%s): removed by hand, evicted, or expired "
            "early, as when its clock is set forward (those of plain updates may also have ended); writes through "
            "their handles are STALE",
            call.tag,
            len(gone),
            shown,
        )


def _observe_prefix(rooms: TrackedRooms, call: Call, reply: Sequence[Any], mark: Mark | None, now: float) -> None:
    rooms_here = rooms.in_shard(call.tag)
    for number, room in enumerate(call.rooms):
        length, generation = call.room_args[number * 2 : number * 2 + 2]
        tracked = rooms_here.get(room)
        if tracked and generation and int(generation) == tracked.generation and reply[number] == 1:
            tracked.length = length
            rooms.unmark(call.tag, room, None)


_Observer: TypeAlias = Callable[[TrackedRooms, Call, Sequence[Any], "Mark | None", float], None]
_BY_SCRIPT: dict[str, _Observer] = {
    specs.OPEN.script.name: _observe_open,
    specs.ATTACH.script.name: _observe_attach,
    specs.UPDATE.script.name: _observe_write,
    specs.WRITE.script.name: _observe_write,
    specs.ABORT.script.name: _observe_write,
    specs.REAP.script.name: _observe_write,
    specs.REPLAY.script.name: _observe_replay,
    specs.CLEAR.script.name: _observe_clear,
    specs.TOUCH.script.name: _observe_touch,
    specs.SET_PREFIX.script.name: _observe_prefix,
}
