"""The servers of recovery_explorer.py: all states of a history, so that another server may have a prefix of it."""

from __future__ import annotations

from typing import Any, NamedTuple

from redis_kvpoll import KVPoll
from redis_kvpoll.protocol import keys, lease_commands
from redis_kvpoll.protocol.script_call import Call, CallContext
from tests.model.mutated import mutated
from tests.model.redis_lua import ScriptRunner
from tests.model.redis_model import EMPTY, RedisModel, State
from tests.model.table import FEED, NAMESPACE, ROOM

ROOMS = (ROOM, ROOM + 1)
_KEYS = [key.encode() for key in keys.rooms(NAMESPACE, list(ROOMS))]
_STATUSES = {status.name.encode(): int(status) for status in KVPoll}
CLOCK_US, BEHIND_US = 1_800_000_000_000_000, 1_600_000_000_000_000
FIRST_ENTRY = (b"1", b"Success")


class Change(NamedTuple):
    """A change of a room."""

    room: int
    generation: int
    status: int
    """1 above the status; 0 for a room that is gone."""
    opens: bool


class Server(NamedTuple):
    states: tuple[int, ...]
    """After each step, by their numbers."""
    steps: tuple[tuple[Change, ...], ...]
    """The changes of each step."""

    @property
    def history(self) -> list[Change]:
        return [change for step in self.steps for change in step]

    def promoted(self, length: int) -> Server:
        return Server(self.states[:length], self.steps[:length])


class Servers:
    """Runs commands and scripts on them, one at a time. The clock stands still during a step."""

    def __init__(self, seconds_per_step: int, is_behind: bool) -> None:
        self.calls = 0
        self._model = RedisModel()
        self._runner = ScriptRunner(self._model)
        self._states: list[State] = []
        self._numbers: dict[State, int] = {}
        self._seconds, self._is_behind = seconds_per_step, is_behind
        self.mutated: dict[str, tuple[str, str]] = {}
        """By script, a text in it and its replacement."""

    def first(self, context: CallContext) -> Server:
        """A server with an epoch, and a feed of one entry."""
        self.load(Server((self._number(EMPTY),), ((),)), 0)
        self.run(lease_commands.sweep(context, NAMESPACE))
        self._model.execute(b"XADD", FEED, b"*", *FIRST_ENTRY)
        self._model.execute(b"PEXPIRE", FEED, b"86400000")
        return Server((self._number(EMPTY), self._number(self._model.state())), ((), ()))

    def load(self, server: Server, now: int) -> None:
        self._model.now_us = BEHIND_US if self._is_behind else CLOCK_US + now * self._seconds * 1_000_000
        self._model.put(self._states[server.states[-1]])

    def execute(self, words: Any) -> Any:
        return self._model.execute(*[word.encode() for word in words])

    def run(self, call: Call) -> Any:
        self.calls += 1
        script = call.spec.script
        source, (good, bad) = script.source, self.mutated.get(script.name, ("", ""))
        words = [word.encode() for word in call.words()[3:]]
        keys_, argv = words[: len(call.all_keys)], words[len(call.all_keys) :]
        return self._runner.run(mutated(source, good, bad) if good else source, keys_, argv)

    def changed(self, server: Server, rooms: int) -> Server:
        """The loaded server after what was executed on it: with a longer history, unless that changed nothing."""
        number = self._number(self._model.state())
        if number == server.states[-1]:
            return server
        after = server._replace(states=(*server.states, number))
        changes: list[Change] = []
        for room in range(rooms):
            was, now = self.room(server, room), self.room(after, room)
            if was != now:
                generation, status = now or (was[0] if was else 0, -1)
                opens = now is not None and (was is None or was[0] != now[0])
                changes.append(Change(room, generation, status + 1, opens))
        return after._replace(steps=(*server.steps, tuple(changes)))

    def room(self, server: Server, room: int) -> tuple[int, int] | None:
        """Its generation and status."""
        for kept in self._states[server.states[-1]]:
            if kept.key == _KEYS[room]:
                fields = dict(kept.value)
                return (int(fields[b"generation"]), _STATUSES[fields[b"status"]]) if b"status" in fields else None
        return None

    def feed(self, server: Server) -> tuple[Any, ...]:
        """The feed's entries."""
        return next((kept.value for kept in self._states[server.states[-1]] if kept.key == FEED), ())

    def trimmed(self, server: Server, cut: int) -> Server:
        """The server without the first so many entries of its feed; without a feed if those are all."""
        state = tuple(
            kept._replace(value=kept.value[cut:]) if kept.key == FEED else kept
            for kept in self._states[server.states[-1]]
            if kept.key != FEED or cut < len(kept.value)
        )
        return Server((*server.states, self._number(state)), (*server.steps, ()))

    def _number(self, state: State) -> int:
        number = self._numbers.setdefault(state, len(self._states))
        if number == len(self._states):
            self._states.append(state)
        return number
