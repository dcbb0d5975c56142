"""Every interleaving of stores, failovers and faults under the rule of loss (see loss_rule.py).

Invariants, after every step:

- A generation that is over in a server's own history (cleared, expired, superseded) is never created again there.
- What a living holder was told, and a server has lost, is there again once the holder was recovered there: in the same
  generation, with at least that status.
- A generation is never replaced by a lower one.

Where the feed was trimmed or deleted and nothing else tells what survived, the first two do not hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.model.breadth_first import Report, search
from tests.model.loss_rule import Replayed, Rule, Store, Tracked
from tests.model.loss_server import OPENED, Generation, Server, has_ended, is_superseded
from tests.model.steps import BrokenError


@dataclass(frozen=True)
class Setting:
    """What is explored: everything that these stores can do, in every order, with so many faults."""

    rule: Rule = field(default_factory=Rule)
    attached: tuple[bool, ...] = (False, False)
    """Of each store: whether it attaches rooms, and never opens them. All openers make the same request."""
    rooms: int = 1
    ops: int = 4
    """Operations of all stores together."""
    failovers: int = 1
    """To any prefix of the newest server's history."""
    trims: int = 0
    deletes: bool = False
    """Whether a trim may also be the deletion of the feed."""
    expiries: int = 0
    lost: int = 0
    """Replies that may be lost."""
    returns: int = 0
    """How often a store may reach a former server again."""
    late: int = 0
    """Writes that reach a former server, and whose replies come late."""
    behind: bool = False
    """Whether all clocks are behind the feed's ids, so that servers give the same ids."""


class World(NamedTuple):
    servers: tuple[Server, ...]
    stores: tuple[Store, ...]
    now: int
    ops: int
    failovers: int
    trims: int
    expiries: int
    lost: int
    returns: int
    late: int


Step = tuple[World, str]


def explore(setting: Setting, most: int | None = None) -> Report:
    explorer = LossExplorer(setting)
    return search(explorer.start(), explorer.steps, explorer.check, most)


