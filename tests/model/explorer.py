"""Every interleaving: breadth first over all states that a setting can come to, each expanded once.

A state is the server, what each process knows and has left to do, the messages that are still under way, and what may
still befall. From each, every process may do every operation that it can think of; so all programs of so many
operations are covered, in every order. A process may lose a reply: then its message is under way and may be carried
out at any later time, or never, while the process sends the same again. A room may expire at any moment, and a server
lose all its data.

A step that depends on the server and one process alone is worked out once, by the real Lua, and looked up from then
on. Steps that change nothing and teach nothing are left out: whatever can follow them can follow without them.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

from redis_kvpoll.commands import Call
from redis_kvpoll.errors import KVPollError
from tests.model import invariants
from tests.model.canonical import BEHIND_US, NOW_US, Values, is_canonical
from tests.model.operations import Operation, Process, Setting
from tests.model.redis_lua import ScriptError, ScriptRunner
from tests.model.redis_model import EMPTY, RedisModel
from tests.model.table import NOTHING, PREFIX_KEY, ROOM_KEY, Server, View, normal


class Message(NamedTuple):
    """What a process has sent once, without hearing of it."""

    process: Process
    operation: int


class Done(NamedTuple):
    """A step of one process, worked out."""

    server: int
    process: int
    message: Message | None
    told: str


class State(NamedTuple):
    """All numbers, in the explorer's Values; the processes in order, since those of a kind are interchangeable."""

    server: int
    under_way: int
    lost: int
    expiries: int
    losses: int
    processes: tuple[int, ...]


class BrokenError(Exception):
    """A step that breaks an invariant."""


@dataclass
class Report:
    """What an exploration came to."""

    states: int
    steps: int
    servers: int
    calls: int
    seconds: float
    violation: str | None = None
    path: tuple[str, ...] = ()

    def __str__(self) -> str:
        each = self.seconds / max(self.states, 1) * 1e6
        done = f"{self.states:,} states, {self.steps:,} steps, {self.servers:,} tables, {self.calls:,} script runs"
        told = f"{done}, {self.seconds:.1f} s ({each:.0f} us a state)"
        if self.violation:
            told += "".join(f"\n  {number}. {line}" for number, line in enumerate(self.path, 1))
            told += f"\n  => {self.violation}"
        return told


