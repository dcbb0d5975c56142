"""A process of an engine that has an agent: it opens, advances, fails and clears rooms, as SGLang's threads do.

It is the plugin's own TableWorker, without SGLang. Its calls are recorded as those of a worker, each with the room's
status after it, and whether all that this process has changed was given to the agent's socket by then.

To add a command of the harness: a method of Commands.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import select
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from chaos.history import HistoryWriter
from redis_kvpoll import KVPoll
from redis_kvpoll.agent.merge import merge
from redis_kvpoll.integrations.sglang.compat import ProcessIdentity
from redis_kvpoll.integrations.sglang.settings import PluginSettings
from redis_kvpoll.integrations.sglang.worker import TableWorker

FIRST = 5 * 10**9
"""The first of the rooms that one process alone has."""
SHARED = 6 * 10**9
"""The first of those that all ranks open, and nobody clears."""
OWN_ROOMS = 40
"""Rooms of a process's own, which are used again and again."""
SHARED_SECONDS = 0.2
"""After so long there is another shared room."""
PAUSE_SECONDS = 0.004
"""Between two calls."""
IDLE_SECONDS = 90.0
"""The longest time for all changes to be in the table, on a machine that may be busy."""
NAMESPACE = "chaos"
FAILED, BOOTSTRAPPING, SUCCESS = int(KVPoll.Failed), int(KVPoll.Bootstrapping), int(KVPoll.Success)


@dataclass(frozen=True, slots=True)
class ProcessPlan:
    """What a process is told at its start."""

    number: int
    rank: int
    ranks: int
    url: str
    file: str
    seed: str
    start: float
    lease: float
    ttl: float
    deadline: float

    @property
    def settings(self) -> PluginSettings:
        return PluginSettings(
            self.url, namespace=NAMESPACE, lease=self.lease, ttl=self.ttl, deadline=self.deadline, join=IDLE_SECONDS
        )

    @property
    def identity(self) -> ProcessIdentity:
        owner = f"prefill/engine:1/tp{self.rank}@engine:{self.number}"
        return ProcessIdentity("prefill", "prefill/engine:1", owner, self.rank, self.ranks, (self.rank,))

    def text(self) -> str:
        return json.dumps(asdict(self))


class Rooms:
    """The calls of a process on its rooms."""

    def __init__(self, plan: ProcessPlan, worker: TableWorker, writer: HistoryWriter) -> None:
        self._registry = worker.registry
        self._update_status = worker.registry.scoped(self._decide)
        self._writer = writer
        self._chance = random.Random(plan.seed)  # noqa: S311 - chance, not secrets
        self._own = FIRST + plan.number * 10**4
        self._start = plan.start
        self._next_shared = self._shared_index() + 1  # the former process of this rank may have a part in this one
        self._lives = 0
        self._choices: list[Callable[[], None]] = [self._open] * 4 + [self._advance] * 10 + [self._fail]
        self._choices += [self._clear] * 3 + [self._be_late] * 2 + [self._share] * 4

    def call(self) -> None:
        """Make one random call."""
        self._chance.choice(self._choices)()

    def statuses(self) -> dict[int, int]:
        return {room: int(status) for room, status in list(self._registry.statuses.items())}

    def _decide(self, room: int, status: int) -> None:
        """SGLang's update_status, with its own policy."""
        statuses = self._registry.statuses
        if room in statuses:
            statuses[room] = merge(statuses[room], status)
        elif status != FAILED:
            statuses[room] = status

    def _open(self) -> None:
        room = self._own + self._chance.randrange(OWN_ROOMS)
        if room not in self._registry.statuses:
            self._lives += 1
            self._begin(room, f"request {room} {self._lives}")

    def _share(self) -> None:
        """Open the shared room of this moment, if this rank has not."""
        index = self._shared_index()
        if index >= self._next_shared:
            self._next_shared = index + 1
            self._begin(SHARED + index, f"request {SHARED + index}")

    def _begin(self, room: int, request: str) -> None:
        with self._recorded("begin", room, BOOTSTRAPPING):
            self._registry.claim_during(room, request, self._update_status, room, BOOTSTRAPPING)

    def _advance(self) -> None:
        live = [(room, status) for room, status in self.statuses().items() if status not in (FAILED, SUCCESS)]
        if live:
            room, status = self._chance.choice(live)
            with self._recorded("advance", room, status + 1):
                self._update_status(room, status + 1)

    def _fail(self) -> None:
        if live := [room for room, status in self.statuses().items() if status not in (FAILED, SUCCESS)]:
            room = self._chance.choice(live)
            with self._recorded("fail", room, FAILED):
                self._registry.reasons[room] = "by chance"
                self._update_status(room, FAILED)

    def _clear(self) -> None:
        own = [room for room in self.statuses() if room < SHARED]
        if own:
            room = self._chance.choice(own)
            with self._recorded("end", room, self._registry.statuses.get(room)):
                self._registry.statuses.pop(room, None)

    def _be_late(self) -> None:
        """Fail or advance a room, whether it is open or not."""
        room = self._own + self._chance.randrange(OWN_ROOMS)
        status = self._chance.choice((FAILED, SUCCESS))
        if room not in self._registry.statuses:
            with self._recorded("late", room, status):
                self._update_status(room, status)

    def _shared_index(self) -> int:
        return int((time.monotonic() - self._start) / SHARED_SECONDS)

    @contextlib.contextmanager
    def _recorded(self, name: str, room: int, argument: int | None) -> Any:
        number = self._writer.begin(name, {room: argument})
        yield
        self._writer.end(number, {room: [self._registry.statuses.get(room), not len(self._registry.sender)]})


