"""Every interleaving of holders of leases and of a sweeper, while time passes and the server loses data.

Like explorer.py, with a clock: it stands still, or advances by a tick, or by far when the server was paused. So nothing
is renamed here. To renew and to sweep take no operation: how often that happens is limited
by time alone, since twice at the same time changes nothing.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from redis_kvpoll.protocol import lease_commands, scripts
from redis_kvpoll.protocol.script_call import Call, Command
from tests.model import lease_rules, leaseholders
from tests.model.canonical import NOW_US, short
from tests.model.explorer import Report
from tests.model.lease_rules import Effect, Notes
from tests.model.leaseholders import ROOMS, SWEEPER_OPERATIONS, Holder, Sent
from tests.model.redis_lua import ScriptError, ScriptRunner
from tests.model.redis_model import EMPTY, RedisModel, State
from tests.model.steps import BrokenError
from tests.model.table import View, normal

TICK_MS, PAUSE_MS = 400, 5000
FAR_MS = NOW_US // 1000 + 10**9


@dataclass(frozen=True)
class Setting:
    owners: tuple[str, ...]
    """The name of each process's lease; empty for one that only sweeps."""
    each: int
    ticks: int
    pauses: int = 1
    losses: int = 0
    lost: int = 0
    """Replies that may be lost on one path."""
    all_reap: bool = False
    """Whether holders of leases, too, fail the rooms of lost leases, and not only the sweeper."""
    broken: dict[str, Callable[[str], str]] = field(default_factory=dict)


class World(NamedTuple):
    server: State
    notes: Notes
    ticks: int
    pauses: int
    losses: int
    lost: int
    takes: int
    """How many leases were taken: no two within one microsecond."""
    under_way: tuple[Sent, ...]
    holders: tuple[Holder, ...]


LEASE_WORDS = 4
"""The epoch and the end of the feed, before what a reply says of leases."""


class Carried(NamedTuple):
    server: State
    notes: Notes
    reply: Any
    value: Any


