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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

from redis_kvpoll.commands import Call, Layout
from redis_kvpoll.errors import KVPollError
from tests.model import handles, invariants
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
    mask: int
    """The generations that both name."""
    told: str


class Carried(NamedTuple):
    """A call that was carried out."""

    server: int
    call: Call
    reply: list[Any]
    value: Any
    """What the caller gets, or the exception."""
    told: str


State = tuple[int, int, int, int, int, tuple[int, ...]]
"""The server and the messages under way, by their numbers; how many replies may still be lost, rooms expire, servers
lose all; the processes, by their numbers and in order, since those of a kind are interchangeable."""


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
        self._carried: dict[tuple[int, Process, str, bool], Carried | None] = {}
        self._done: dict[tuple[int, int, int], list[Done]] = {}
        self._arrived: dict[tuple[int, Message, bool], tuple[int, str]] = {}
        self._befallen: dict[int, list[tuple[int, str]]] = {}
        self._states: list[State] = []
        self._numbers: dict[State, int] = {}
        self._parents = array("q")
        self._calls = 0

    def explore(self) -> Report:
        began, steps, violation, path = time.process_time(), 0, None, ()
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
        seconds = time.process_time() - began
        return Report(len(self._states), steps, len(self._servers.values), self._calls, seconds, violation, path)

    def _start(self) -> State:
        setting = self.setting
        processes = tuple(sorted(self._processes.number(Process(kind, setting.each)) for kind in setting.processes))
        nothing, no_message = self._servers.number(NOTHING), self._ways.number(())
        return nothing, no_message, setting.lost, setting.expiries, setting.losses, processes

    def _add(self, state: State, parent: int) -> None:
        self._numbers[state] = len(self._states)
        self._states.append(state)
        self._parents.append(parent)

    # Steps

    def successors(self, state: State) -> Iterator[tuple[State, str]]:
        """Every state that one step leads to, and what the step was."""
        yield from self._by_processes(state)
        yield from self._by_messages(state)
        yield from self._by_fate(state)

    def _by_processes(self, state: State) -> Iterator[tuple[State, str]]:
        server, under_way, lost, expiries, losses, processes = state
        masks, messages = self._processes.masks, self._ways.masks[under_way]
        for place, process in enumerate(processes):
            if place and process == processes[place - 1]:
                continue
            others = processes[:place] + processes[place + 1 :]
            rest = messages
            for other in others:
                rest |= masks[other]
            for after, learnt, message, mask, told in self._steps_of(server, process, losses):
                who = (*others, learnt)
                if message is not None:
                    if lost:
                        ways = self._ways.number(tuple(sorted((*self._ways[under_way], message), key=repr)))
                        yield self._canonical(server, ways, lost - 1, expiries, losses, who), told
                elif (all_ := rest | mask) >= 0 and not all_ & (all_ + 1):
                    yield (after, under_way, lost, expiries, losses, tuple(sorted(who))), told
                else:
                    yield self._canonical(after, under_way, lost, expiries, losses, who), told

    def _by_messages(self, state: State) -> Iterator[tuple[State, str]]:
        server, under_way, lost, expiries, losses, processes = state
        messages = self._ways[under_way]
        for place, message in enumerate(messages):
            after, told = self._arrival(server, message, self._is_behind(losses))
            ways = self._ways.number(messages[:place] + messages[place + 1 :])
            yield self._canonical(after, ways, lost, expiries, losses, processes), told

    def _by_fate(self, state: State) -> Iterator[tuple[State, str]]:
        server, under_way, lost, expiries, losses, processes = state
        if expiries:
            for after, told in self._expired(server):
                yield self._canonical(after, under_way, lost, expiries - 1, losses, processes), told
        if losses and server:
            bereft = [self._processes.number(self._bereft(self._processes[process])) for process in processes]
            survivors = tuple([self._forget(process, losses - 1) for process in bereft])
            yield self._canonical(0, under_way, lost, expiries, losses - 1, survivors), "the server loses all its data"

    def _is_behind(self, losses: int) -> bool:
        return self.setting.is_behind and losses < self.setting.losses

    def _canonical(
        self, server: int, under_way: int, lost: int, expiries: int, losses: int, who: Sequence[int]
    ) -> State:
        """Generations renamed by their order, processes sorted."""
        processes, servers, ways = self._processes, self._servers, self._ways
        if not is_canonical([servers.masks[server], ways.masks[under_way], *[processes.masks[p] for p in who]]):
            found = {*servers.generations(server), *ways.generations(under_way)}
            for process in who:
                found.update(processes.generations(process))
            in_order = tuple(sorted(found))
            server, under_way = servers.renamed(server, in_order), ways.renamed(under_way, in_order)
            who = [processes.renamed(process, in_order) for process in who]
        return server, under_way, lost, expiries, losses, tuple(sorted(who))

    def _forget(self, number: int, losses: int) -> int:
        """A process without what it knows and can never use again."""
        process = self._processes[number]
        if self.setting.restate is None or not (losses or process.must_restate):
            process = process._replace(held=None)
        if process.left == 0 and process.pending < 0:
            process = process._replace(handle=b"", seen=b"" if process.held is None else process.seen)
        if not self.setting.is_behind:
            process = process._replace(seen=b"")  # then the clock alone keeps generations apart
        return self._processes.number(process)

    def _steps_of(self, server: int, process: int, losses: int) -> list[Done]:
        key = server, process, losses
        done = self._done.get(key)
        if done is None:
            first: dict[tuple[int, int, Message | None], Done] = {}
            for after, learnt, message, told in self._work_out(server, process, self._is_behind(losses)):
                number = self._forget(self._processes.number(learnt), losses)
                mask = self._servers.masks[after] | self._processes.masks[number]
                first.setdefault((after, number, message), Done(after, number, message, mask, told))
            done = self._done[key] = list(first.values())
        return done

    def _work_out(
        self, server: int, number: int, is_behind: bool
    ) -> Iterator[tuple[int, Process, Message | None, str]]:
        """What one process may do: (the server and the process after it, or the message that is under way, what)."""
        process = self._processes[number]
        name, layout = self._name(process), self._layout(process)
        for at, operation in self._thinkable(process):
            carried = self._carry_out(server, process, operation, is_behind)
            if carried is None:
                continue
            after, call, reply, value, told = carried
            taught = operation.learn(process, value)
            if self.setting.restate:
                taught = handles.heard(taught, layout, call, list(reply))
            if after != server or taught != process or process.pending >= 0:
                yield after, taught._replace(left=process.left - 1, pending=-1), None, f"{name}: {told}"
            if process.pending < 0 and not operation.reads:
                waiting = self._unsure(handles.sent(process, layout, call), at, call)
                message = Message(self._sender(process, operation), at)
                yield server, waiting, message, f"{name}: {operation.name}; the reply is lost"
        if process.must_restate or (process.held and process.held.waits):
            yield from self._restate(server, process, is_behind)

    def _restate(
        self, server: int, process: Process, is_behind: bool
    ) -> Iterator[tuple[int, Process, Message | None, str]]:
        """What it holds is said before anything else; a guest, whose room is not there yet, says it again or gives up."""
        restate, name = self.setting.restate, self._name(process)
        assert restate is not None
        carried = self._carry_out(server, process, restate, is_behind)
        if carried is None:
            yield server, process._replace(must_restate=False), None, f"{name}: has nothing to restate"
            return
        after, call, reply, _, told = carried
        taught = handles.heard(process, self._layout(process), call, list(reply))._replace(must_restate=False)
        if (after, taught) != (server, process):
            yield after, taught, None, f"{name}: {told}"
        if not process.must_restate:
            yield server, process._replace(held=None), None, f"{name}: has waited for the opener long enough"

    def _thinkable(self, process: Process) -> Iterator[tuple[int, Operation]]:
        operations = self.setting.operations
        if process.must_restate:
            return
        if process.pending >= 0:
            yield process.pending, operations[process.pending]
        elif process.left:
            yield from enumerate(operations)

    def _unsure(self, process: Process, at: int, call: Call) -> Process:
        """After a lost reply: it sends the same again; what destroys is not repeated."""
        return process._replace(pending=at) if call.shape.repeatable else process._replace(left=process.left - 1)

    def _sender(self, process: Process, operation: Operation) -> Process:
        """What of a process is in its message."""
        handle = process.handle if operation.fence(process) else b""
        seen = process.seen if operation.creates else b""
        return Process(process.kind, 0, handle, None, seen)

    def _bereft(self, process: Process) -> Process:
        return process._replace(must_restate=process.held is not None)

    def _layout(self, process: Process) -> Layout:
        return self.setting.kinds[process.kind].layout

    def _name(self, process: Process) -> str:
        return self.setting.kinds[process.kind].name

    # Calls

    def _carry_out(self, server: int, process: Process, operation: Operation, is_behind: bool) -> Carried | None:
        """Run an operation's script, or look up what came of it: how many operations are left matters to no script."""
        sender = process if operation is self.setting.restate else self._sender(process, operation)
        key = server, sender, operation.name, is_behind
        if key not in self._carried:
            self._carried[key] = self._call(server, sender, operation, is_behind)
        return self._carried[key]

    def _call(self, server: int, process: Process, operation: Operation, is_behind: bool) -> Carried | None:
        layout = self._layout(process)
        command = operation.command(process, layout)
        if command is None:
            return None
        before = View(self._servers[server].state)
        self._model.now_us = BEHIND_US if is_behind else NOW_US
        self._model.put(before.state)
        (call,) = command.calls(layout)
        name = f"{self._name(process)}: {operation.name}"
        try:
            reply = self._run(call)
        except ScriptError as error:
            raise BrokenError(f"{name}: {error}\n     before: {before}") from None
        try:
            value = command.finish(call.rooms, command.decode(command.operation, call.rooms, list(reply)))
        except KVPollError as error:
            value = error
        after = View(self._model.state())
        told = f"{operation.name} -> {_told(value)}"
        said = invariants.said(self.setting, self._servers[server], after, process, operation, value)
        step = invariants.Step(self.setting, process, operation, before, after, said, value)
        if found := list(invariants.wrong(step)):
            raise BrokenError(f"{name}: {'; '.join(found)}\n     before: {before}\n     after:  {after}")
        number = self._servers.number(Server(normal(after.state, self._model.now_us), said))
        return Carried(number, call, reply, value, told)

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
            carried = self._carry_out(server, message.process, operation, is_behind)
            assert carried is not None
            told = f"the first message of {self._name(message.process)} arrives: {carried.told}"
            self._arrived[key] = carried.server, told
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
            told.append(f"{step}\n     {View(self._servers[state[0]].state)}")
        return tuple(told)


def _told(value: Any) -> str:
    if isinstance(value, tuple) and hasattr(value, "outcome"):
        status = value.status.name if value.status is not None else "absent"
        return f"{value.outcome.name}, {status}"
    return repr(value)


__all__ = ["EMPTY", "Explorer", "Report"]
