"""What a request of several ranks costs the server: a caller for each rank, and one that speaks for all of them.

The ranks say the same things at different moments, within ``SPREAD`` of each other. The caller for all waits as long
after the first, and sends what it has by then: so a step of a request is one call. Both sides of a request are counted,
prefill and decode, each in its table: opened, waiting for input, at success, and cleared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from random import Random
from typing import Any

import redis

from bench import instructions
from bench.ground import Ground
from bench.instructions import Counter
from bench.measure import Spread
from bench.results import Budget, Row, Section
from redis_kvpoll import KVPoll
from redis_kvpoll.protocol import fenced_commands, keys
from redis_kvpoll.protocol.rank_commands import RankChange, RankIdentity, write_ranks
from redis_kvpoll.protocol.script_call import CallContext, Command

RANKS = 8
SPREAD = 0.020
WINDOWS = (0.005, 0.010, SPREAD)
"""Seconds that the caller for all waits after the first change of a step."""
REQUESTS, ROUNDS = 40, 5
CPU_BUDGET = Budget(0.3)
INSTRUCTIONS_BUDGET = Budget(4_000)
"""Thousands, for a request."""
_REQUEST = "3fa85f64-5717-4562-b3fc-2c963f66afa6"
_STEPS = (KVPoll.WaitingForInput, KVPoll.Success)


class Side:
    """The ranks of one instance, in a table of its own, each under a lease."""

    def __init__(self, ground: Ground, client: redis.Redis, role: str) -> None:
        self.calls = 0
        self._client = client
        self._namespace = f"{ground.id}.{role}"
        self.ranks = [RankIdentity(n, RANKS, f"{role}-{n}", str(1_700_000_000_000_001 + n)) for n in range(RANKS)]
        self.contexts = [self._context(rank) for rank in self.ranks]
        self._for_all = self._context(None)
        client.hset(keys.epoch(self._namespace), "epoch", "1-bench")
        for rank in self.ranks:
            record = f"{rank.incarnation} 5000 500 1700000000000 0"
            client.hset(keys.leases(self._namespace), rank.owner, record)
        for key in (keys.epoch, keys.leases):
            client.pexpire(key(self._namespace), 3_600_000)

    def one_by_one(self, room: int) -> None:
        """A request by a caller for each rank."""
        generation, *_ = [self.open(room, context) for context in self.contexts]
        for status in _STEPS:
            for context in self.contexts:
                self.send(fenced_commands.update(room, generation, status), context)
        for context in self.contexts:
            self.send(fenced_commands.clear(room, generation), context)

    def together(self, room: int, window: float, moments: Random) -> None:
        """A request by one caller, which opens the room for the first rank."""
        generation, (_, *others) = self.open(room, self.contexts[0]), self.ranks
        for status, ranks in ((KVPoll.Bootstrapping, others), *((status, self.ranks) for status in _STEPS)):
            for some in _gathered(ranks, window, moments):
                self.send(write_ranks([RankChange(room, rank, generation, status) for rank in some]), self._for_all)
        for some in _gathered(self.ranks, window, moments):
            changes = [RankChange(room, rank, generation, clears=True) for rank in some]
            self.send(write_ranks(changes), self._for_all)

    def open(self, room: int, context: CallContext) -> int:
        return int(self.send(fenced_commands.open(room, _REQUEST, KVPoll.Bootstrapping, 0), context)[4])

    def send(self, command: Command[Any, Any], context: CallContext) -> list[bytes]:
        (call,) = command.calls(context)
        self.calls += 1
        words = call.words()
        try:
            reply: list[bytes] = self._client.execute_command(*words)
        except redis.exceptions.NoScriptError:
            self._client.script_load(call.spec.script.source)
            reply = self._client.execute_command(*words)
        return reply

    def _context(self, rank: RankIdentity | None) -> CallContext:
        number, world_size, owner, incarnation = rank or ("", "", "", "")
        return CallContext(
            ttl_ms="900000",
            terminal_ttl_ms="300000",
            rank=str(number),
            world_size=str(world_size),
            owner=owner,
            incarnation=incarnation,
            nonce="bench",
            namespace=self._namespace,
            shards=1,
            policy="compat",
            mode="none",
            feed_length="100000",
        )


def _gathered(ranks: list[RankIdentity], window: float, moments: Random) -> Iterator[list[RankIdentity]]:
    """Yield the ranks that one call speaks for, if each says it at a moment within SPREAD."""
    said = sorted((moments.uniform(0, SPREAD), rank) for rank in ranks)
    while said:
        until = said[0][0] + window
        yield [rank for at, rank in said if at <= until]
        said = [(at, rank) for at, rank in said if at > until]


def measure(ground: Ground) -> Section:
    section = Section(
        "ranks",
        f"A request of {RANKS} ranks, its changes spread over {SPREAD * 1000:.0f} ms: CPU of the server",
        "together / one by one",
        ours="together",
        theirs="one by one",
    )
    client = ground.plain()
    sides, moments = _sides(ground, client)

    def one_by_one() -> None:
        for room in ground.ids(REQUESTS):
            for side in sides:
                side.one_by_one(room)

    for window in WINDOWS:
        section.rows.append(_row(client, sides, window, one_by_one, partial(_together, ground, sides, window, moments)))
    section.rows.append(_instructions(ground))
    client.close()
    return section


def _sides(ground: Ground, client: redis.Redis) -> tuple[list[Side], Random]:
    """Both sides, and the moments at which each rank speaks."""
    return [Side(ground, client, role) for role in ("prefill", "decode")], Random(5)  # noqa: S311


def _together(ground: Ground, sides: list[Side], window: float, moments: Random) -> None:
    for room in ground.ids(REQUESTS):
        for side in sides:
            side.together(room, window, moments)


def _row(
    client: redis.Redis, sides: list[Side], window: float, theirs: Callable[[], None], ours: Callable[[], None]
) -> Row:
    """CPU time of a request, in turns."""
    together, apart, calls = [], [], 0
    for number in range(-1, ROUNDS):  # the first warms up
        calls = -sum(side.calls for side in sides)
        mine = _cpu_us(client, ours)
        calls += sum(side.calls for side in sides)
        other = _cpu_us(client, theirs)
        if number >= 0:
            together.append(mine)
            apart.append(other)
    name = f"gathered for {window * 1000:.0f} ms: {calls / REQUESTS:.0f} calls"
    figure = Spread.of([mine / other for mine, other in zip(together, apart, strict=True)])
    budget = CPU_BUDGET if window == SPREAD else None
    return Row(name, "", "us", Spread.of(together).median, Spread.of(apart).median, figure, budget)


def _cpu_us(client: redis.Redis, run: Callable[[], None]) -> float:
    """The server's CPU time for a request, in microseconds."""
    before = _used(client)
    run()
    return (_used(client) - before) / REQUESTS * 1e6


