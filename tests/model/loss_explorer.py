"""Every interleaving of stores, failovers and faults under the rule of loss, breadth first.

Invariants, after every step:

- What was cleared, has expired or was superseded, in a server's own history, is never created again there.
- What a living holder was told, and a server has lost, is there again once the holder was recovered there: in the same
  generation, with at least that status.
- A generation is never replaced by a lower one.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from tests.model.loss_rule import Replayed, Rule, Store, Tracked
from tests.model.loss_server import OPENED, Generation, Server


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


class BrokenError(Exception):
    """A step that breaks an invariant."""


@dataclass(frozen=True)
class Setting:
    """What is explored."""

    rule: Rule = Rule()
    attached: tuple[bool, ...] = (False, False)
    """Of each store: whether it attaches rooms, and never opens them."""
    rooms: int = 1
    statuses: tuple[int, ...] = (2,)
    ops: int = 4
    failovers: int = 2
    trims: int = 0
    deletes: bool = False
    expiries: int = 0
    behind: bool = False
    """Whether all clocks are behind, so that ids are used again."""
    siblings: bool = False
    """Whether a failover may be to a prefix of a server before the last one."""
    lost: int = 0
    """Replies that may be lost."""
    returns: int = 0
    """How often a store may reach a former server again."""
    late: int = 0
    """Writes that reach a former server, and whose replies come late."""


Step = tuple[World, str]


class LossExplorer:
    """The worlds of one setting."""

    def __init__(self, setting: Setting) -> None:
        self.setting, self.rule = setting, setting.rule

    def start(self) -> World:
        setting = self.setting
        names = "XYZ"
        stores = tuple(Store(names[number], 0, (None,) * setting.rooms) for number in range(len(setting.attached)))
        return World((Server(behind=setting.behind),), stores, 10, setting.ops, setting.failovers, setting.trims, setting.expiries, setting.lost, setting.returns, setting.late)

    def explore(self, most: int | None = None) -> LossReport:
        began = time.process_time()
        start = self.start()
        parents: dict[World, tuple[World, str] | None] = {start: None}
        queue, at, steps = [start], 0, 0
        while at < len(queue) and (most is None or at < most):
            world = queue[at]
            at += 1
            steps_of = self.steps(world)
            while True:
                try:
                    found = next(steps_of, None)
                    if found is not None and found[0] not in parents:
                        self.check(*found)
                except BrokenError as error:
                    path = [str(error)]
                    here: World | None = world
                    while here is not None and (parent := parents[here]) is not None:
                        here = parent[0]
                        path.insert(0, parent[1])
                    return LossReport(len(queue), steps, time.process_time() - began, tuple(path))
                if found is None:
                    break
                steps += 1
                if found[0] not in parents:
                    parents[found[0]] = world, found[1]
                    queue.append(found[0])
        return LossReport(len(queue), steps, time.process_time() - began)

    # Steps

    def steps(self, world: World) -> Iterator[Step]:
        for number, store in enumerate(world.stores):
            if store.due:
                for room in store.due:
                    yield from self._with_lost(world, number, [self._replay(world, number, room)])
            else:
                if world.ops:
                    yield from self._with_lost(world, number, self._operations(world, number))
                for room, tracked in enumerate(store.rooms):
                    if tracked and tracked.awaits and world.servers[store.server].room(room):
                        yield self._replay(world, number, room)
            yield from self._switches(world, number)
            if world.late:
                yield from self._late(world, number)
        yield from self._environment(world)

    def _with_lost(self, world: World, number: int, steps: Iterable[Step]) -> Iterator[Step]:
        """These steps, and each that changed the server with its reply lost; but for clears, which are not repeated."""
        for after, text in steps:
            yield after, text
            if world.lost and after.servers != world.servers and "clear" not in text:
                yield after._replace(stores=world.stores, lost=world.lost - 1), f"{text}; the reply is lost"

    def _switches(self, world: World, number: int) -> Iterator[Step]:
        store = world.stores[number]
        for other, server in enumerate(world.servers):
            if other > store.server or (world.returns and other != store.server):
                learnt = self.rule.verify(store, other, server)
                after = self._after(world, number, learnt)
                if other < store.server:
                    after = after._replace(returns=world.returns - 1)
                yield after, f"{store.name} reaches S{other}, due: {learnt.due}"

    def _late(self, world: World, number: int) -> Iterator[Step]:
        """A write over a connection to a former server: its reply comes after the store has reached another."""
        store = world.stores[number]
        for other, server in enumerate(world.servers[: store.server]):
            for room, tracked in enumerate(store.rooms):
                there = server.room(room)
                if tracked and there and there.generation == tracked.generation and there.status < 2:
                    after = server.append(world.now, room, tracked.generation, 2)
                    learnt = store
                    if not self.rule.late_replies_lost:
                        learnt = store.with_room(room, tracked._replace(told=2, written=after.tail)).with_mark(after.tail)
                    servers = (*world.servers[:other], after, *world.servers[other + 1 :])
                    done = self._after(world._replace(servers=servers, late=world.late - 1, now=world.now + 10), number, learnt)
                    yield done, f"{store.name}'s write of {'AB'[room]} reaches S{other}, its reply comes late"

    def _replay(self, world: World, number: int, room: int) -> Step:
        store = world.stores[number]
        server = world.servers[store.server]
        done = self.rule.replay(store, room, server, world.now)
        text = f"{store.name} replays {'AB'[room]} on S{store.server}: {done.text} {done.server.log[len(server.log):]}"
        self._check_replay(store, room, server, done, text)
        after = self._after(world, number, done.store, done.server)
        return after, text

    def _check_replay(self, store: Store, room: int, server: Server, done: Replayed, text: str) -> None:
        tracked, before, after = store.rooms[room], server.room(room), done.server.room(room)
        assert tracked is not None
        is_created = after and (before is None or before.generation != after.generation)
        if is_created and not done.unknown and server.has_ended(room, tracked.generation):
            raise BrokenError(f"{text} => was cleared, and is created again")
        if before and after and after.generation < before.generation:
            raise BrokenError(f"{text} => the generation went back")
        if not done.unknown and done.store.rooms[room] is None and (lost := self._lost(tracked, room, done.server)):
            raise BrokenError(f"{text} => {lost}")

    def check(self, world: World, text: str) -> None:
        """What a store holds on the server that it was verified on is there, unless it is over."""
        for store in world.stores:
            for room, tracked in enumerate(store.rooms):
                if tracked and not tracked.due and not (tracked.awaits and not tracked.creator):
                    if lost := self._lost(tracked, room, world.servers[store.server]):
                        raise BrokenError(f"{text} => {store.name}'s {'AB'[room]} {lost}")

    def _lost(self, tracked: Tracked, room: int, server: Server) -> str:
        there, generation = server.room(room), tracked.generation
        if server.has_ended(room, generation) or server.is_superseded(room, generation):
            return ""
        if there is None or there.generation != generation:
            return "was lost, and is not there again" if tracked.creator else ""
        return f"was told {tracked.told}, and is {there.status}" if there.status < tracked.told else ""

    def _operations(self, world: World, number: int) -> Iterator[Step]:
        store = world.stores[number]
        server, now = world.servers[store.server], world.now
        world = world._replace(ops=world.ops - 1)
        if server.entries and server.tail not in store.marks:
            yield self._after(world, number, store.with_mark(server.tail)), f"{store.name} marks the tail {server.tail.id}"
        for room, tracked in enumerate(store.rooms):
            name = f"{store.name} on S{store.server}:"
            if tracked is None:
                yield from self._claims(world, number, room)
            elif not tracked.awaits:
                yield from self._writes(world, number, room, tracked)

    def _claims(self, world: World, number: int, room: int) -> Iterator[Step]:
        store, now = world.stores[number], world.now
        server = world.servers[store.server]
        there, name = server.room(room), f"{store.name} on S{store.server}:"
        if self.setting.attached[number]:
            if there:
                learnt = store.with_room(room, Tracked(there.generation, there.status, creator=False))
                yield self._after(world, number, learnt._replace(seen=max(store.seen, there.generation))), f"{name} attach {'AB'[room]}"
            return
        if there:
            opened = (there.opened,) if self.rule.opening_returned else ()
            tracked = Tracked(there.generation, there.status, True, opened, opened[0] if opened else None)
            learnt = store.with_room(room, tracked)
            seen = max(store.seen, there.generation)
            yield self._after(world, number, learnt._replace(seen=seen)), f"{name} open {'AB'[room]} (joins)"
        else:
            generation = server.next_generation(now, store.seen)
            server = server.append(now, room, generation, 1, opens=OPENED)
            mark = server.tail
            learnt = store.with_room(room, Tracked(generation, 1, True, (mark,), mark)).with_mark(mark)
            yield self._after(world, number, learnt._replace(seen=generation), server), f"{name} open {'AB'[room]} ({mark.id})"

    def _writes(self, world: World, number: int, room: int, tracked: Tracked) -> Iterator[Step]:
        store, now = world.stores[number], world.now
        server = world.servers[store.server]
        there, name = server.room(room), f"{store.name} on S{store.server}:"
        is_there = there is not None and there.generation == tracked.generation
        for status in self.setting.statuses:
            if not is_there:
                yield self._after(world, number, store.with_room(room, None)), f"{name} update {'AB'[room]} STALE"
            elif there and there.status >= status:
                if tracked.told < there.status:
                    learnt = store.with_room(room, tracked._replace(told=there.status))
                    yield self._after(world, number, learnt), f"{name} update {'AB'[room]} {status} UNCHANGED {there.status}"
            else:
                after = server.append(now, room, tracked.generation, status)
                learnt = store.with_room(room, tracked._replace(told=status, written=after.tail)).with_mark(after.tail)
                yield self._after(world, number, learnt, after), f"{name} update {'AB'[room]} {status} ({after.tail.id})"
        if is_there:
            after = server.append(now, room, tracked.generation, 0)
            learnt = store.with_room(room, None).with_mark(after.tail)
            yield self._after(world, number, learnt, after), f"{name} clear {'AB'[room]} ({after.tail.id})"

    def _after(self, world: World, number: int, store: Store, server: Server | None = None) -> World:
        stores = (*world.stores[:number], store, *world.stores[number + 1 :])
        if server is None or server is world.servers[store.server]:
            return world._replace(stores=stores)
        servers = (*world.servers[: store.server], server, *world.servers[store.server + 1 :])
        return world._replace(stores=stores, servers=servers, now=world.now + 10)

    def _environment(self, world: World) -> Iterator[Step]:
        for number, server in enumerate(world.servers):
            if world.failovers and (self.setting.siblings or number == len(world.servers) - 1):
                for length in range(1, len(server.log) + 1):
                    for behind in {False, self.setting.behind}:
                        new = server.promoted(length, behind)
                        if self.setting.behind and not behind:
                            continue
                        after = world._replace(servers=(*world.servers, new), failovers=world.failovers - 1)
                        yield after, f"S{len(world.servers)} has the first {length} of S{number}'s {len(server.log)}"
            if world.trims:
                for cut in range(server.cut + 1, len(server.log)):
                    if server.log[cut - 1].id:
                        after = self._with_server(world, number, server._replace(cut=cut))
                        yield after._replace(trims=world.trims - 1), f"S{number}'s feed is trimmed to {after.servers[number].entries[:1]}"
                if self.setting.deletes and server.entries:
                    after = self._with_server(world, number, server._replace(cut=len(server.log), deleted=True))
                    yield after._replace(trims=world.trims - 1), f"S{number}'s feed is deleted"
            if world.expiries:
                for room in range(self.setting.rooms):
                    if there := server.room(room):
                        after = self._with_server(world, number, server.expire(room, there.generation))
                        after = self._without_expired(after, room, there.generation)
                        yield after._replace(expiries=world.expiries - 1), f"{'AB'[room]} expires on S{number}"

    def _without_expired(self, world: World, room: int, generation: Generation) -> World:
        """A store's own replay is older than the TTL of what another one has created since: it knows that it is over."""
        return world._replace(
            stores=tuple(
                store.with_room(room, None) if (held := store.rooms[room]) and held.due and held.generation == generation else store
                for store in world.stores
            )
        )

    def _with_server(self, world: World, number: int, server: Server) -> World:
        return world._replace(servers=(*world.servers[:number], server, *world.servers[number + 1 :]))


@dataclass(frozen=True)
class LossReport:
    states: int
    steps: int
    seconds: float
    path: tuple[str, ...] = ()

    def __str__(self) -> str:
        text = f"{self.states:,} states, {self.steps:,} steps, {self.seconds:.1f} s"
        return text + "".join(f"\n  {number}. {line}" for number, line in enumerate(self.path, 1))
