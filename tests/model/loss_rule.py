"""The rule of loss, in Python: which rooms a store replays on another server, and what the replay does with each.

``Rule`` has a switch for each part of the rule, so that the explorer shows what breaks without it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from tests.model.loss_server import REPLAYED, Generation, Mark, Server

MERGE, CHECK = "merge", "check"
"""A room that is due: its status is merged only; or its marks decide whether it is created again."""


class Tracked(NamedTuple):
    """A room that a store holds."""

    generation: Generation
    told: int
    """The highest status that the store was told."""
    creator: bool
    opened: tuple[Mark, ...] = ()
    """The entries that created it, on whatever server."""
    written: Mark | None = None
    """The store's last own write."""
    due: str = ""
    awaits: bool = False
    """Whether its creator has to create it again first."""


class Store(NamedTuple):
    name: str
    server: int
    """The server that it was verified on, by its number."""
    rooms: tuple[Tracked | None, ...]
    marks: tuple[Mark, ...] = ()
    """Entries of that server, in their order."""
    seen: Generation = (0, 0)
    horizon: int = 0
    """H: the history up to this id is the server's."""

    def with_room(self, room: int, tracked: Tracked | None) -> Store:
        return self._replace(rooms=(*self.rooms[:room], tracked, *self.rooms[room + 1 :]))

    def with_mark(self, mark: Mark) -> Store:
        return self._replace(marks=tuple(sorted({*self.marks, mark})))

    @property
    def due(self) -> list[int]:
        return [number for number, tracked in enumerate(self.rooms) if tracked and tracked.due]


class Replayed(NamedTuple):
    """The result of a replay of one room."""

    server: Server
    store: Store
    text: str
    unknown: bool = False
    """Whether the feed could not tell what had survived."""


@dataclass(frozen=True)
class Rule:
    """The rule. The defaults are the rule as it should be."""

    opening_returned: bool = True
    """Whether open and replay return the opening's mark when they leave no entry."""
    openings_add_up: bool = True
    """Whether a room keeps the marks of all its openings, on whatever server, and all must be lost."""
    opening_decides: bool = True
    """Whether a present written mark is asked only if an opening is below the feed's first id."""
    resends: bool = True
    """Whether kept rooms are merged again, for what left no entry."""
    recent: bool = False
    """Whether all rooms were opened in the last 60 s."""
    opening_unknown: bool = True
    """Whether an opening below the feed's first id is unknown, not survived."""
    tombstones: bool = True
    """Whether the clear of a room that a replay created leaves its generation, for other replays to see."""
    late_replies_lost: bool = True
    """Whether a reply over a connection to a former server counts as lost."""
    marks_decide: bool = True
    """Whether marks are asked at all. If not, another server has lost everything."""
    named_openings: bool = True
    """Whether an opening's entry has its generation."""

    def verify(self, store: Store, number: int, server: Server) -> Store:
        """The store once it has seen another server: what is due there."""
        kept = [mark for mark in store.marks if self.has(server, mark)]
        lost = [mark.id for mark in store.marks if mark not in kept and not server.is_below_first(mark)]
        kept = [mark for mark in kept if not lost or mark.id < lost[0]]
        highest = kept[-1].id if kept else 0
        rooms = tuple(tracked and self._due(tracked, highest) for tracked in store.rooms)
        return store._replace(server=number, rooms=rooms, marks=tuple(kept), horizon=highest)

    def _due(self, tracked: Tracked, highest: int) -> Tracked:
        if tracked.due == CHECK:
            return tracked._replace(written=None)  # of an older branch: H does not concern it
        if not tracked.creator or not tracked.opened:
            return tracked._replace(due=MERGE)
        kept = tracked.written is not None and tracked.written.id <= highest
        return tracked._replace(due="" if kept and not self.resends else CHECK)

    def has(self, server: Server, mark: Mark) -> bool:
        """Whether the feed has this entry, with the same words."""
        if self.named_openings:
            return mark in server.words
        return any(entry[:3] == mark[:3] for entry in server.words)

    def replay(self, store: Store, room: int, server: Server, now: int) -> Replayed:
        """What replay.lua does with one room, in one step, and what the store learns from its reply."""
        tracked = store.rooms[room]
        assert tracked is not None
        there, tombstone = server.room(room), server.tombstone(room)
        if there and there.generation > tracked.generation:
            return Replayed(server, store.with_room(room, None), "superseded")
        if there and there.generation == tracked.generation:
            return self._merge(store, room, server, now)
        if self.tombstones and tombstone and tombstone >= tracked.generation:
            return Replayed(server, store.with_room(room, None), "was cleared here")
        if not tracked.creator or not tracked.opened:
            waits = tracked._replace(due="", awaits=True)
            return Replayed(server, store.with_room(room, waits), "awaits its creator")
        return self._check(store, room, server, now)

    def _merge(self, store: Store, room: int, server: Server, now: int) -> Replayed:
        tracked, there = store.rooms[room], server.room(room)
        assert tracked is not None
        assert there is not None
        learnt = tracked._replace(told=max(tracked.told, there.status), due="", awaits=False)
        if self.opening_returned and tracked.creator:
            learnt = self._opened(learnt, there.opened)._replace(written=there.opened)
        if tracked.told <= there.status:
            return Replayed(server, store.with_room(room, learnt), "UNCHANGED")
        server = server.append(now, room, tracked.generation, tracked.told)
        learnt = learnt._replace(written=server.tail)
        return Replayed(server, store.with_room(room, learnt).with_mark(server.tail), "ADVANCED")

    def _check(self, store: Store, room: int, server: Server, now: int) -> Replayed:
        tracked = store.rooms[room]
        assert tracked is not None
        over, written = store.with_room(room, None), tracked.written
        if not self.marks_decide:
            return self._create(store, room, server, now, False)
        if any(self.has(server, mark) for mark in tracked.opened):
            return Replayed(server, over, "kept, and gone")
        unknown = any(server.is_below_first(mark) for mark in tracked.opened)
        if written and (unknown or not self.opening_decides):
            if written.id <= store.horizon or self.has(server, written):
                return Replayed(server, over, "kept, and gone")
            if not self.opening_unknown:
                return Replayed(server, over, "lost, its opening below the first id")
        if unknown and not self.recent:
            return Replayed(server, over, "unknown, and gone", unknown)
        return self._create(store, room, server, now, unknown)

    def _create(self, store: Store, room: int, server: Server, now: int, unknown: bool) -> Replayed:
        tracked = store.rooms[room]
        assert tracked is not None
        server = server.append(now, room, tracked.generation, tracked.told, opens=REPLAYED)
        learnt = self._opened(tracked, server.tail)._replace(written=server.tail, due="", awaits=False)
        return Replayed(server, store.with_room(room, learnt).with_mark(server.tail), "CREATED", unknown)

    def _opened(self, tracked: Tracked, mark: Mark) -> Tracked:
        if mark in tracked.opened:
            return tracked
        return tracked._replace(opened=(*tracked.opened, mark) if self.openings_add_up else (mark,))