class LossExplorer:
    """The worlds of one setting."""

    def __init__(self, setting: Setting) -> None:
        self.setting, self.rule = setting, setting.rule

    def start(self) -> World:
        s = self.setting
        stores = tuple(Store("XYZ"[number], 0, (None,) * s.rooms) for number in range(len(s.attached)))
        server = Server(behind=s.behind)
        return World((server,), stores, 10, s.ops, s.failovers, s.trims, s.expiries, s.lost, s.returns, s.late)

    def steps(self, world: World) -> Iterator[Step]:
        for number, store in enumerate(world.stores):
            for room in store.due:
                yield from self._with_lost(world, number, [self._replay(world, number, room)])
            if not store.due:
                if world.ops:
                    yield from self._with_lost(world, number, self._operations(world, number))
                for room, tracked in enumerate(store.rooms):
                    if tracked and tracked.awaits and world.servers[store.server].room(room):
                        yield self._replay(world, number, room)
            yield from self._switches(world, number)
            if world.late:
                yield from self._late(world, number)
        yield from self._failovers(world)
        yield from self._environment(world)

    # Stores

    def _with_lost(self, world: World, number: int, steps: Iterable[Step]) -> Iterator[Step]:
        """These steps, and each that changed the server with its reply lost; but for clears, which end the tracking."""
        for after, text in steps:
            yield after, text
            if world.lost and after.servers != world.servers and "clear" not in text:
                yield after._replace(stores=world.stores, lost=world.lost - 1), f"{text}; the reply is lost"

    def _switches(self, world: World, number: int) -> Iterator[Step]:
        store = world.stores[number]
        for other, server in enumerate(world.servers):
            if other > store.server or (world.returns and other != store.server):
                learnt = self.rule.verify(store, other, server)
                after = _after(world, number, learnt)._replace(returns=world.returns - (other < store.server))
                yield after, f"{store.name} reaches S{other}, due: {learnt.due}"

    def _late(self, world: World, number: int) -> Iterator[Step]:
        """A write over a connection to a former server: its reply comes after the store has reached another."""
        store = world.stores[number]
        for other, server in enumerate(world.servers[: store.server]):
            for room, tracked in enumerate(store.rooms):
                there = server.room(room)
                if tracked and there and there.generation == tracked.generation and there.status < 2:
                    written, learnt = server.append(world.now, room, tracked.generation, 2), store
                    if not self.rule.late_replies_lost:
                        tracked = tracked._replace(told=2, written=written.tail)
                        learnt = store.with_room(room, tracked).with_mark(written.tail)
                    after = _with_server(world, other, written)._replace(late=world.late - 1, now=world.now + 10)
                    yield _after(after, number, learnt), f"{store.name} writes {room} on S{other}; the reply is late"

    def _replay(self, world: World, number: int, room: int) -> Step:
        store = world.stores[number]
        server = world.servers[store.server]
        done = self.rule.replay(store, room, server, world.now)
        text = f"{store.name} replays {room} on S{store.server}: {done.text}"
        self._check_replay(store, room, server, done, text)
        return _after(world, number, done.store, done.server), text

    def _operations(self, world: World, number: int) -> Iterator[Step]:
        store = world.stores[number]
        server = world.servers[store.server]
        world = world._replace(ops=world.ops - 1)
        if server.entries and server.tail not in store.marks:
            yield _after(world, number, store.with_mark(server.tail)), f"{store.name} marks the feed's end"
        for room, tracked in enumerate(store.rooms):
            if tracked is None:
                yield from self._claims(world, number, room)
            elif not tracked.awaits:
                yield from self._writes(world, number, room, tracked)

    def _claims(self, world: World, number: int, room: int) -> Iterator[Step]:
        store = world.stores[number]
        server, is_opener = world.servers[store.server], not self.setting.attached[number]
        there, name = server.room(room), f"{store.name} on S{store.server}:"
        if there:
            opened = (there.opened,) if is_opener and self.rule.opening_returned else ()
            tracked = Tracked(there.generation, there.status, is_opener, opened, opened[0] if opened else None)
            learnt = store.with_room(room, tracked)._replace(seen=max(store.seen, there.generation))
            yield _after(world, number, learnt), f"{name} {'joins' if is_opener else 'attaches'} {room}"
        elif is_opener:
            generation = server.next_generation(world.now, store.seen)
            server = server.append(world.now, room, generation, 1, opens=OPENED)
            tracked = Tracked(generation, 1, True, (server.tail,), server.tail)
            learnt = store.with_room(room, tracked).with_mark(server.tail)._replace(seen=generation)
            yield _after(world, number, learnt, server), f"{name} opens {room} ({server.tail.id})"

    def _writes(self, world: World, number: int, room: int, tracked: Tracked) -> Iterator[Step]:
        store = world.stores[number]
        server = world.servers[store.server]
        there, name = server.room(room), f"{store.name} on S{store.server}:"
        if there is None or there.generation != tracked.generation:
            yield _after(world, number, store.with_room(room, None)), f"{name} updates {room}, STALE"
            return
        if there.status < 2:
            after = server.append(world.now, room, tracked.generation, 2)
            learnt = store.with_room(room, tracked._replace(told=2, written=after.tail)).with_mark(after.tail)
            yield _after(world, number, learnt, after), f"{name} updates {room} ({after.tail.id})"
        elif tracked.told < 2:
            yield (
                _after(world, number, store.with_room(room, tracked._replace(told=2))),
                f"{name} updates {room}, UNCHANGED",
            )
        after = server.append(world.now, room, tracked.generation, 0)
        learnt = store.with_room(room, None).with_mark(after.tail)
        yield _after(world, number, learnt, after), f"{name} clears {room} ({after.tail.id})"

    # Servers

    def _failovers(self, world: World) -> Iterator[Step]:
        last = len(world.servers) - 1
        log = world.servers[last].log
        for length in range(1, len(log) + 1) if world.failovers else ():
            new = world.servers[last].promoted(length)
            after = world._replace(servers=(*world.servers, new), failovers=world.failovers - 1)
            yield after, f"S{last + 1} has the first {length} of S{last}'s {len(log)} changes"

    def _environment(self, world: World) -> Iterator[Step]:
        for number, server in enumerate(world.servers):
            if world.trims:
                trimmed = world._replace(trims=world.trims - 1)
                for cut in range(server.cut + 1, len(server.log)):
                    after = _with_server(trimmed, number, server._replace(cut=cut))
                    yield after, f"S{number}'s feed loses its first {cut}"
                if self.setting.deletes:
                    after = _with_server(trimmed, number, server._replace(cut=len(server.log), deleted=True))
                    yield after, f"S{number}'s feed is deleted"
        for room in range(self.setting.rooms) if world.expiries else ():
            for generation in {there.generation for server in world.servers if (there := server.room(room))}:
                yield _expired(world, room, generation), f"{room} of {generation} expires"

    # Invariants

    def _check_replay(self, store: Store, room: int, server: Server, done: Replayed, text: str) -> None:
        tracked, before, after = store.rooms[room], server.room(room), done.server.room(room)
        assert tracked is not None
        is_created = after and (before is None or before.generation != after.generation)
        if is_created and not done.unknown and has_ended(server.log, room, tracked.generation):
            raise BrokenError(f"{text}: it was cleared, and is created again")
        if before and after and after.generation < before.generation:
            raise BrokenError(f"{text}: its generation went back")
        if not done.unknown and done.store.rooms[room] is None and (lost := _lost(tracked, room, done.server)):
            raise BrokenError(f"{text}: it {lost}")

    def check(self, world: World) -> None:
        for store in world.stores:
            for room, tracked in enumerate(store.rooms):
                if tracked and not tracked.due and (lost := _lost(tracked, room, world.servers[store.server])):
                    raise BrokenError(f"{store.name}'s {room} {lost}")


def _lost(tracked: Tracked, room: int, server: Server) -> str:
    """What is missing of a room that a store holds; empty if nothing is. Only an opener creates it again."""
    there, generation = server.room(room), tracked.generation
    if has_ended(server.log, room, generation) or is_superseded(server.log, room, generation):
        return ""
    if there is None or there.generation != generation:
        return "was lost, and is not there again" if tracked.creator else ""
    return (
        f"was told {tracked.told}, and is {there.status}" if there.status < tracked.told and not tracked.awaits else ""
    )


def _after(world: World, number: int, store: Store, server: Server | None = None) -> World:
    world = world._replace(stores=(*world.stores[:number], store, *world.stores[number + 1 :]))
    if server is None or server is world.servers[store.server]:
        return world
    return _with_server(world, store.server, server)._replace(now=world.now + 10)


def _with_server(world: World, number: int, server: Server) -> World:
    return world._replace(servers=(*world.servers[:number], server, *world.servers[number + 1 :]))


def _expired(world: World, room: int, generation: Generation) -> World:
    """The world once a room has reached its TTL. The last server has the longest; until then stores remember it."""

    def is_there(server: Server) -> bool:
        there = server.room(room)
        return there is not None and there.generation == generation

    def is_held(store: Store) -> bool:
        held = store.rooms[room]
        return held is not None and held.generation == generation

    servers = tuple(server.expire(room, generation) if is_there(server) else server for server in world.servers)
    stores = tuple(store.with_room(room, None) if is_held(store) else store for store in world.stores)
    return world._replace(servers=servers, stores=stores, expiries=world.expiries - 1)
