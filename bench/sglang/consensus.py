"""Eight ranks in eight processes: what they agree on, beside a collective and beside SGLang's own store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from random import Random

from bench.ground import Ground
from bench.measure import SelfTimed, Spread, Times, interleave, ratio
from bench.results import Row, Section, compare
from bench.sglang.crew import Member, tell_all
from bench.sglang.moments import soon
from redis_kvpoll import KVPoll

OURS, THEIRS = "plugin", "PPConsensusStore"
_SOME = (KVPoll.WaitingForInput, KVPoll.Transferring, KVPoll.Success)


def measure(ground: Ground, members: list[Member], sizes: tuple[int, ...], rounds: int, changes: int) -> list[Section]:
    count, last = len(members), len(members) - 1
    agreed = Section(
        "sglang_consensus",
        f"Until all of {count} ranks, in {count} processes, know the least of their statuses",
        "ours / theirs",
    )
    collected = Section(
        "sglang_collect", f"collect of {count} ranks on rank 0, a room", "ours / theirs", theirs="SGLang's"
    )
    heard = Section(
        "sglang_heard", f"From a write on rank {last} until rank 0 collects it", "ours / theirs", theirs="SGLang's"
    )
    ranks = Ranks(ground, members)
    for size in sizes:
        ranks.give("hold", size)
        name, against = f"{size:,} rooms", "gloo all_reduce"
        times = ranks.agreeing(size, rounds)
        agreed.rows.append(compare(f"collect of each, {name}", "collect", against, "gloo", times))
        agreed.rows.append(compare(f"consensus, {name}", "read", against, "gloo", times))
        agreed.rows.append(compare(f"update_many, then consensus, {name}", "write_and_read", against, "gloo", times))
        times = members[0].do("collects", rounds)
        collected.rows.append(compare(f"collect, {name}", OURS, THEIRS, THEIRS, times))
        tell_all(members, "let_go")
    heard.rows.append(ranks.hearing(changes))
    return [agreed, collected, heard]


class Ranks:
    """All of them, told what to do together."""

    def __init__(self, ground: Ground, members: list[Member]) -> None:
        self._ground = ground
        self._members = members
        self._random = Random(5)  # noqa: S311 - statuses

    def give(self, order: str, count: int, statuses: Sequence[KVPoll] = _SOME, is_written: bool = False) -> list[int]:
        """So many new rooms, to each rank with statuses of its own."""
        rooms = self._ground.ids(count)
        own = [[int(self._random.choice(statuses)) for _ in rooms] for _ in self._members]
        if order == "hold":
            tell_all(self._members, "enter", rooms)
        least = [min(some) for some in zip(*own, strict=True)]
        for member, some in zip(self._members, own, strict=True):
            member.tell(order, rooms, some, least)
        for member in self._members:
            member.hear()
        if is_written:
            tell_all(self._members, "write")
        return rooms

    def agreeing(self, count: int, rounds: int) -> Times:
        """From all ranks' beginning at one moment until the last of them knows; ``collect`` is of what they hold."""

        def new(is_written: bool) -> Callable[[], object]:
            return lambda: self.give("load", count, is_written=is_written)

        contenders = [
            SelfTimed("gloo", partial(self._establish_context, "gloo"), 1, new(False)),
            SelfTimed("read", partial(self._establish_context, "read"), 1, new(True)),
            SelfTimed("write_and_read", partial(self._establish_context, "write_and_read"), 1, new(False)),
            SelfTimed("collect", partial(self._establish_context, "collect"), 1),
        ]
        return interleave(contenders, rounds)

    def _establish_context(self, how: str) -> float:
        seconds: list[float] = tell_all(self._members, "agree", how, soon())
        return max(seconds)

    def hearing(self, changes: int) -> Row:
        """Each change alone, by both ways in turn."""
        last = len(self._members) - 1
        first, writer = self._members[0], self._members[last]
        delays: dict[str, list[float]] = {OURS: [], THEIRS: []}
        for number, room in enumerate(self.give("hold", changes, (KVPoll.WaitingForInput,))):
            for how in sorted(delays, reverse=number % 2 == 0):
                first.tell("see", how, room, last, int(KVPoll.Transferring))
                written = writer.do("put_at", how, room, int(KVPoll.Transferring), soon())
                delays[how].append((first.hear() - written) * 1000)
        tell_all(self._members, "let_go")
        ours, theirs = (Spread.of(delays[how]).median for how in (OURS, THEIRS))
        return Row("seen on rank 0", THEIRS, "ms", ours, theirs, ratio(delays[OURS], delays[THEIRS]))
