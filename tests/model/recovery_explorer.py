"""Every interleaving of stores, failovers and faults, over the real Recovery and the real scripts.

As loss_explorer.py, whose invariants it checks, but with what stores really remember and send.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from redis_kvpoll import KVPoll, Outcome
from redis_kvpoll.engine.effects import Send
from redis_kvpoll.protocol import fenced_commands, keys, lease_commands
from redis_kvpoll.protocol.script_call import Call, Command
from tests.model import recovery_store
from tests.model.canonical import short
from tests.model.redis_lua import ScriptRunner
from tests.model.redis_model import EMPTY, RedisModel, State
from tests.model.table import FEED, NAMESPACE, ROOM
from tests.support.internals import has_called, is_unverified

ROOMS = (ROOM, ROOM + 1)
CLOCK_US, BEHIND_US = 1_800_000_000_000_000, 1_600_000_000_000_000
STATUSES = tuple(status.name for status in KVPoll)


class Change(NamedTuple):
    """A change of a server, or none that concerns a room."""

    room: int
    generation: int
    status: int
    """-1 for a room that is gone."""
    opens: bool


class Server(NamedTuple):
    states: tuple[int, ...]
    """After each change, by their numbers."""
    changes: tuple[Change | None, ...]

    def ended(self, room: int, generation: int) -> bool:
        """Whether a generation was here and is over."""
        ours = [change for change in self.changes if change and change.room == room]
        opened = [at for at, change in enumerate(ours) if change.opens and change.generation == generation]
        return bool(opened) and any(
            change.status < 0 or (change.opens and change.generation > generation) for change in ours[opened[-1] :]
        )

    def superseded(self, room: int, generation: int) -> bool:
        return any(change and change.room == room and change.generation > generation for change in self.changes)


class Told(NamedTuple):
    """What the user of a store was told of a room that he holds."""

    generation: int
    status: int
    creator: bool


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


@dataclass(frozen=True)
class Setting:
    attached: tuple[bool, ...] = (False, False)
    rooms: int = 1
    ops: int = 4
    failovers: int = 1
    trims: int = 0
    deletes: bool = False
    lost: int = 0
    returns: int = 0
    behind: bool = False
    is_slow: bool = False
    """Whether more than 60 s pass with each change."""
    first_prefix: int = 1


class BrokenError(Exception):
    """A step that breaks an invariant."""


Step = tuple[World, str]


class RecoveryExplorer:
    """The worlds of one setting."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self._model = RedisModel()
        self._runner = ScriptRunner(self._model)
        self._states: list[State] = []
        self._state_numbers: dict[State, int] = {}
        self._recoveries: list[recovery_store.Frozen] = []
        self._recovery_numbers: dict[str, int] = {}
        self.calls = 0

    def explore(self, most: int | None = None, seconds: float = 1e9) -> str:
        with recovery_store.model_clock():
            return self._explore(most, seconds)

    def _explore(self, most: int | None, seconds: float) -> str:
        began = time.process_time()
        start = self._start()
        parents: dict[World, tuple[World, str] | None] = {start: None}
        queue, at, path = [start], 0, []
        while at < len(queue) and (most is None or at < most) and time.process_time() - began < seconds:
            world = queue[at]
            at += 1
            try:
                for after, text in self.steps(world):
                    if after not in parents:
                        self._check(after, text)
                        parents[after] = world, text
                        queue.append(after)
            except BrokenError as error:
                path = [str(error)]
                here: World = world
                while (parent := parents[here]) is not None:
                    here = parent[0]
                    path.insert(0, parent[1])
                break
        took = time.process_time() - began
        text = f"{at:,} of {len(queue):,} worlds, {len(self._states):,} servers' states, {self.calls:,} script runs, {took:.1f} s"
        return text + "".join(f"\n  {number}. {line}" for number, line in enumerate(path, 1))

    def _start(self) -> World:
        s = self.setting
        server = Server((self._state(EMPTY),), (None,))
        call = lease_commands.sweep(recovery_store.CONTEXT, NAMESPACE)  # makes the epoch
        self._model.put(EMPTY)
        self._model.now_us = self._clock(0)
        self._run(call)
        self._model.execute(b"XADD", FEED, b"*", b"1", b"Success")
        self._model.execute(b"PEXPIRE", FEED, b"86400000")
        server = Server((server.states[0], self._state(self._model.state())), (None, None))
        store = Store(0, self._recovery(recovery_store.new()), (None,) * s.rooms)
        return World((server,), (store,) * len(s.attached), 1, s.ops, s.failovers, s.trims, s.lost, s.returns)

    # Values by their numbers

    def _state(self, state: State) -> int:
        number = self._state_numbers.setdefault(state, len(self._states))
        if number == len(self._states):
            self._states.append(state)
        return number

    def _recovery(self, store: Any) -> int:
        frozen = recovery_store.freeze(store)
        number = self._recovery_numbers.setdefault(frozen.text, len(self._recoveries))
        if number == len(self._recoveries):
            self._recoveries.append(frozen)
        return number

    def _clock(self, now: int) -> int:
        if self.setting.behind:
            return BEHIND_US
        return CLOCK_US + now * (61_000_000 if self.setting.is_slow else 1_000_000)

    # Servers

    def _load(self, world: World, number: int) -> None:
        self._model.now_us = self._clock(world.now)
        self._model.put(self._states[world.servers[number].states[-1]])

    def _run(self, call: Call) -> Any:
        self.calls += 1
        key_list = [key.encode() for key in (*call.first_keys, *call.keys)]
        return self._runner.run(call.spec.script.source, key_list, [word.encode() for word in (*call.once, *call.items)])

    def _room(self, server: Server, room: int) -> tuple[int, int] | None:
        """Its generation and status."""
        key = keys.rooms(NAMESPACE, [ROOMS[room]])[0].encode()
        for kept in self._states[server.states[-1]]:
            if kept.key == key:
                fields = dict(kept.value)
                if b"status" in fields:
                    return int(fields[b"generation"]), STATUSES.index(fields[b"status"].decode())
        return None

    def _changed(self, world: World, number: int) -> World:
        """The world after the model's server has run something."""
        server = world.servers[number]
        state = self._state(self._model.state())
        if state == server.states[-1]:
            return world
        after = server._replace(states=(*server.states, state))
        change = None
        for room in range(self.setting.rooms):
            was, now = self._room(server, room), self._room(after, room)
            if was != now:
                is_new = now is not None and (was is None or was[0] != now[0])
                change = Change(room, *(now or (was[0], -1)), is_new)  # type: ignore[index]
        after = after._replace(changes=(*server.changes, change))
        servers = (*world.servers[:number], after, *world.servers[number + 1 :])
        return world._replace(servers=servers, now=world.now + 1)

    # Steps

    def steps(self, world: World) -> Iterator[Step]:
        for number, store in enumerate(world.stores):
            recovery = self._thaw(store)
            if is_unverified(recovery, NAMESPACE):
                yield from self._with_lost(world, number, [self._recover(world, number)])
            else:
                if world.ops:
                    yield from self._with_lost(world, number, self._operations(world, number))
                if recovery.tracked_rooms.awaiting_shards:
                    yield self._recover(world, number, retry=True)
            yield from self._switches(world, number)
        yield from self._environment(world)

    def _thaw(self, store: Store) -> Any:
        recovery_store.CLOCK.now = 0.0
        return recovery_store.thaw(self._recoveries[store.recovery])

    def _with_lost(self, world: World, number: int, steps: Iterable[Step]) -> Iterator[Step]:
        for after, text in steps:
            yield after, text
            if world.lost and after.servers != world.servers and "clear" not in text:
                yield after._replace(stores=world.stores, lost=world.lost - 1), f"{text}; the reply is lost"

    def _switches(self, world: World, number: int) -> Iterator[Step]:
        store = world.stores[number]
        for other in range(len(world.servers)):
            if other > store.server or (world.returns and other != store.server):
                recovery = self._thaw(store)
                if has_called(recovery, NAMESPACE):
                    recovery.server_changed(NAMESPACE, b"S%d" % other)
                after = self._with_store(world, number, store._replace(server=other, recovery=self._recovery(recovery)))
                if other < store.server:
                    after = after._replace(returns=world.returns - 1)
                yield after, f"{'XY'[number]} reaches S{other}"

    def _recover(self, world: World, number: int, *, retry: bool = False) -> Step:
        """One round trip of the recovery: the verification, or the replay of one room after it."""
        store = world.stores[number]
        recovery = self._thaw(store)
        if retry:
            recovery_store.CLOCK.now = 0.06
        is_new = recovery.servers.get(NAMESPACE) != b"S%d" % store.server
        self._load(world, store.server)
        flow = recovery.make_current(NAMESPACE, recovery_store.StubAttempts())
        told: list[str] = []
        effect = next(flow, None)
        if isinstance(effect, Send):
            effect.server = b"S%d" % store.server
            commands = [effect.words, *effect.then]
            replies = [self._model.execute(*[word.encode() for word in words]) for words in commands]
            effect = _send(flow, replies)
            told = ["verifies"] if is_new else []
        if isinstance(effect, Call) and not is_new:
            before = self._room(world.servers[store.server], ROOMS.index(effect.rooms[0]))
            reply = self._run(effect)
            told.append(f"replays {effect.items} -> {reply}")
            self._model.expire()
            _send(flow, reply)
        flow.close()
        after = self._changed(world, store.server)
        after = self._with_store(after, number, store._replace(recovery=self._recovery(recovery)))
        text = short(f"{'XY'[number]} on S{store.server}: {', '.join(told)}")
        self._check_created(world, after, store.server, text)
        return after, text

    def _check_created(self, world: World, after: World, number: int, text: str) -> None:
        before, now = world.servers[number], after.servers[number]
        for change in now.changes[len(before.changes) :]:
            if change and change.opens and before.ended(change.room, change.generation) and not self._is_unknown(before):
                raise BrokenError(f"{text} => was cleared, and is created again")
            was = change and self._room(before, change.room)
            if change and was and was[0] > change.generation:
                raise BrokenError(f"{text} => the generation went back")

    def _is_unknown(self, server: Server) -> bool:
        """Whether the feed may not tell what survived: its first entries are gone."""
        return self.setting.trims > 0 and not self._has_first(server)

    def _has_first(self, server: Server) -> bool:
        return any(kept.key == FEED and kept.value[0][1] == (b"1", b"Success") for kept in self._states[server.states[-1]])

    def _operations(self, world: World, number: int) -> Iterator[Step]:
        store = world.stores[number]
        world = world._replace(ops=world.ops - 1)
        recovery = self._thaw(store)
        for room, told in enumerate(store.told):
            if recovery.tracked_rooms.awaits_creator(ROOMS[room]):
                continue
            if told is None and self.setting.attached[number]:
                yield from self._call(world, number, room, fenced_commands.attach(ROOMS[room]), "attach")
            elif told is None:
                seen = recovery.tracked_rooms.highest_generation
                command = fenced_commands.open(ROOMS[room], "a", KVPoll.Bootstrapping, seen)
                yield from self._call(world, number, room, command, "open")
            else:
                command = fenced_commands.update(ROOMS[room], told.generation, KVPoll.Transferring)
                yield from self._call(world, number, room, command, "update")
                yield from self._call(world, number, room, fenced_commands.clear(ROOMS[room], told.generation), "clear")
        heartbeat = lease_commands.sweep(recovery_store.CONTEXT, NAMESPACE)
        self._load(world, store.server)
        reply = self._run(heartbeat)
        recovery.complete(heartbeat, b"S%d" % store.server, (), reply)
        yield self._with_store(world, number, store._replace(recovery=self._recovery(recovery))), f"{'XY'[number]}: heartbeat"

    def _call(self, world: World, number: int, room: int, command: Command[Any, Any], name: str) -> Iterator[Step]:
        store = world.stores[number]
        recovery = self._thaw(store)
        (call,) = recovery.build_calls(command, recovery_store.CONTEXT)
        self._load(world, store.server)
        reply = self._run(call)
        after = self._changed(world, store.server)
        outcomes = recovery.complete(call, b"S%d" % store.server, (), list(reply))
        if outcomes is None:  # another epoch: the call is repeated after the recovery
            yield self._with_store(after, number, store._replace(recovery=self._recovery(recovery))), f"{name}: another epoch"
            return
        try:
            value = command.finish(call.rooms, command.decode(command.operation, call.rooms, list(outcomes)))
        except Exception as error:  # noqa: BLE001
            value = error
        text = short(f"{'XY'[number]} on S{store.server}: {name} {'AB'[room]} -> {value}")
        told = self._told(store.told[room], value, name)
        if told is None and store.told[room] is not None and name == "update":
            self._check_told(store.told[room], room, world.servers[store.server], text, world)
        all_told = (*store.told[:room], told, *store.told[room + 1 :])
        yield self._with_store(after, number, store._replace(recovery=self._recovery(recovery), told=all_told)), text

    def _told(self, told: Told | None, value: Any, name: str) -> Told | None:
        if name in ("open", "attach"):
            generation, status = getattr(value, "generation", 0), getattr(value, "status", None)
            return Told(generation, int(status), name == "open") if generation and status is not None else None
        if name == "clear" or value.outcome is Outcome.STALE:
            return None
        assert told is not None
        return told._replace(status=int(value.status))

    def _check(self, world: World, text: str) -> None:
        """What a store was told is there on the server on which it was verified."""
        for store in world.stores:
            recovery = self._thaw(store)
            if is_unverified(recovery, NAMESPACE):
                continue
            for room, told in enumerate(store.told):
                if told and not (recovery.tracked_rooms.awaits_creator(ROOMS[room]) and not told.creator):
                    self._check_told(told, room, world.servers[store.server], text, world)

    def _check_told(self, told: Told | None, room: int, server: Server, text: str, world: World) -> None:
        assert told is not None
        there = self._room(server, room)
        if server.ended(room, told.generation) or server.superseded(room, told.generation) or self._is_unknown(server):
            return
        if there is None or there[0] != told.generation:
            if told.creator:
                raise BrokenError(f"{text} => was lost, and is not there again")
        elif there[1] < told.status:
            raise BrokenError(f"{text} => was told {told.status}, and is {there[1]}")

    def _environment(self, world: World) -> Iterator[Step]:
        number = len(world.servers) - 1
        server = world.servers[number]
        if world.failovers:
            for length in range(1 + self.setting.first_prefix, len(server.states) + 1):
                new = Server(server.states[:length], server.changes[:length])
                after = world._replace(servers=(*world.servers, new), failovers=world.failovers - 1)
                yield after, f"S{number + 1} has the first {length} of S{number}'s {len(server.states)} states"
        if world.trims:
            state = self._states[server.states[-1]]
            for at, kept in enumerate(state):
                if kept.key == FEED:
                    for cut in range(1, len(kept.value)):
                        trimmed = kept._replace(value=kept.value[cut:])
                        yield self._with_state(world, number, (*state[:at], trimmed, *state[at + 1 :])), f"S{number}: trim {cut}"
                    if self.setting.deletes:
                        yield self._with_state(world, number, (*state[:at], *state[at + 1 :])), f"S{number}: feed deleted"

    def _with_state(self, world: World, number: int, state: State) -> World:
        server = world.servers[number]
        after = Server((*server.states, self._state(state)), (*server.changes, None))
        servers = (*world.servers[:number], after, *world.servers[number + 1 :])
        return world._replace(servers=servers, trims=world.trims - 1)

    def _with_store(self, world: World, number: int, store: Store) -> World:
        return world._replace(stores=(*world.stores[:number], store, *world.stores[number + 1 :]))


def _send(flow: Any, reply: Any) -> Any:
    try:
        return flow.send(reply)
    except StopIteration:
        return None