def _used(client: redis.Redis) -> float:
    found = client.info("cpu")
    return float(found["used_cpu_user"]) + float(found["used_cpu_sys"])


def request_us(ground: Ground) -> float:
    """The server's CPU time for a request that one caller sends for all ranks, in microseconds."""
    with ground.plain() as client:
        sides, moments = _sides(ground, client)
        _together(ground, sides, SPREAD, moments)
        return Spread.of(
            [_cpu_us(client, lambda: _together(ground, sides, SPREAD, moments)) for _ in range(ROUNDS)]
        ).median


def request_instructions(counter: Counter) -> float | None:
    """The server's instructions for the same."""
    ground = counter.ground
    with ground.plain() as client:
        sides, moments = _sides(ground, client)
        _together(ground, sides, SPREAD, moments)
        counted = counter.count(lambda: _together(ground, sides, SPREAD, moments))
    return None if counted is None else counted / REQUESTS


def _instructions(ground: Ground) -> Row:
    """The instructions of a request, in thousands; a row without a figure where they cannot be counted."""
    with instructions.counting(ground) as counter:
        counted = request_instructions(counter) if counter else None
    name = f"gathered for {SPREAD * 1000:.0f} ms: thousand instructions ({instructions.way()})"
    if counted is None:
        return Row(name, "", "ratio", None, None, None, INSTRUCTIONS_BUDGET, "instructions cannot be counted here")
    return Row(name, "", "ratio", None, None, Spread(*[counted / 1000] * 3), INSTRUCTIONS_BUDGET)
