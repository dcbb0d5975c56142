"""The oracle: the table in plain Python, written from the design and not from the Lua.

``merge`` is the authority for one status. ``Oracle`` adds reasons, decode prefix lengths and TTLs, on a clock
that the test moves; it has the store's methods, with the same answers. tests/README.md lists the oracles.
"""

from __future__ import annotations

from dataclasses import dataclass

from redis_kvpoll import Entry, KVPoll, KVTransferError, Outcome, RoomNotFoundError, Update

DEFAULT_REASON = "Aborted by AbortReq."


def merge(policy, current, incoming):
    """The Update of a room (``current`` is None when it is absent) by an incoming status."""
    if current is None:
        late = incoming == KVPoll.Failed or (policy == "strict" and incoming >= KVPoll.Transferring)
        return Update(Outcome.SKIPPED, None) if late else Update(Outcome.CREATED, incoming)
    if incoming == KVPoll.Failed and current != KVPoll.Failed:
        return Update(Outcome.FAILED, KVPoll.Failed)
    if incoming <= current or (policy == "strict" and current == KVPoll.Failed):
        return Update(Outcome.UNCHANGED, current)
    return Update(Outcome.ADVANCED, incoming)


@dataclass
class Room:
    status: KVPoll
    opened: float
    updated: float
    expires: float
    reason: str | None = None


@dataclass
class Prefix:
    length: int
    expires: float


class Oracle:
    """One namespace. ``now``, ``ttl`` and ``terminal_ttl`` are seconds."""

    def __init__(self, policy, mode, ttl, terminal_ttl, now):
        self.policy, self.mode, self.ttl, self.terminal_ttl, self.now = policy, mode, ttl, terminal_ttl, now
        self.table: dict[int, Room] = {}
        self.prefixes: dict[int, Prefix] = {}

    def pass_time(self, seconds):
        self.now += seconds
        for kept in (self.table, self.prefixes):
            for room in [room for room, item in kept.items() if item.expires <= self.now]:
                del kept[room]

    # Writing

    def update_status(self, room, status, reason=None):
        status = KVPoll(status)
        if self.mode == "prefill" and status == KVPoll.Failed:
            self.prefixes.pop(room, None)
        current = self.table.get(room)
        update = merge(self.policy, current.status if current else None, status)
        if update.outcome is Outcome.CREATED:
            current = self.table[room] = Room(status, self.now, self.now, 0)
        if update.outcome is Outcome.ADVANCED and current.status == KVPoll.Failed:
            current.reason = None
        if update.changed:
            current.status, current.updated = status, self.now
            current.expires = self.now + (self.terminal_ttl if status.is_terminal else self.ttl)
            current.reason = current.reason or reason
        return update

    def update_many(self, statuses):
        return {room: self.update_status(room, status) for room, status in statuses.items()}

    def abort(self, room, reason=DEFAULT_REASON):
        return self.update_status(room, KVPoll.Failed, reason)

    def record_failure(self, room, reason):
        if room not in self.table:
            return False
        self.table[room].reason = self.table[room].reason or reason
        return self.table[room].reason == reason

    def touch(self, rooms):
        live = {room for room in rooms if room in self.table and not self.table[room].status.is_terminal}
        for room in live:
            for kept in (self.table, self.prefixes):
                if room in kept:
                    kept[room].expires = self.now + self.ttl
        return len(live)

    def set_decode_prefix_len(self, room, length):
        self.prefixes[room] = Prefix(length, self.now + self.ttl)

    # Destroying

    def clear(self, room):
        self.prefixes.pop(room, None)
        previous = self.table.pop(room, None)
        return previous.status if previous else None

    def clear_many(self, rooms):
        return {room: self.clear(room) for room in dict.fromkeys(rooms)}

    def pop_decode_prefix_len(self, room):
        prefix = self.prefixes.pop(room, None)
        return prefix.length if prefix else 0

    def failure_exception(self, room):
        reason = self.failure_reason(room)
        self.clear(room)
        raise KVTransferError(room, reason or "no reason was recorded")

    # Reading

    def get(self, room, default=None):
        return self.table[room].status if room in self.table else default

    def check_status(self, room):
        if room not in self.table:
            raise RoomNotFoundError(room)
        return self.table[room].status

    def poll(self, rooms):
        return [self.get(room) for room in rooms]

    def failure_reason(self, room):
        return self.table[room].reason if room in self.table else None

    def entry(self, room):
        current, prefix = self.table.get(room), self.prefixes.get(room)
        if current is None:
            return None
        left = current.expires - self.now
        length = prefix.length if prefix else None
        return Entry(room, current.status, current.opened, current.updated, left, current.reason, length)

    def rooms(self, status=None):
        return iter([room for room, current in self.table.items() if status in (None, current.status)])

    def counts(self):
        return {status: len(list(self.rooms(status))) for status in KVPoll}
