"""Every interleaving of stores, failovers and faults, over the real Recovery and the real scripts.

The invariants are those of loss_explorer.py. A store's recovery may be interrupted after each round trip, by
another server, too. Each step is computed with the store and the server as they are before it.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from typing import Any, NamedTuple

from redis_kvpoll import KVPoll, Outcome
from redis_kvpoll.engine.effects import Send
from redis_kvpoll.engine.recovery.recovery import Recovery
from redis_kvpoll.errors import KVPollError
from redis_kvpoll.protocol import fenced_commands, lease_commands
from redis_kvpoll.protocol.script_call import Call, Command
from tests.model import recovery_store
from tests.model.breadth_first import Report, search
from tests.model.canonical import short
from tests.model.loss_server import has_ended, is_superseded
from tests.model.recovery_server import FIRST_ENTRY, ROOMS, Change, Server, Servers
from tests.model.recovery_settings import Setting
from tests.model.recovery_store import Recoveries, Told
from tests.model.steps import BrokenError
from tests.model.table import NAMESPACE


class Store(NamedTuple):
    server: int
    recovery: int
    told: tuple[Told | None, ...]


class World(NamedTuple):
    servers: tuple[Server, ...]
    stores: tuple[Store, ...]
    now: int
    ops: int
    failovers: int
    trims: int
    lost: int
    returns: int
    late: int


Step = tuple[World, str]


def explore(setting: Setting, most: int | None = None, of: type[RecoveryExplorer] | None = None) -> Report:
    with recovery_store.model_clock():
        explorer = (of or RecoveryExplorer)(setting)
        return search(explorer.start(), explorer.steps, explorer.check, most)


class RecoveryExplorer:
    """The worlds of one setting."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self._session = recovery_store.StubSession(setting.feed_length)
        self._recoveries = Recoveries()
        self._reached: dict[tuple[int, int], int] = {}
        self._servers = Servers(61 if setting.is_slow else 1, setting.behind)
        self._servers.mutated = {script: (good, bad) for script, good, bad in setting.mutated}

    def start(self) -> World:
        s = self.setting
        recovery = Recovery(self._session)  # type: ignore[arg-type]
        if s.has_lease:
            recovery.lease = recovery_store.StubLease(self._session)
        stores = (Store(0, self._recoveries.number(recovery), (None,) * s.rooms),) * len(s.attached)
        first = self._servers.first(self._session.context)
        return World((first,), stores, 1, s.ops, s.failovers, s.trims, s.lost, s.returns, s.late)

    def steps(self, world: World) -> Iterator[Step]:
        for number, store in enumerate(world.stores):
            facts = self._recoveries.facts[store.recovery]
            if facts.is_unverified:
                yield from self._with_lost(world, number, self._recover_in_steps(world, number))
            else:
                if world.ops:
                    yield from self._with_lost(world, number, self._operations(world, number))
                if facts.has_awaiting:
                    yield self._recover(world, number, at=recovery_store.RETRY_AT)
            yield from self._switches(world, number)
            for other in range(store.server) if world.late else ():
                yield from self._late(world, number, other)
        yield from self._environment(world)

    # Stores

    def _with_lost(self, world: World, number: int, steps: Iterable[Step]) -> Iterator[Step]:
        for after, text in steps:
            yield after, text
            if world.lost and after.servers != world.servers and "clear" not in text:
                yield after._replace(stores=world.stores, lost=world.lost - 1), f"{text}; the reply is lost"

    def _switches(self, world: World, number: int) -> Iterator[Step]:
        store = world.stores[number]
        for other in range(len(world.servers)):
            if other > store.server or (world.returns and other != store.server):
                after = self._with_store(
                    world, number, store._replace(server=other), self._reaching(store.recovery, other)
                )
                yield (
                    after._replace(returns=world.returns - (other < store.server)),
                    f"{_name(number)} reaches S{other}",
                )

    def _reaching(self, recovery: int, other: int) -> int:
        """A Recovery that has been told of another server."""
        if not self._recoveries.facts[recovery].has_called:
            return recovery
        if (recovery, other) not in self._reached:
            thawed = self._recoveries.thaw(recovery)
            thawed.server_changed(NAMESPACE, _identity(other))
            self._reached[recovery, other] = self._recoveries.number(thawed)
        return self._reached[recovery, other]

    def _recover_in_steps(self, world: World, number: int) -> list[Step]:
        told = world.stores[number].told if self.setting.clears_first else ()
        clears = [self._clear(room, one) for room, one in enumerate(told) if one]
        return [self._recover(world, number, clear=clear) for clear in (None, *clears)]

    def _clear(self, room: int, told: Told) -> Call:
        (call,) = fenced_commands.clear(ROOMS[room], told.generation).calls(self._session.context)
        return call

    def _recover(
        self, world: World, number: int, at: float = 0.0, is_whole: bool = False, clear: Call | None = None
    ) -> Step:
        """One round trip of a recovery: the verification; or, after it, the replay of one room, or of all.

        ``clear`` is the call that it precedes; whether that is sent then is another step.
        """
        store = world.stores[number]
        recovery = self._recoveries.thaw(store.recovery)
        recovery_store.CLOCK.now = at
        is_new = recovery.servers.get(NAMESPACE) != _identity(store.server)
        self._servers.load(world.servers[store.server], world.now)
        flow = recovery.make_current(NAMESPACE, recovery_store.StubAttempts(), clear)  # type: ignore[arg-type]
        effect, text = next(flow, None), "has nothing to replay"
        if isinstance(effect, Send):
            effect.server, text = _identity(store.server), "verifies"
            effect = _send(flow, [self._servers.execute(words) for words in (effect.words, *effect.then)])
        if isinstance(effect, Call) and effect.spec is lease_commands.LEASE:
            effect, text = _send(flow, self._servers.run(effect)), f"{text}, renews its lease"
        while isinstance(effect, Call) and not is_new:
            reply = self._servers.run(effect)
            text = f"replays {list(effect.room_args)} -> {reply[2:]}"
            effect = _send(flow, reply)
            if not is_whole:
                break
        flow.close()
        after = self._changed(world, store.server)
        text = short(f"{_name(number)} on S{store.server}: {text}{', holding one back' if clear else ''}")
        self._check_created(world.servers[store.server], after.servers[store.server], text)
        if at and any(told and told.creator and _awaits_itself(recovery, told) for told in store.told):
            raise BrokenError(f"{text}: a creator awaits itself")
        return self._with_store(after, number, store, self._recoveries.number(recovery)), text

    def _operations(self, world: World, number: int) -> Iterator[Step]:
        store = world.stores[number]
        world = world._replace(ops=world.ops - 1)
        facts = self._recoveries.facts[store.recovery]
        for room, told in enumerate(store.told):
            is_due = self.setting.clears_first and told is not None and told.creator  # the clear that was held back
            for name, command in self._commands(number, room, told, facts.highest_generation):
                if ROOMS[room] not in facts.awaiting or (is_due and name == "clear"):
                    yield from self._call(world, number, room, command, name)
        recovery = self._recoveries.thaw(store.recovery)
        sweep = lease_commands.sweep(self._session.context, NAMESPACE)
        self._servers.load(world.servers[store.server], world.now)
        recovery.accept_reply(sweep, _identity(store.server), (), self._servers.run(sweep))
        text = f"{_name(number)} on S{store.server}: heartbeat"
        yield self._with_store(world, number, store, self._recoveries.number(recovery)), text

    def _commands(
        self, number: int, room: int, told: Told | None, seen: int
    ) -> Iterator[tuple[str, Command[Any, Any]]]:
        if told:
            yield "update", fenced_commands.update(ROOMS[room], told.generation, KVPoll.Transferring)
            yield "clear", fenced_commands.clear(ROOMS[room], told.generation)
        elif self.setting.attached[number]:
            yield "attach", fenced_commands.attach(ROOMS[room])
        else:
            yield "open", fenced_commands.open(ROOMS[room], "a", KVPoll.Bootstrapping, seen)

    def _call(self, world: World, number: int, room: int, command: Command[Any, Any], name: str) -> Iterator[Step]:
        store = world.stores[number]
        recovery = self._recoveries.thaw(store.recovery)
        call = recovery_store.sent(recovery, command, self._session.context)
        self._servers.load(world.servers[store.server], world.now)
        outcomes = recovery.accept_reply(call, _identity(store.server), (), self._servers.run(call))
        assert outcomes is not None, "no epoch is lost in this model"
        after = self._changed(world, store.server)
        try:
            value = command.finish(call.rooms, command.decode(command.operation, call.rooms, list(outcomes)))
        except KVPollError as error:
            value = error
        text = short(f"{_name(number)} on S{store.server}: {name} {room} -> {value}")
        was, told = store.told[room], _told(store.told[room], value, name)
        if was and was.creator and name == "clear" and _tracks(recovery, was):
            raise BrokenError(f"{text}: its creator may bring it back")
        if was and told is None and name == "update" and (lost := self._lost(was, room, world.servers[store.server])):
            raise BrokenError(f"{text}: it {lost}")
        store = store._replace(told=(*store.told[:room], told, *store.told[room + 1 :]))
        yield self._with_store(after, number, store, self._recoveries.number(recovery)), text

    def _late(self, world: World, number: int, other: int) -> Iterator[Step]:
        """A write over a connection to a former server: its reply comes after the store has reached another."""
        store = world.stores[number]
        for room, told in enumerate(store.told):
            if told:
                recovery = self._recoveries.thaw(store.recovery)
                command = fenced_commands.update(ROOMS[room], told.generation, KVPoll.Success)
                (call,) = recovery.build_calls(command, self._session.context)
                self._servers.load(world.servers[other], world.now)
                reply = self._servers.run(call)
                after, late = self._changed(world, other)._replace(late=world.late - 1), store
                outcome = reply[call.spec.feed + call.spec.epoch]
                if self.setting.late_replies_count and outcome == Outcome.ADVANCED.value:
                    recovery.accept_reply(call, _identity(other), (), reply)
                    all_told = (*store.told[:room], told._replace(status=4), *store.told[room + 1 :])
                    late = store._replace(told=all_told)
                text = f"{_name(number)}: an update of {room} reaches S{other}, the reply is late"
                yield self._with_store(after, number, late, self._recoveries.number(recovery)), text

    def _changed(self, world: World, number: int) -> World:
        after = self._servers.changed(world.servers[number], self.setting.rooms)
        if after is world.servers[number]:
            return world
        servers = (*world.servers[:number], after, *world.servers[number + 1 :])
        return world._replace(servers=servers, now=world.now + 1)

    def _with_store(self, world: World, number: int, store: Store, recovery: int) -> World:
        if any(store.told) and len(world.servers) > 1 and not self._recoveries.facts[recovery].is_unverified:
            history = world.servers[store.server].history
            over = [told and self._is_over(history, room, told.generation) for room, told in enumerate(store.told)]
            told = tuple(None if is_over else told for told, is_over in zip(store.told, over, strict=True))
            store = store._replace(told=told)
        store = store._replace(recovery=recovery)
        return world._replace(stores=(*world.stores[:number], store, *world.stores[number + 1 :]))

    # Servers

    def _environment(self, world: World) -> Iterator[Step]:
        last = len(world.servers) - 1
        server = world.servers[last]
        for length in range(2, len(server.states) + 1) if world.failovers else ():
            after = world._replace(servers=(*world.servers, server.promoted(length)), failovers=world.failovers - 1)
            yield after, f"S{last + 1} has the first {length} of S{last}'s {len(server.states)} states"
        for cut in range(1, len(self._servers.feed(server)) + 1) if world.trims else ():
            after = world._replace(servers=(*world.servers[:-1], self._servers.trimmed(server, cut)))
            yield after._replace(trims=world.trims - 1), f"S{last}'s feed loses its first {cut} entries"

    # Invariants

    def check(self, world: World) -> None:
        for number, store in enumerate(world.stores):
            facts = self._recoveries.facts[store.recovery]
            for room, told in enumerate(store.told if not facts.is_unverified else ()):
                may_wait = told and (not told.creator or self.setting.clears_first)
                if told is None or (may_wait and self._awaits(store.recovery, room)):
                    continue
                if lost := self._lost(told, room, world.servers[store.server]):
                    raise BrokenError(f"{_name(number)}'s {room} {lost}")

    def _awaits(self, recovery: int, room: int) -> bool:
        return ROOMS[room] in self._recoveries.facts[recovery].awaiting

    def _check_created(self, before: Server, after: Server, text: str) -> None:
        for change in (change for step in after.steps[len(before.steps) :] for change in step):
            was = self._servers.room(before, change.room) if change.opens else None
            is_known = self.setting.is_slow or self._has_whole_feed(before)
            if change.opens and is_known and has_ended(before.history, change.room, change.generation):
                raise BrokenError(f"{text}: it was cleared, and is created again")
            if was and was[0] > change.generation:
                raise BrokenError(f"{text}: its generation went back")

    def _lost(self, told: Told, room: int, server: Server) -> str:
        there, generation = self._servers.room(server, room), told.generation
        if self._is_over(server.history, room, generation):
            return ""
        if there is None or there[0] != generation:
            is_unknown = self.setting.is_slow and not self._has_whole_feed(server)
            return "was lost, and is not there again" if told.creator and not is_unknown else ""
        return f"was told {told.status}, and is {there[1]}" if there[1] < told.status else ""

    def _is_over(self, history: list[Change], room: int, generation: int) -> bool:
        return has_ended(history, room, generation) or is_superseded(history, room, generation)

    def _has_whole_feed(self, server: Server) -> bool:
        entries = self._servers.feed(server)
        return bool(entries) and entries[0][1] == FIRST_ENTRY


def _told(told: Told | None, value: Any, name: str) -> Told | None:
    """What a caller holds after a reply."""
    if name in ("open", "attach"):
        generation, status = getattr(value, "generation", 0), getattr(value, "status", None)
        return Told(generation, int(status), name == "open") if generation and status is not None else None
    if told is None or name == "clear" or value.outcome is Outcome.STALE:
        return None
    return told._replace(status=int(value.status))


def _tracks(recovery: Recovery, told: Told) -> bool:
    """Whether a store keeps a generation that it has opened."""
    rooms = recovery.tracked_rooms.in_shard(NAMESPACE).values()
    return any(one.generation == told.generation and one.role == "creator" for one in rooms)


def _awaits_itself(recovery: Recovery, told: Told) -> bool:
    rooms = recovery.tracked_rooms.in_shard(NAMESPACE).values()
    return any(one.generation == told.generation and one.is_own and one.awaiting_since is not None for one in rooms)


def _name(number: int) -> str:
    return "XYZ"[number]


def _identity(number: int) -> bytes:
    return b"S%d" % number


def _send(flow: Generator[Any, Any, Any], reply: Any) -> Any:
    try:
        return flow.send(reply)
    except StopIteration:
        return None
