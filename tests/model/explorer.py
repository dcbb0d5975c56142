"""Every interleaving: breadth first over all states that a setting can reach, each expanded once.

A state is the server, what each process knows and has left to do, the messages that are still under way, and the
faults that may still occur. From each, every process may do every operation; so all programs of so many
operations are covered, in every order. A process may lose a reply: then its message is under way and may be carried
out at any later time, or never, while the process sends the same again. A room may expire at any moment, and a server
lose all its data.

A step that depends on the server and one process alone is computed once, by the real Lua, and cached from then
on. Steps that change nothing on the server or in a process are left out: what can follow them can follow without.
"""

from __future__ import annotations

import gc
import time
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from tests.model.canonical import Values, is_canonical
from tests.model.operations import Process, Setting
from tests.model.steps import BrokenError, Message, Steps
from tests.model.table import NOTHING, View


class Done(NamedTuple):
    """A computed step of one process."""

    server: int
    process: int
    message: Message | None
    mask: int
    """The generations that both name."""
    text: str


State = tuple[int, int, int, int, int, tuple[int, ...]]
"""The server and the messages under way, by their numbers; how many replies may still be lost, rooms expire, servers
lose all; the processes, by their numbers and in order, since those of a kind are interchangeable."""


@dataclass
class Report:
    """The result of an exploration."""

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
        text = f"{done}, {self.seconds:.1f} s ({each:.0f} us a state)"
        if self.violation:
            text += "".join(f"\n  {number}. {line}" for number, line in enumerate(self.path, 1))
            text += f"\n  => {self.violation}"
        return text


class Explorer:
    """The states of one setting."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self._servers, self._processes, self._ways = Values(), Values(), Values()
        self._steps = Steps(setting, self._servers)
        self._done: dict[tuple[int, int, int], list[Done]] = {}
        self._states: list[State] = []
        self._numbers: dict[State, int] = {}
        self._parents = array("q")

    def explore(self, most: int | None = None) -> Report:
        """All states, or the first so many: the shortest path to a violation is found first."""
        began, steps, violation, path = time.process_time(), 0, None, ()
        self._add(self._start(), -1)
        at = 0
        gc.disable()  # there are no cycles, and scanning millions of tuples would take most of the time
        try:
            while at < min(len(self._states), most or len(self._states)):
                for after, _ in self.successors(self._states[at]):
                    steps += 1
                    if after not in self._numbers:
                        self._add(after, at)
                at += 1
        except BrokenError as error:
            violation, path = str(error), self._path(at)
        finally:
            gc.enable()
        seconds = time.process_time() - began
        return Report(len(self._states), steps, len(self._servers.values), self._steps.calls, seconds, violation, path)

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
        yield from self._by_environment(state)

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
            for after, learnt, message, mask, text in self._steps_of(server, process, losses):
                members = (*others, learnt)
                if message is not None:
                    if lost:
                        ways = self._ways.number(tuple(sorted((*self._ways[under_way], message), key=repr)))
                        yield self._canonical(server, ways, lost - 1, expiries, losses, members), text
                elif (all_ := rest | mask) >= 0 and not all_ & (all_ + 1):
                    yield (after, under_way, lost, expiries, losses, tuple(sorted(members))), text
                else:
                    yield self._canonical(after, under_way, lost, expiries, losses, members), text

    def _by_messages(self, state: State) -> Iterator[tuple[State, str]]:
        server, under_way, lost, expiries, losses, processes = state
        messages = self._ways[under_way]
        for place, message in enumerate(messages):
            after, text = self._steps.arrival(server, message, self._is_behind(losses))
            ways = self._ways.number(messages[:place] + messages[place + 1 :])
            yield self._canonical(after, ways, lost, expiries, losses, processes), text

    def _by_environment(self, state: State) -> Iterator[tuple[State, str]]:
        server, under_way, lost, expiries, losses, processes = state
        if expiries:
            for after, text in self._steps.expired(server):
                yield self._canonical(after, under_way, lost, expiries - 1, losses, processes), text
        if losses and server:
            survivors = [self._after_loss(process, losses - 1) for process in processes]
            yield self._canonical(0, under_way, lost, expiries, losses - 1, survivors), "the server loses all its data"

    def _is_behind(self, losses: int) -> bool:
        return self.setting.is_behind and losses < self.setting.losses

    def _canonical(
        self, server: int, under_way: int, lost: int, expiries: int, losses: int, members: Sequence[int]
    ) -> State:
        """Generations renamed by their order, processes sorted."""
        processes, servers, ways = self._processes, self._servers, self._ways
        if not is_canonical([servers.masks[server], ways.masks[under_way], *[processes.masks[p] for p in members]]):
            found = {*servers.generations(server), *ways.generations(under_way)}
            for process in members:
                found.update(processes.generations(process))
            in_order = tuple(sorted(found))
            server, under_way = servers.renamed(server, in_order), ways.renamed(under_way, in_order)
            members = [processes.renamed(process, in_order) for process in members]
        return server, under_way, lost, expiries, losses, tuple(sorted(members))

    def _after_loss(self, number: int, losses: int) -> int:
        process = self._processes[number]
        process = process._replace(must_replay=process.held is not None)
        return self._forget(self._processes.number(process), losses)

    def _forget(self, number: int, losses: int) -> int:
        """A process without the knowledge that it can never use again."""
        process = self._processes[number]
        if self.setting.replay is None or not (losses or process.must_replay):
            process = process._replace(held=None, ended=b"")
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
            for after, learnt, message, text in self._steps.of(
                server, self._processes[process], self._is_behind(losses)
            ):
                number = self._forget(self._processes.number(learnt), losses)
                mask = self._servers.masks[after] | self._processes.masks[number]
                first.setdefault((after, number, message), Done(after, number, message, mask, text))
            done = self._done[key] = list(first.values())
        return done

    def _path(self, number: int) -> tuple[str, ...]:
        """The steps to a state, each with the table after it."""
        numbers = [number]
        while self._parents[numbers[-1]] >= 0:
            numbers.append(self._parents[numbers[-1]])
        numbers.reverse()
        text = []
        for before, after in pairwise(numbers):
            state = self._states[after]
            step = next(step for found, step in self.successors(self._states[before]) if found == state)
            text.append(f"{step}\n     {View(self._servers[state[0]].state)}")
        return tuple(text)
