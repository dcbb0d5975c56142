"""In a process with SGLang: one rank, a stage of a prefill pipeline, with each way to know the other ranks."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.distributed
from sglang.srt.disaggregation.pp_consensus_store import PPConsensusStore
from sglang.srt.disaggregation.utils import all_reduce_flags
from sglang.srt.plugins import load_plugins

from bench.measure import Contender, Times, interleave
from bench.peers.way import wait_until
from bench.services import answers
from bench.sglang.moments import TIMEOUT_SECONDS, wait_for, wait_until_seen
from bench.sglang.processes import Job
from redis_kvpoll import KVPoll, StatusStore
from redis_kvpoll.integrations.sglang.maps import ConsensusMap
from tests.sglang.managers import HOST, CommonKVBootstrapServer, PrefillManager, Settings

OURS, THEIRS = "plugin", "PPConsensusStore"
_TIMES = 3


class Round(NamedTuple):
    """The rooms of one measurement."""

    rooms: list[int]
    own: list[int]
    """This rank's statuses."""
    least: list[int]
    """The least statuses of all ranks."""


class Worker:
    """One rank. Job: ``rank``, ``ranks``, ``ports`` (of the bootstrap server, and of the pipeline), ``environment``."""

    def __init__(self, job: Job) -> None:
        logging.basicConfig(level=logging.WARNING)
        rank, ranks, (port, pp_port) = job["rank"], job["ranks"], job["ports"]
        environment = job["environment"]
        os.environ.update(environment)
        load_plugins()
        if rank == 0:
            CommonKVBootstrapServer(HOST, port)
            wait_until(lambda: answers(port))
        settings = Settings("prefill", port, pp_size=ranks, pp_rank=rank, pp_port=pp_port)
        self._manager: Any = PrefillManager(settings)
        mine = self._manager.request_status
        if not isinstance(mine, ConsensusMap):
            raise TypeError(f"the plugin did not join: request_status is a {type(mine).__name__}")
        self._maps: dict[str, Any] = {
            OURS: mine,
            THEIRS: PPConsensusStore(pp_size=ranks, pp_rank=rank, pp_group=self._manager.pp_group),
        }
        self._rank = rank
        # A table of its own: the plugin's mirrors would follow what is written into its table.
        self._store = StatusStore.from_url(
            environment["KVPOLL_URL"],
            namespace=f"{environment['KVPOLL_NAMESPACE']}-ranks",
            policy="strict",
            rank=rank,
            world_size=ranks,
        )
        self._loaded = self._held = Round([], [], [])

    # Consensus of all ranks

    def load(self, rooms: list[int], own: list[int], least: list[int]) -> None:
        """Take the next rooms, and create them in the table."""
        if self._loaded.rooms:
            self._store.clear_many(self._loaded.rooms)
        self._loaded = Round(rooms, own, least)
        self._store.update_many(dict.fromkeys(rooms, KVPoll.Bootstrapping))

    def write(self) -> None:
        self._store.update_many(dict(zip(self._loaded.rooms, self._loaded.own, strict=True)))

    def enter(self, rooms: list[int]) -> None:
        """Open these rooms in this process's maps; return when they are published."""
        for room in rooms:
            self._maps[THEIRS][room] = KVPoll.Bootstrapping.value
            ours = self._maps[OURS]  # as by a sender: a room without one is not published
            ours.registry.claim_during(room, "", ours.__setitem__, room, KVPoll.Bootstrapping.value)
        wait_until(lambda: self._manager.kvpoll_worker.is_idle, TIMEOUT_SECONDS)

    def hold(self, rooms: list[int], own: list[int], least: list[int]) -> None:
        """Set their statuses; return when this process knows the other ranks', where it can."""
        self._held = Round(rooms, own, least)
        for table in self._maps.values():
            for room, status in zip(rooms, own, strict=True):
                table[room] = status
        for how, table in self._maps.items():
            if how == OURS or self._rank == 0:
                for room, status in zip(rooms, least, strict=True):
                    wait_until(partial(_is_agreed, table, room, status), TIMEOUT_SECONDS)

    def release(self) -> None:
        for table in self._maps.values():
            for room in self._held.rooms:
                table.pop(room, None)

    def agree(self, how: str, at: float) -> float:
        """Find the least status of all ranks for each room, starting at a moment; return the seconds since then."""
        wait_for(at)
        found = getattr(self, f"_{how}")()
        seconds = time.monotonic() - at
        least = self._held.least if how == "collect" else self._loaded.least
        if found != least:
            raise ValueError(f"{how}: {found[:5]} is not {least[:5]}")
        return seconds

    def _gloo(self) -> list[int]:
        """As SGLang does it."""
        return all_reduce_flags(self._loaded.own, torch.distributed.group.WORLD, torch.distributed.ReduceOp.MIN)  # type: ignore[no-any-return] # untyped here

    def _collect(self) -> list[int]:
        collect = self._maps[OURS].collect
        return [min(collect(room)) for room in self._held.rooms]

    def _read(self) -> list[int]:
        return self._read_some(self._loaded.rooms)

    def _write_and_read(self) -> list[int]:
        """Write, and read until all other ranks have written too."""
        self.write()
        found = dict.fromkeys(self._loaded.rooms, int(KVPoll.Bootstrapping))
        while missing := [room for room, status in found.items() if status == KVPoll.Bootstrapping]:
            found.update(zip(missing, self._read_some(missing), strict=True))
        return list(found.values())

    def _read_some(self, rooms: list[int]) -> list[int]:
        return [int(consensus.status or 0) for consensus in self._store.consensus(rooms)]

    # From a write on one rank until another one has it

    def put_at(self, how: str, room: int, status: int, at: float) -> float:
        """Write at a moment; return when that was."""
        wait_for(at)
        start = time.monotonic()
        self._maps[how][room] = status
        return start

    def see(self, how: str, room: int, rank: int, status: int) -> float:
        """Check until a rank has a status; return when that was."""
        table = self._maps[how]
        return wait_until_seen(lambda: table.collect(room)[rank] == status)

    def collects(self, rounds: int) -> Times:
        """Return the seconds of a collect, by each way."""

        def collecting(collect: Callable[[int], object]) -> Callable[[], None]:
            def run() -> None:
                for _ in range(_TIMES):
                    for room in self._held.rooms:
                        collect(room)

            return run

        units = len(self._held.rooms) * _TIMES
        contenders = [Contender(how, collecting(table.collect), units) for how, table in self._maps.items()]
        return interleave(contenders, rounds)


def _is_agreed(table: Any, room: int, status: int) -> bool:
    found = table.collect(room)
    return None not in found and min(found) == status
