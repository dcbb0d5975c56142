"""Eight ranks in eight processes: their consensus by the table, by a collective and by SGLang's own store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from random import Random

from bench.ground import Ground
from bench.measure import SelfTimed, Spread, Times, interleave, ratio
from bench.results import Budget, Row, Section, compare
from bench.sglang.moments import soon
from bench.sglang.processes import WorkerProcess, call_all
from redis_kvpoll import KVPoll

OURS, THEIRS = "plugin", "PPConsensusStore"
SEEN_BUDGET = Budget(1.5)
_SOME = (KVPoll.WaitingForInput, KVPoll.Transferring, KVPoll.Success)


def measure(
    ground: Ground, workers: list[WorkerProcess], sizes: tuple[int, ...], rounds: int, changes: int
) -> list[Section]:
    count, last = len(workers), len(workers) - 1
    agreed = Section(
        "sglang_consensus",
        f"Until all of {count} ranks, in {count} processes, know the least of their statuses",
        "ours / theirs",
    )
    collected = Section(
        "sglang_collect", f"collect of {count} ranks on rank 0, a room", "ours / theirs", theirs="SGLang's"
    )
    seen = Section(
        "sglang_seen", f"From a write on rank {last} until rank 0 collects it", "ours / theirs", theirs="SGLang's"
    )
    ranks = Ranks(ground, workers)
    for size in sizes:
        ranks.assign("hold", size)
        name, against = f"{size:,} rooms", "gloo all_reduce"
        times = ranks.agreeing(size, rounds)
        agreed.rows.append(compare(f"collect of each, {name}", "collect", against, "gloo", times))
        agreed.rows.append(compare(f"consensus, {name}", "read", against, "gloo", times))
        agreed.rows.append(compare(f"update_many, then consensus, {name}", "write_and_read", against, "gloo", times))
        times = workers[0].call("collects", rounds)
        collected.rows.append(compare(f"collect, {name}", OURS, THEIRS, THEIRS, times))
        call_all(workers, "release")
    seen.rows.append(ranks.seeing(changes))
    return [agreed, collected, seen]


class Ranks:
    """All ranks, which run each command together."""

    def __init__(self, ground: Ground, workers: list[WorkerProcess]) -> None:
        self._ground = ground
        self._workers = workers
        self._random = Random(5)  # noqa: S311 - statuses

    def assign(
        self, command: str, count: int, statuses: Sequence[KVPoll] = _SOME, is_written: bool = False
    ) -> list[int]:
        """Give every rank new rooms, each with statuses of its own."""
        rooms = self._ground.ids(count)
        own = [[int(self._random.choice(statuses)) for _ in rooms] for _ in self._workers]
        if command == "hold":
            call_all(self._workers, "enter", rooms)
        least = [min(some) for some in zip(*own, strict=True)]
        for worker, some in zip(self._workers, own, strict=True):
            worker.send(command, rooms, some, least)
        for worker in self._workers:
            worker.receive()
        if is_written:
            call_all(self._workers, "write")
        return rooms

    def agreeing(self, count: int, rounds: int) -> Times:
        """Time from all ranks' common start until the last has the consensus; ``collect`` reads local copies."""

        def new(is_written: bool) -> Callable[[], object]:
            return lambda: self.assign("load", count, is_written=is_written)

        contenders = [
            SelfTimed("gloo", partial(self._agree, "gloo"), 1, new(False)),
            SelfTimed("read", partial(self._agree, "read"), 1, new(True)),
            SelfTimed("write_and_read", partial(self._agree, "write_and_read"), 1, new(False)),
            SelfTimed("collect", partial(self._agree, "collect"), 1),
        ]
        return interleave(contenders, rounds)

    def _agree(self, how: str) -> float:
        seconds: list[float] = call_all(self._workers, "agree", how, soon())
        return max(seconds)

    def seeing(self, changes: int) -> Row:
        """Time one change after the other, by both ways in turn."""
        last = len(self._workers) - 1
        first, writer = self._workers[0], self._workers[last]
        delays: dict[str, list[float]] = {OURS: [], THEIRS: []}
        for number, room in enumerate(self.assign("hold", changes, (KVPoll.WaitingForInput,))):
            for how in sorted(delays, reverse=number % 2 == 0):
                first.send("see", how, room, last, int(KVPoll.Transferring))
                written = writer.call("put_at", how, room, int(KVPoll.Transferring), soon())
                delays[how].append((first.receive() - written) * 1000)
        call_all(self._workers, "release")
        ours, theirs = (Spread.of(delays[how]).median for how in (OURS, THEIRS))
        figure = ratio(delays[OURS], delays[THEIRS])
        return Row("seen on rank 0", THEIRS, "ms", ours, theirs, figure, SEEN_BUDGET)