class Explorer:
    """The states of one setting."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self._model = RedisModel(NOW_US)
        self._runner = ScriptRunner(self._model)
        self._servers, self._processes, self._ways = Values(), Values(), Values()
        self._forgotten: dict[int, int] = {}
        """Processes without what they can never use again; and the same once no loss of data is to come."""
        self._settled: dict[int, int] = {}
        self._done: dict[tuple[int, int, bool], list[Done]] = {}
        self._arrived: dict[tuple[int, Message, bool], tuple[int, str]] = {}
        self._befallen: dict[int, list[tuple[int, str]]] = {}
        self._states: list[State] = []
        self._numbers: dict[State, int] = {}
        self._parents = array("q")
        self._calls = 0

    def explore(self) -> Report:
        began, steps, violation, path = time.perf_counter(), 0, None, ()
        self._add(self._start(), -1)
        at = 0
        try:
            while at < len(self._states):
                for after, _ in self.successors(self._states[at]):
                    steps += 1
                    if after not in self._numbers:
                        self._add(after, at)
                at += 1
        except BrokenError as error:
            violation, path = str(error), self._path(at)
        seconds = time.perf_counter() - began
        return Report(len(self._states), steps, len(self._servers.values), self._calls, seconds, violation, path)

    def _start(self) -> State:
        setting = self.setting
        processes = tuple(sorted(self._processes.number(self._fresh(kind)) for kind in setting.processes))
        nothing, no_message = self._servers.number(NOTHING), self._ways.number(())
        return State(nothing, no_message, setting.lost, setting.expiries, setting.losses, processes)

    def _fresh(self, kind: int) -> Process:
        return Process(kind, self.setting.each, kind_has_rank=self.setting.kinds[kind].rank != "")

    def _add(self, state: State, parent: int) -> None:
        self._numbers[state] = len(self._states)
        self._states.append(state)
        self._parents.append(parent)

    # Steps

    def successors(self, state: State) -> Iterator[tuple[State, str]]:
        """Every state that one step leads to, and what the step was."""
        server, under_way, lost, expiries, losses, processes = state
        is_behind = self.setting.is_behind and losses < self.setting.losses
        for place, process in enumerate(processes):
            if place and process == processes[place - 1]:
                continue
            others = (*processes[:place], *processes[place + 1 :])
            for done in self._steps_of(server, process, is_behind):
                if done.message is None:
                    yield (
                        self._state(done.server, under_way, lost, expiries, losses, (*others, done.process)),
                        done.told,
                    )
                elif lost:
                    ways = self._ways.number(tuple(sorted((*self._ways[under_way], done.message), key=repr)))
                    yield self._state(server, ways, lost - 1, expiries, losses, (*others, done.process)), done.told
        for place, message in enumerate(self._ways[under_way]):
            after, told = self._arrival(server, message, is_behind)
            rest = self._ways[under_way]
            ways = self._ways.number((*rest[:place], *rest[place + 1 :]))
            yield self._state(after, ways, lost, expiries, losses, processes), told
        if expiries:
            for after, told in self._expired(server):
                yield self._state(after, under_way, lost, expiries - 1, losses, processes), told
        if losses and server:
            survivors = tuple(self._processes.number(self._bereft(self._processes[p])) for p in processes)
            yield self._state(0, under_way, lost, expiries, losses - 1, survivors), "the server loses all its data"

    def _state(self, server: int, under_way: int, lost: int, expiries: int, losses: int, who: tuple[int, ...]) -> State:
        """The canonical form: generations renamed by their order, processes sorted."""
        forget = self._forgotten if losses else self._settled
        who = tuple([forget.get(process) or self._forget(process, forget) for process in who])
        masks = self._processes.masks
        if not is_canonical([self._servers.masks[server], self._ways.masks[under_way], *[masks[p] for p in who]]):
            found = {*self._servers.generations(server), *self._ways.generations(under_way)}
            for process in who:
                found.update(self._processes.generations(process))
            in_order = tuple(sorted(found))
            server = self._servers.renamed(server, in_order)
            under_way = self._ways.renamed(under_way, in_order)
            who = tuple([self._processes.renamed(process, in_order) for process in who])
        return State(server, under_way, lost, expiries, losses, tuple(sorted(who)))

    def _forget(self, number: int, known: dict[int, int]) -> int:
        """A process without what it knows and can never use again."""
        process = self._processes[number]
        may_restate = self.setting.restate is not None and (known is self._forgotten or process.must_restate)
        if not may_restate:
            process = process._replace(held=process.held and process.held.for_writing())
        if process.left == 0 and process.pending < 0:
            process = process._replace(held=process.held if may_restate else None, seen=b"")
        if not self.setting.is_behind:
            process = process._replace(seen=b"")  # then the clock alone keeps generations apart
        known[number] = self._processes.number(process)
        return known[number]

    def _steps_of(self, server: int, process: int, is_behind: bool) -> list[Done]:
        key = server, process, is_behind
        done = self._done.get(key)
        if done is None:
            found = dict.fromkeys(self._work_out(server, process, is_behind))
            first = {(step.server, step.process, step.message): step for step in reversed(found)}
            done = self._done[key] = list(first.values())
        return done

    def _work_out(self, server: int, number: int, is_behind: bool) -> Iterator[Done]:
        process = self._processes[number]
        for at, operation in self._thinkable(process):
            after, value, told = self._carry_out(server, process, operation, is_behind)
            if after is None:
                continue
            left = process.left - (operation is not self.setting.restate)
            learnt = operation.learn(process, value)._replace(left=left, pending=-1)
            if (
                after != server
                or learnt != process._replace(left=left, pending=-1)
                or process.must_restate
                or process.pending >= 0
            ):
                yield Done(after, self._processes.number(learnt), None, f"{self._name(process)}: {told}")
            if process.pending < 0 and not operation.reads and operation is not self.setting.restate:
                waiting = self._processes.number(self._unsure(process, at, operation))
                message = Message(self._sender(process, operation), at)
                yield Done(server, waiting, message, f"{self._name(process)}: {operation.name}, and the reply is lost")

    def _thinkable(self, process: Process) -> Iterator[tuple[int, Operation]]:
        setting = self.setting
        if process.must_restate and setting.restate:
            yield -1, setting.restate
        elif process.pending >= 0:
            yield process.pending, setting.operations[process.pending]
        elif process.left:
            yield from enumerate(setting.operations)

    def _unsure(self, process: Process, at: int, operation: Operation) -> Process:
        """After a lost reply: it sends the same again; what destroys is not repeated."""
        command = operation.command(process)
        if command is not None and command.shape.repeatable:
            return process._replace(pending=at)
        return process._replace(left=process.left - 1)

    def _sender(self, process: Process, operation: Operation) -> Process:
        """What of a process is in its message."""
        held = process.held.for_writing() if operation.fence(process) else None
        return process._replace(left=0, pending=-1, held=held, must_restate=False)

    def _bereft(self, process: Process) -> Process:
        return process._replace(must_restate=bool(self.setting.restate and process.held and process.held.status))

    def _name(self, process: Process) -> str:
        return self.setting.kinds[process.kind].name

    # Calls

    def _carry_out(
        self, server: int, process: Process, operation: Operation, is_behind: bool
    ) -> tuple[int | None, Any, str]:
        """Run the script; (the server after it, what the caller gets, what it was), all invariants checked."""
        command = operation.command(process)
        if command is None:
            return None, None, ""
        before = self._servers[server]
        self._model.now_us = BEHIND_US if is_behind else NOW_US
        self._model.put(before.state)
        (call,) = command.calls(self.setting.kinds[process.kind].layout)
        try:
            reply = self._run(call)
            value = command.finish(call.rooms, command.decode(command.operation, call.rooms, reply))
        except KVPollError as error:
            value = error
        except ScriptError as error:
            raise BrokenError(
                f"{self._name(process)}: {operation.name}: {error}\n     before: {View(before.state)}"
            ) from None
        after = View(self._model.state())
        told = f"{operation.name} -> {_told(value)}"
        said = invariants.said(self.setting, before, after, process, operation, value)
        step = invariants.Step(self.setting, process, operation, View(before.state), after, said, value)
        if found := list(invariants.wrong(step)):
            raise BrokenError(
                f"{self._name(process)}: {told}: {'; '.join(found)}\n     before: {step.before}\n     after:  {after}"
            )
        number = self._servers.number(Server(normal(after.state, self._model.now_us), said))
        return number, value, told

    def _run(self, call: Call) -> Any:
        self._calls += 1
        script = call.shape.script
        source = self.setting.broken.get(script.name, str)(script.source)
        keys = [key.encode() for key in (*call.first_keys, *call.keys)]
        reply = self._runner.run(source, keys, [word.encode() for word in (*call.once, *call.items)])
        return reply[call.shape.feed + call.shape.epoch :]

    def _arrival(self, server: int, message: Message, is_behind: bool) -> tuple[int, str]:
        """A message that was under way is carried out; nobody hears of it."""
        key = server, message, is_behind
        if key not in self._arrived:
            operation = self.setting.operations[message.operation]
            after, _, told = self._carry_out(server, message.process, operation, is_behind)
            assert after is not None
            self._arrived[key] = after, f"the first message of {self._name(message.process)} arrives: {told}"
        return self._arrived[key]

    def _expired(self, server: int) -> list[tuple[int, str]]:
        found = self._befallen.get(server)
        if found is None:
            state, said = self._servers[server]
            found = self._befallen[server] = []
            for key in (ROOM_KEY, PREFIX_KEY):
                rest = tuple(kept for kept in state if kept.key != key)
                if rest != state:
                    left = Server(rest, () if key == ROOM_KEY else said)
                    found.append((self._servers.number(left), f"{key.decode()} expires"))
        return found

    def _path(self, number: int) -> tuple[str, ...]:
        """How one got there, shortest first: what was done, and what the table was then."""
        numbers = [number]
        while self._parents[numbers[-1]] >= 0:
            numbers.append(self._parents[numbers[-1]])
        numbers.reverse()
        told = []
        for before, after in pairwise(numbers):
            state = self._states[after]
            step = next(step for found, step in self.successors(self._states[before]) if found == state)
            told.append(f"{step}\n     {View(self._servers[state.server].state)}")
        return tuple(told)


def _told(value: Any) -> str:
    if isinstance(value, tuple) and hasattr(value, "outcome"):
        status = value.status.name if value.status is not None else "absent"
        return f"{value.outcome.name}, {status}"
    return repr(value)


__all__ = ["EMPTY", "Explorer", "Report"]
