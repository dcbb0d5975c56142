"""The speed of a table with up to a million rooms, compared with plain keys in the same numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from random import Random

import redis

from bench import mirrors
from bench.ground import TTL, Ground
from bench.measure import Contender, Spread, Times, interleave, ratio
from bench.results import Budget, Row, Section
from redis_kvpoll import KVPoll, StatusStore

BUDGET = Budget(1.5)
_RATIOS = [("update_status", "SET"), ("poll", "MGET"), ("update_many", "SET pipeline"), ("mirror.get", "dict.get")]

_LIFE = (KVPoll.WaitingForInput, KVPoll.Transferring, KVPoll.Transferring, KVPoll.Transferring, KVPoll.Success)
_BATCH = 1000
_ROOMS_A_ROUND = 64


def measure(ground: Ground, sizes: tuple[int, ...], rounds: int, progress: Callable[[str], None]) -> Section:
    """The ratios at each size, compared with those at the first."""
    first, last = sizes[0], sizes[-1]
    section = Section(
        "sizes",
        f"The ratios with up to {last:,} live rooms, beside those with {first:,}",
        "large / small",
        theirs=f"with {first:,}",
    )
    rooms = ground.ids(last)
    found: dict[int, Times] = {}
    filled = 0
    with ground.store("mass") as store, ground.plain() as client:
        for size in sizes:
            progress(f"at {size:,} rooms and as many plain keys")
            _fill(ground, store, client, rooms[filled:size])
            found[size] = _times(ground, store, client, rooms[:size], rounds)
            found[size] |= mirrors.read_times(store, rooms[:size], rounds)
            filled = size
    for ours, theirs in _RATIOS:
        for size in sizes[1:]:
            section.rows.append(_row(f"{ours} / {theirs}, {size:,}", ours, theirs, found[first], found[size]))
    return section


def _row(name: str, ours: str, theirs: str, small: Times, large: Times) -> Row:
    before, after = ratio(small[ours], small[theirs]), ratio(large[ours], large[theirs])
    # The sizes are measured in different rounds, so only their medians can be compared.
    growth = after.median / before.median
    return Row(name, "", "ratio", after.median, before.median, Spread(growth, growth, growth), BUDGET)


def _fill(ground: Ground, store: StatusStore, client: redis.Redis, rooms: list[int]) -> None:
    for at in range(0, len(rooms), 10_000):
        some = rooms[at : at + 10_000]
        store.update_many(dict.fromkeys(some, KVPoll.Bootstrapping))
        with client.pipeline(transaction=False) as pipe:
            for room in some:
                pipe.set(ground.key("mass", room), KVPoll.Bootstrapping.name, ex=TTL)
            pipe.execute()


class _Pick:
    """The next rooms of the contenders of one size: every round takes other ones, from all over the table."""

    def __init__(self, ground: Ground, store: StatusStore, client: redis.Redis, rooms: list[int]) -> None:
        self._ground, self._store, self._client, self._rooms = ground, store, client, rooms
        self._random = Random(11)  # noqa: S311 - which rooms are measured
        self.calls: list[tuple[int, KVPoll]] = []
        self.plain: list[tuple[str, str]] = []
        self.many: list[int] = []
        self.keys: list[str] = []

    def one_by_one(self) -> None:
        self._reset({room: None for room, _ in self.calls})
        picked = self._random.sample(self._rooms, _ROOMS_A_ROUND)
        self.calls = [(room, status) for status in _LIFE for room in picked]

    def plain_one_by_one(self) -> None:
        picked = self._random.sample(self._rooms, _ROOMS_A_ROUND)
        self.plain = [(self._ground.key("mass", room), status.name) for status in _LIFE for room in picked]

    def batch(self) -> None:
        self.many = self._random.sample(self._rooms, _BATCH)
        self.keys = [self._ground.key("mass", room) for room in self._random.sample(self._rooms, _BATCH)]

    def batch_to_update(self) -> None:
        self.batch()
        self._reset(self.many)

    def end(self) -> None:
        self._reset({room: None for room, _ in self.calls})

    def _reset(self, rooms: Iterable[int]) -> None:
        """Set rooms back to Bootstrapping."""
        rooms = list(rooms)
        self._store.clear_many(rooms)
        self._store.update_many(dict.fromkeys(rooms, KVPoll.Bootstrapping))

    def update(self) -> None:
        for room, status in self.calls:
            self._store.update_status(room, status)

    def plain_set(self) -> None:
        for key, name in self.plain:
            self._client.set(key, name, ex=TTL)

    def update_many(self) -> None:
        self._store.update_many(dict.fromkeys(self.many, KVPoll.WaitingForInput))

    def pipeline(self) -> None:
        with self._client.pipeline(transaction=False) as pipe:
            for key in self.keys:
                pipe.set(key, KVPoll.WaitingForInput.name, ex=TTL)
            pipe.execute()


def _times(ground: Ground, store: StatusStore, client: redis.Redis, rooms: list[int], rounds: int) -> Times:
    """The times at one size."""
    pick = _Pick(ground, store, client, rooms)
    units = _ROOMS_A_ROUND * len(_LIFE)
    times = interleave(
        [
            Contender("update_status", pick.update, units, pick.one_by_one),
            Contender("SET", pick.plain_set, units, pick.plain_one_by_one),
            Contender("poll", lambda: store.poll(pick.many), _BATCH, pick.batch),
            Contender("MGET", lambda: client.mget(pick.keys), _BATCH, pick.batch),
            Contender("update_many", pick.update_many, _BATCH, pick.batch_to_update),
            Contender("SET pipeline", pick.pipeline, _BATCH, pick.batch),
        ],
        rounds,
    )
    pick.end()
    return times
