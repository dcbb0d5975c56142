"""The steps of one process on one server: runs the real script, checks every invariant, and caches the result."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from redis_kvpoll.errors import KVPollError
from redis_kvpoll.protocol.script_call import Call, CallContext
from tests.model import handles, invariants
from tests.model.canonical import BEHIND_US, NOW_US, Values, short
from tests.model.operations import Operation, Process, Setting
from tests.model.redis_lua import ScriptError, ScriptRunner
from tests.model.redis_model import RedisModel
from tests.model.table import PREFIX_KEY, ROOM_KEY, Server, View, normal


class Message(NamedTuple):
    """A call that a process sent and whose reply is lost."""

    process: Process
    operation: int


class Carried(NamedTuple):
    """A call that was executed."""

    server: int
    call: Call
    reply: list[Any]
    value: Any
    """What the caller gets, or the exception."""
    text: str


class BrokenError(Exception):
    """A step that breaks an invariant."""


Taken = tuple[int, Process, Message | None, str]
"""The server and the process after a step, or the message that is under way; and what the step was."""


class Steps:
    """The steps of one setting, over its servers by their numbers."""

    def __init__(self, setting: Setting, servers: Values) -> None:
        self.setting = setting
        self.calls = 0
        self._servers = servers
        self._model = RedisModel(NOW_US)
        self._runner = ScriptRunner(self._model)
        self._carried: dict[tuple[int, Process, str, bool], Carried | None] = {}
        self._views: dict[int, View] = {}
        self._expired: dict[int, list[tuple[int, str]]] = {}

    def of(self, server: int, process: Process, is_behind: bool) -> Iterator[Taken]:
        """All steps that a process may take next."""
        name, context = self._name(process), self._context(process)
        for at, operation in self._possible(process):
            carried = self._carry_out(server, process, operation, is_behind)
            if carried is None:
                continue
            after, call, reply, value, text = carried
            learnt = operation.learn(process, value)
            if self.setting.replay:
                learnt = handles.observed(learnt, context, call, list(reply))
            if after != server or learnt != process or process.pending >= 0:
                yield after, learnt._replace(left=process.left - 1, pending=-1), None, f"{name}: {text}"
            if process.pending < 0 and not operation.reads:
                waiting = self._unsure(handles.sent(process, context, call), at, call)
                message = Message(self._sender(process, operation), at)
                yield server, waiting, message, f"{name}: {operation.name}; the reply is lost"
        if process.must_replay or (process.held and process.held.waits):
            yield from self._replay(server, process, is_behind)

    def _replay(self, server: int, process: Process, is_behind: bool) -> Iterator[Taken]:
        """A pending replay comes first; an attached room without its creator is replayed again, or given up."""
        replay, name = self.setting.replay, self._name(process)
        assert replay is not None
        carried = self._carry_out(server, process, replay, is_behind)
        if carried is None:
            yield server, process._replace(must_replay=False), None, f"{name}: has nothing to replay"
            return
        after, call, reply, _, text = carried
        learnt = handles.observed(process, self._context(process), call, list(reply))._replace(must_replay=False)
        if (after, learnt) != (server, process):
            yield after, learnt, None, f"{name}: {text}"
        if not process.must_replay:
            yield server, process._replace(held=None), None, f"{name}: has waited for the creator long enough"

    def _possible(self, process: Process) -> Iterator[tuple[int, Operation]]:
        operations = self.setting.operations
        if process.must_replay:
            return
        if process.pending >= 0:
            yield process.pending, operations[process.pending]
        elif process.left:
            yield from enumerate(operations)

    def _unsure(self, process: Process, at: int, call: Call) -> Process:
        """After a lost reply the process sends a repeatable call again; others count as done."""
        return process._replace(pending=at) if call.spec.repeatable else process._replace(left=process.left - 1)

    def _sender(self, process: Process, operation: Operation) -> Process:
        """The part of a process that its message depends on."""
        handle = process.handle if operation.fence(process) else b""
        seen = process.seen if operation.creates else b""
        return Process(process.kind, 0, handle=handle, seen=seen)

    def _context(self, process: Process) -> CallContext:
        return self.setting.kinds[process.kind].context

    def _name(self, process: Process) -> str:
        return self.setting.kinds[process.kind].name

    # Calls

    def _carry_out(self, server: int, process: Process, operation: Operation, is_behind: bool) -> Carried | None:
        """The result of an operation, cached: no script depends on how many operations are left."""
        sender = process if operation is self.setting.replay else self._sender(process, operation)
        key = server, sender, operation.name, is_behind
        if key not in self._carried:
            self._carried[key] = self._call(server, sender, operation, is_behind)
        return self._carried[key]

    def _call(self, server: int, process: Process, operation: Operation, is_behind: bool) -> Carried | None:
        context = self._context(process)
        command = operation.command(process, context)
        if command is None:
            return None
        before = self._views.get(server)
        if before is None:
            before = self._views[server] = View(self._servers[server].state)
        self._model.now_us = BEHIND_US if is_behind else NOW_US
        self._model.put(before.state)
        (call,) = command.calls(context)
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
        text = f"{operation.name} -> {_told(value)}"
        said = invariants.said(self.setting, self._servers[server], after, process, operation, value)
        step = invariants.Effect(self.setting, process, operation, before, after, said, value)
        if found := list(invariants.wrong(step)):
            raise BrokenError(f"{name}: {short('; '.join(found))}\n     before: {before}\n     after:  {after}")
        number = self._servers.number(Server(normal(after.state, self._model.now_us), said))
        return Carried(number, call, reply, value, text)

    def _run(self, call: Call) -> Any:
        self.calls += 1
        script = call.spec.script
        source = self.setting.broken.get(script.name, str)(script.source)
        keys = [key.encode() for key in call.all_keys]
        reply = self._runner.run(source, keys, [word.encode() for word in call.words()[3 + len(keys) :]])
        return reply[call.spec.feed + call.spec.epoch + 3 * call.spec.tail :]

    def arrival(self, server: int, message: Message, is_behind: bool) -> tuple[int, str]:
        """A message that was under way is executed; its reply is lost."""
        operation = self.setting.operations[message.operation]
        carried = self._carry_out(server, message.process, operation, is_behind)
        assert carried is not None
        return carried.server, f"the first message of {self._name(message.process)} arrives: {carried.text}"

    def expired(self, server: int) -> list[tuple[int, str]]:
        """The servers after a key has reached its TTL."""
        found = self._expired.get(server)
        if found is None:
            state, said = self._servers[server]
            found = self._expired[server] = []
            for key in (ROOM_KEY, PREFIX_KEY):
                rest = tuple(kept for kept in state if kept.key != key)
                if rest != state:
                    left = Server(rest, () if key == ROOM_KEY else said)
                    found.append((self._servers.number(left), f"{key.decode()} expires"))
        return found


def _told(value: Any) -> str:
    if isinstance(value, tuple) and hasattr(value, "outcome"):
        status = value.status.name if value.status is not None else "absent"
        return f"{value.outcome.name}, {status}"
    return repr(value)