class LeaseExplorer:
    """The states of one setting."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.calls = 0
        self._model = RedisModel(NOW_US)
        self._runner = ScriptRunner(self._model)
        self._carried: dict[Any, Carried] = {}

    def explore(self, most: int | None = None) -> Report:
        """All states, or the first so many: the shortest path to a violation is found first."""
        began, steps, at, violation = time.process_time(), 0, 0, None
        states: list[World] = []
        parents: dict[World, tuple[int, str]] = {}
        gc.disable()
        try:
            start = self._start()
            states, parents = [start], {start: (0, "")}
            while at < min(len(states), most or len(states)):
                for after, text in self._steps(states[at]):
                    steps += 1
                    if after not in parents:
                        parents[after] = (at, text)
                        states.append(after)
                at += 1
        except BrokenError as error:
            violation = str(error)
        finally:
            gc.enable()
        path = []
        while violation and at:
            before, text = parents[states[at]]
            path.append(f"{text}\n     {View(states[at].server)}")
            at = before
        servers = len({state.server for state in states})
        seconds = time.process_time() - began
        return Report(len(states), steps, servers, self.calls, seconds, violation, tuple(reversed(path)))

    def _start(self) -> World:
        """The first process has its lease and a room, on a server with an old epoch."""
        setting, names = self.setting, "ABCD"
        holders = [Holder(names[at], owner, setting.each) for at, owner in enumerate(setting.owners)]
        world = World(EMPTY, Notes(), 0, 0, setting.losses, setting.lost, 0, (), tuple(holders))
        world = self._on_lease(world, len(holders) - 1, "sweep")
        world = world._replace(pauses=1)
        world = self._on_lease(world, 0, "take")
        return self._on_room(world, 0, "open", ROOMS[0].command(world.holders[0]))

    def _now_us(self, world: World) -> int:
        return NOW_US + (world.ticks * TICK_MS + world.pauses * PAUSE_MS) * 1000 + world.takes

    def _nonce(self, world: World) -> str:
        return f"n{world.losses}"

    # Steps

    def _steps(self, world: World) -> Iterator[tuple[World, str]]:
        for at, holder in enumerate(world.holders):
            for after, text in self._by(world, at, holder):
                if after != world:
                    yield after, f"{holder.name}: {text}"
        for at, message in enumerate(world.under_way):
            carried = self._carry_out(world, message, is_late=True)
            rest = world.under_way[:at] + world.under_way[at + 1 :]
            after = world._replace(server=carried.server, notes=carried.notes, under_way=rest)
            yield after, f"the message {message.name} arrives"
        if world.ticks < self.setting.ticks:
            yield world._replace(ticks=world.ticks + 1), f"{TICK_MS} ms pass"
        if world.pauses <= self.setting.pauses:
            yield world._replace(pauses=world.pauses + 1), f"{PAUSE_MS} ms pass, in which no process could do anything"
        if world.losses:
            survivors = tuple(
                h._replace(must_renew=bool(h.incarnation), must_replay=h.held is not None) for h in world.holders
            )
            lossy = world._replace(server=EMPTY, notes=world.notes.after_loss(), losses=world.losses - 1)
            yield lossy._replace(holders=survivors), "the server loses all its data"

    def _by(self, world: World, at: int, holder: Holder) -> Iterator[tuple[World, str]]:
        if holder.reaping:
            yield self._reap(world, at)
        if holder.must_renew:
            yield self._on_lease(world, at, "renew"), "renews its lease, which may be lost with the data"
        elif holder.must_replay:
            yield self._replay(world, at), "replays"
        else:
            if holder.incarnation:
                yield self._heartbeat(world, at, [holder]), "sends a heartbeat"
                yield self._heartbeat(world, at, list(world.holders)), "sends a heartbeat for all"
                yield self._on_lease(world, at, "renew"), "renews its lease"
                yield from self._lost(world, at, leaseholders.lease_call(holder, "renew", self._nonce(world)), "renew")
            elif not holder.owner:
                yield self._on_lease(world, at, "sweep"), "sweeps"
            if holder.left:
                yield from self._operations(world, at, holder._replace(left=holder.left - 1))

    def _operations(self, world: World, at: int, holder: Holder) -> Iterator[tuple[World, str]]:
        ready = _with(world, at, holder)
        if holder.owner and not holder.incarnation:
            yield self._on_lease(ready, at, "take"), "takes a lease"
            return
        if holder.owner:
            yield self._on_lease(ready, at, "leave"), "gives its lease up"
        for operation in ROOMS if holder.owner else SWEEPER_OPERATIONS:
            command = operation.command(holder)
            if command is not None:
                yield self._on_room(ready, at, operation.name, command), operation.name
                (call,) = command.calls(self._context(world, holder))
                yield from self._lost(world, at, call, operation.name)

    def _lost(self, world: World, at: int, call: Call, name: str) -> Iterator[tuple[World, str]]:
        """The reply is lost: the process may send the same again, or something else."""
        if world.lost:
            message = leaseholders.sent(name, world.holders[at], call)
            under_way = (*world.under_way, message)
            yield world._replace(under_way=under_way, lost=world.lost - 1), f"{name}, and the reply is lost"

    def _on_lease(self, world: World, at: int, action: lease_commands.Action) -> World:
        holder = world.holders[at]
        world = world._replace(takes=world.takes + (action == "take"))
        call = leaseholders.lease_call(holder, action, self._nonce(world))
        carried = self._carry_out(world, leaseholders.sent(action, holder, call))
        epoch, found = carried.reply[0].decode(), lease_commands.parse_report(carried.reply[LEASE_WORDS:])
        learnt = leaseholders.after_lease_call(holder, action, epoch, found)
        if holder.owner and not self.setting.all_reap:
            learnt = learnt._replace(reaping=())
        return _after(world, at, carried, learnt)

    def _heartbeat(self, world: World, at: int, holders: list[Holder]) -> World:
        """Renew by the hot script, which decides nothing: where that does not find a lease, a renewal follows."""
        holder = world.holders[at]
        call = leaseholders.heartbeat_call([one for one in holders if one.incarnation], self._nonce(world))
        return _after(world, at, self._carry_out(world, leaseholders.sent("heartbeat", holder, call)), holder)

    def _context(self, world: World, holder: Holder) -> Any:
        owner = holder.owner if holder.incarnation else ""
        return leaseholders.context_of(owner, holder.incarnation, self._nonce(world))

    def _on_room(self, world: World, at: int, name: str, command: Any) -> World:
        holder = world.holders[at]
        (call,) = command.calls(self._context(world, holder))
        carried = self._carry_out(world, leaseholders.sent(name, holder, call))
        learnt = leaseholders.observed(holder, call, list(carried.reply), carried.value, self._nonce(world))
        return _after(world, at, carried, learnt)

    def _replay(self, world: World, at: int) -> World:
        holder = world.holders[at]._replace(must_replay=False)
        call = leaseholders.replays(holder, self._nonce(world)) if holder.incarnation else None
        if call is None:
            return _with(world, at, holder)
        carried = self._carry_out(world, leaseholders.sent("replay", holder, call))
        return _after(world, at, carried, leaseholders.observed(holder, call, list(carried.reply), carried.value, "n"))

    def _reap(self, world: World, at: int) -> tuple[World, str]:
        """The next step of failing the rooms of lost leases."""
        holder, nonce = world.holders[at], self._nonce(world)
        effect = leaseholders.next_of_reaping(holder, nonce)
        if effect is None:
            done = holder._replace(reaping=(), replies=())
            return _with(world, at, done), "has reaped"
        if isinstance(effect, list):
            self._model.now_us = self._now_us(world)
            self._model.put(world.server)
            reply = tuple(self._model.execute(*[word.encode() for word in effect]))
            return _with(world, at, holder._replace(replies=(*holder.replies, reply))), "lists the rooms of a lost one"
        if isinstance(effect, Command):
            (call,) = effect.calls(leaseholders.context_of("", "", nonce))
            carried = self._carry_out(world, leaseholders.sent("reap", holder, call))
            failed = effect.finish(effect.rooms, [carried.value])
            return _after(world, at, carried, holder._replace(replies=(*holder.replies, failed))), "reaps"
        carried = self._carry_out(world, leaseholders.sent("look", holder, effect))
        over = [incarnation for incarnation, _ in holder.reaping if incarnation in carried.notes.over]
        if world.losses < self.setting.losses:
            over = []  # it may have been lost on a server whose data is gone, and have been taken again since
        if found := list(lease_rules.wrong_after_reaping(over, View(carried.server))):
            raise BrokenError(f"{holder.name}: {short('; '.join(found))}")
        return _after(world, at, carried, holder._replace(replies=(*holder.replies, None))), "sweeps after reaping"

    # Calls

    def _carry_out(self, world: World, sent: Sent, is_late: bool = False) -> Carried:
        key = world.server, world.notes, world.ticks, world.pauses, world.takes, sent, is_late
        carried = self._carried.get(key)
        if carried is None:
            carried = self._carried[key] = self._call(world, sent, is_late)
        return carried

    def _call(self, world: World, sent: Sent, is_late: bool) -> Carried:
        now_us = self._model.now_us = self._now_us(world)
        self._model.put(world.server)
        self.calls += 1
        before = View(world.server)
        source = self.setting.broken.get(sent.script, str)(scripts.load(sent.script).source)
        try:
            reply = self._runner.run(source, [k.encode() for k in sent.keys], [w.encode() for w in sent.argv])
        except ScriptError as error:
            raise BrokenError(f"{sent.name}: {error}\n     before: {before}") from None
        is_lease = sent.script in lease_rules.LEASE_SCRIPTS
        text = reply if is_lease else reply[sum(sent.words) :]
        value = None if is_lease else leaseholders.value_of(sent.script, list(text))
        after = View(self._model.state())
        states = _states(sent, reply) if is_lease else {}
        step = Effect(sent, now_us // 1000, before, after, world.notes, states, value, is_late)
        notes, found = lease_rules.noted(step)
        found += lease_rules.wrong(step, notes)
        if found:
            raise BrokenError(f"{sent.name}: {short('; '.join(found))}\n     before: {before}\n     after:  {after}")
        return Carried(_timeless(after.state, now_us), notes, text, value)


def _states(sent: Sent, reply: list[bytes]) -> dict[str, str]:
    """The state of each lease in the reply of a lease script, by its owner."""
    if sent.script == "lease":
        return {sent.owner: reply[LEASE_WORDS].decode()}
    found = zip(sent.argv[::4], reply[LEASE_WORDS:], strict=True)
    return {owner: "held" for owner, state in found if state != b"unknown"}


def _with(world: World, at: int, holder: Holder) -> World:
    return world._replace(holders=(*world.holders[:at], holder, *world.holders[at + 1 :]))


def _after(world: World, at: int, carried: Carried, holder: Holder) -> World:
    return _with(world, at, holder)._replace(server=carried.server, notes=carried.notes)


def _timeless(state: State, now_us: int) -> State:
    """TTLs are long and do not end in the model."""
    return tuple(kept if kept.deadline is None else kept._replace(deadline=FAR_MS) for kept in normal(state, now_us))
