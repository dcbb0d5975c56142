"""What many ranks cost: a look at them in a mirror, a write of one of them, and how long a call holds the server.

The rooms are made by hand, with a status and an owner for each rank: the calls of a thousand ranks would take minutes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import redis

from bench import instructions
from bench.ground import Ground
from bench.instructions import Counter
from bench.measure import Contender, Spread, interleave
from bench.peers.way import wait_until
from bench.ranks import Side
from bench.results import Budget, Row, Section
from redis_kvpoll import KVPoll, StatusStore
from redis_kvpoll.protocol import fenced_commands, keys, room_commands
from redis_kvpoll.protocol.script_call import CallContext
from redis_kvpoll.transport.embedded import EmbeddedServer

ROOMS = 1_000
SOME = 8
"""Ranks of a room, if nothing else is said."""
LOOK_BUDGET, COLLECT_BUDGET = Budget(0.2), Budget(1.5)
"""Milliseconds for all rooms, and microseconds for each."""
WRITE_BUDGET = Budget(1.4)
CALL_BUDGET = Budget(10)
"""Milliseconds."""
_LOOKS = 10
_WRITTEN = 100
"""Rooms whose writes are counted."""
_HOLDER = 1_700_000_000_000_000
_SYNC_SECONDS = 60.0
_LOGGED = 100_000
_SHORT = 100
"""Microseconds from which SLOWLOG takes a call: each command within a script that it took would lengthen the script."""


def looks(ground: Ground, rounds: int) -> Section:
    """A look at what the ranks of all rooms agree on, in a mirror."""
    section = Section("mirror_ranks", f"A mirror of {ROOMS:,} rooms of {SOME} ranks", "", ours="figure")
    rooms = ground.ids(ROOMS)
    with ground.rank("ranked", 0, SOME, feed_length=None) as store:
        store.update_many(dict.fromkeys(rooms, KVPoll.Transferring))
        _fill(ground.client, f"{ground.id}.ranked", rooms, SOME)
        with store.mirror() as mirror:
            wait_until(lambda: mirror.synced, _SYNC_SECONDS)
            looked = Contender("look", lambda: [mirror.consensus(rooms) for _ in range(_LOOKS)], _LOOKS)
            collected = Contender("collect", lambda: list(map(mirror.collect, rooms)), ROOMS)
            if set(mirror.consensus(rooms).values()) != {KVPoll.Transferring} or len(mirror.collect(rooms[0])) != SOME:
                raise RuntimeError("the mirror has not all ranks")
            times = interleave([looked, collected], rounds)
    look = Spread.of([1e3 * seconds for seconds in times["look"]])
    collect = Spread.of([1e6 * seconds for seconds in times["collect"]])
    section.rows.append(Row("mirror.consensus of all", "", "ms", look.median, None, look, LOOK_BUDGET))
    section.rows.append(Row("mirror.collect, a room", "", "us", collect.median, None, collect, COLLECT_BUDGET))
    return section


def writes(ground: Ground) -> Section:
    """A write of one rank beside one without ranks, in instructions of the server."""
    title = f"A change of one of {SOME} ranks, beside one of a room without ranks: {instructions.way()}"
    section = Section("rank_write", title, "ours / theirs")
    names = "a rank's handle.update under a lease", "update_status, no ranks"
    with instructions.counting(ground) as counter:
        found = _written(counter) if counter else None
    if found is None:
        why = "instructions cannot be counted here"
        section.rows.append(Row(names[0], names[1], "ratio", None, None, None, WRITE_BUDGET, why))
    else:
        ours, theirs = (each / 1000 for each in found)
        figure = Spread(*[ours / theirs] * 3)
        section.rows.append(Row(names[0], names[1], "ratio", ours, theirs, figure, WRITE_BUDGET))
    return section


def _written(counter: Counter) -> tuple[float, float] | None:
    """Return the instructions of a change of one rank, and of one of a room without ranks."""
    with counter.ground.plain() as client:
        side = Side(counter.ground, client, "written")
        rank = side.contexts[0]
        nobody = replace(rank, rank="", world_size="", owner="", incarnation="")
        found = [_changes(counter, side, contexts) for contexts in (side.contexts, [nobody])]
    return None if found[0] is None or found[1] is None else (found[0], found[1])


def _changes(counter: Counter, side: Side, contexts: list[CallContext]) -> float | None:
    """Return the instructions of a change by the first context, of rooms that all of them have opened."""
    context, counted = contexts[0], None

    def advance(rooms: dict[int, int]) -> None:
        for status in (KVPoll.WaitingForInput, KVPoll.Transferring, KVPoll.Success):
            for room, generation in rooms.items():
                fenced = fenced_commands.update(room, generation, status)
                side.send(fenced if context.rank else room_commands.update_status(room, status), context)

    for _ in range(2):  # the first time, the scripts are loaded
        generations = {room: [side.open(room, one) for one in contexts] for room in counter.ground.ids(_WRITTEN)}
        rooms = {room: of_all[0] for room, of_all in generations.items()}
        counted = counter.count(partial(advance, rooms))
    return None if counted is None else counted / (3 * _WRITTEN)


def calls(ranks: Sequence[int], rounds: int) -> Section:
    """The longest call of each kind on a private server, by its SLOWLOG."""
    title = f"The longest call on the server, {ROOMS:,} rooms of several ranks"
    section = Section("rank_calls", title, "milliseconds", ours="median")
    with EmbeddedServer() as server, redis.Redis(unix_socket_path=str(server.socket), protocol=3) as client:
        client.config_set("slowlog-log-slower-than", _SHORT)
        client.config_set("slowlog-max-len", _LOGGED)
        for world_size in ranks:
            found: dict[str, list[float]] = {}
            for _ in range(rounds):
                client.execute_command("FLUSHALL", "SYNC")  # else memory is freed during the calls
                with StatusStore.from_url(server.url, rank=0, world_size=world_size) as store:
                    for name, call in _kinds(client, store, world_size).items():
                        client.slowlog_reset()
                        call()
                        found.setdefault(name, []).append(_longest(client))
            for name, longest in found.items():
                spread = Spread.of(longest)
                kind = f"{name}, {world_size:,} ranks"
                section.rows.append(Row(kind, "", "ms", spread.median, None, spread, CALL_BUDGET))
    return section


def _kinds(client: redis.Redis, store: StatusStore, world_size: int) -> dict[str, Callable[[], object]]:
    """Fill the table, and return calls for all its rooms, to be made in this order."""
    rooms = [10**18 + number for number in range(ROOMS)]
    store.update_many(dict.fromkeys(rooms, KVPoll.WaitingForInput))
    _fill(client, "default", rooms, world_size, KVPoll.WaitingForInput)

    def open_mirror() -> None:
        with store.mirror() as mirror:
            wait_until(lambda: mirror.synced, _SYNC_SECONDS)

    return {
        "a mirror's start": open_mirror,
        "consensus": partial(store.consensus, rooms),
        "update_many": partial(store.update_many, dict.fromkeys(rooms, KVPoll.Transferring)),
        "touch": partial(store.touch, rooms),
        "abort of one room": partial(store.abort, rooms[0]),
        "clear_many": partial(store.clear_many, rooms),
    }


def _longest(client: redis.Redis) -> float:
    """Return the milliseconds of the longest script since SLOWLOG was reset. The reset is in it, too, but not ours."""
    scripts = [entry for entry in client.slowlog_get(_LOGGED) if entry["command"].startswith(b"EVAL")]
    microseconds: int = max((entry["duration"] for entry in scripts), default=_SHORT)
    return microseconds / 1000


def _fill(
    client: redis.Redis, namespace: str, rooms: list[int], world_size: int, status: KVPoll = KVPoll.Transferring
) -> None:
    """Give each rank of the rooms, which are there, a status and an owner."""
    counts = [0] * 6  # Bootstrapping, WaitingForInput, Transferring, Success, Failed, cleared
    counts[status - 1] = world_size
    fields: dict[Any, Any] = {"status": status.name, "counts": " ".join(map(str, counts))}
    for rank in range(world_size):
        fields |= {f"status:{rank}": status.name, f"by:{rank}": str(_HOLDER + rank)}
    for room_keys in (rooms[at : at + 50] for at in range(0, len(rooms), 50)):
        with client.pipeline(transaction=False) as pipe:
            for key in keys.rooms(namespace, room_keys):
                pipe.hset(key, mapping=fields)
            pipe.execute()