class Commands:
    """What the harness may ask of a process; each answer is one line."""

    def __init__(self, worker: TableWorker, rooms: Rooms) -> None:
        self._worker = worker
        self._rooms = rooms
        self.is_over = False

    def settle(self) -> bool:
        """Make no call until the table has all changes. Returns whether it has them in the end."""
        give_up_at = time.monotonic() + IDLE_SECONDS
        while not self._worker.is_idle and time.monotonic() < give_up_at:
            time.sleep(PAUSE_SECONDS)
        return self._worker.is_idle

    def agent(self) -> int:
        """Return the number of the agent that it is connected to; 0 if it is not."""
        channel = self._worker.client.channel
        return getattr(channel, "agent", 0) if channel is not None and channel.is_connected else 0

    def calls(self, count: int) -> int:
        """Make many calls without a pause. Returns how many rooms have changes that no agent has taken."""
        for _ in range(count):
            self._rooms.call()
        return len(self._worker.registry.sender)

    def hold(self) -> int:
        """Leave this process's sockets to a child, and return its id."""
        sockets = []
        for path in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(OSError):
                if str(path.readlink()).startswith("socket:"):
                    sockets.append(int(path.name))
        nothing = subprocess.DEVNULL
        child = ["sleep", "600"]
        return subprocess.Popen(child, pass_fds=sockets, stdin=nothing, stdout=nothing, stderr=nothing).pid  # noqa: S603

    def leave(self) -> None:
        """Leave the table, with whatever is not told yet."""
        self._worker.close()
        self.is_over = True

    def statuses(self) -> list[tuple[int, int]]:
        return list(self._rooms.statuses().items())


def main() -> None:
    """Make calls until the harness says leave, or kills this process; "statuses" ends the calls."""
    plan = ProcessPlan(**json.loads(sys.argv[1]))
    worker = TableWorker(plan.settings, plan.identity)
    worker.join()
    rooms = Rooms(plan, worker, HistoryWriter(Path(plan.file)))
    commands = Commands(worker, rooms)
    _say("ready")
    is_quiet = False
    while not commands.is_over:
        if select.select([sys.stdin], [], [], None if is_quiet else PAUSE_SECONDS)[0]:
            line = sys.stdin.readline()
            if not line:
                os._exit(0)  # the harness has gone
            name, *arguments = json.loads(line)
            is_quiet = is_quiet or name == "quiesce"
            _say(getattr(commands, "settle" if name == "quiesce" else name)(*arguments))
        else:
            rooms.call()


def _say(answer: object) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
