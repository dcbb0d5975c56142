"""Stores that speak for several ranks of one room, over the real Recovery and the real scripts.

The worlds of recovery_explorer.py, in which a rank takes the place of a room: each is opened, written and cleared by
itself, or with others in one call, and the invariants hold for each.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

from redis_kvpoll import KVPoll, Outcome, Update
from redis_kvpoll.engine.rank_group import RankGroup
from redis_kvpoll.engine.recovery.recovery import Recovery
from redis_kvpoll.engine.recovery.tracked_state import TrackedRoom
from redis_kvpoll.errors import KVPollError
from redis_kvpoll.protocol import fenced_commands
from redis_kvpoll.protocol.rank_commands import RankChange, RankIdentity, write_ranks
from redis_kvpoll.protocol.replies import OpenedRoom
from redis_kvpoll.protocol.script_call import Call, CallContext, Command
from tests.model import recovery_explorer, recovery_settings, recovery_store
from tests.model.breadth_first import Report
from tests.model.canonical import short
from tests.model.loss_server import has_ended
from tests.model.recovery_explorer import RecoveryExplorer, Step, Store, World, _identity, _name
from tests.model.recovery_server import Change, Server, Servers
from tests.model.recovery_settings import MORE
from tests.model.recovery_store import Facts, Recoveries, StubSession, Told
from tests.model.steps import BrokenError
from tests.model.table import ROOM, ROOM_KEY

STATUSES = {status.name.encode(): int(status) for status in KVPoll}


def _joined_without_opening(_: RankGroup, __: RankChange, known: TrackedRoom, answer: Any) -> OpenedRoom:
    """Leaves the rank attached."""
    return OpenedRoom(answer.outcome, answer.status, known.generation, known.request)


@dataclass(frozen=True)
class Setting(recovery_settings.Setting):
    """``ranks``: those that each store speaks for. Of a store with one, it is the store's own."""

    ranks: tuple[tuple[int, ...], ...] = ((0, 1),)
    openers: int = 3
    """Ranks from this one on only write what others have opened."""

    @property
    def world_size(self) -> int:
        return sum(map(len, self.ranks))


_BESIDE = ((0, 1), (2,))
"""A group of two, and a store of one rank."""
GROUPS = {
    "a lost reply": Setting(lost=1, ops=4 + MORE),
    "beside a rank, a lost reply": Setting(ranks=_BESIDE, lost=1, ops=3 + MORE),
    "one opens": Setting(ranks=_BESIDE, openers=1, lost=1, ops=4 + MORE),
    "ids used again": Setting(behind=True, ops=4 + MORE),
    "trimmed feed": Setting(trims=1, ops=3 + MORE),
    "back to a former server": Setting(returns=1, ops=3 + MORE),
    "before a clear": Setting(ranks=_BESIDE, clears_first=True, ops=3 + MORE),
}
# What breaks without a part of it: (the part, its replacement, the setting, the violation)
PARTS: list[tuple[str, Any, Setting, str]] = [
    ("recovery.members:Members.server_changed", lambda *_: 0, GROUPS["a lost reply"], "is not there again"),
    ("rank_group:RankGroup.joined", _joined_without_opening, GROUPS["beside a rank, a lost reply"], "not there again"),
]


class RankServers(Servers):
    """Servers of one room with ranks."""

    def room(self, server: Server, rank: int) -> tuple[int, int] | None:
        for kept in self._states[server.states[-1]]:
            if kept.key == ROOM_KEY:
                fields = dict(kept.value)
                status = fields.get(b"status:%d" % rank)
                return (int(fields[b"generation"]), STATUSES[status]) if status else None
        return None


class GroupExplorer(RecoveryExplorer):
    """The worlds of one setting."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(replace(setting, rooms=setting.world_size))
        self.ranks, self.openers = setting.ranks, setting.openers
        self._identities = [RankIdentity(rank, setting.world_size) for rank in range(setting.world_size)]
        self._recoveries = Recoveries(_facts)
        self._servers = RankServers(61 if setting.is_slow else 1, setting.behind)
        self._servers.mutated = {script: (good, bad) for script, good, bad in setting.mutated}
        self._sessions = [self._session_of(ranks) for ranks in setting.ranks]

    def _session_of(self, ranks: tuple[int, ...]) -> StubSession:
        words = (str(ranks[0]), str(len(self._identities))) if len(ranks) == 1 else ("", "")
        return StubSession(self.setting.feed_length, *words)

    def start(self) -> World:
        s = self.setting
        stores = []
        for ranks, session in zip(self.ranks, self._sessions, strict=True):
            recovery = Recovery(session)  # type: ignore[arg-type]
            for rank in ranks if len(ranks) > 1 else ():
                self._group(recovery, session).member(rank, len(self._identities)).join()
            stores.append(Store(0, self._recoveries.number(recovery), (None,) * len(self._identities)))
        first = self._servers.first(self._session.context)
        return World((first,), tuple(stores), 1, s.ops, s.failovers, s.trims, s.lost, s.returns, s.late)

    def _group(self, recovery: Recovery, session: StubSession) -> RankGroup:
        return RankGroup(SimpleNamespace(session=session, recovery=recovery, deadline=0.0))  # type: ignore[arg-type]

    # Stores

    def _recover_in_steps(self, world: World, number: int) -> list[Step]:
        """What awaits its creator comes first again after each interruption: so also all at once."""
        clears: list[Call | None] = [None]
        store = world.stores[number]
        for rank in self.ranks[number] if self.setting.clears_first else ():
            if store.told[rank]:
                command: Command[Any, Any] = self._command(store, number, [rank], "clear")
                clears += command.calls(self._sessions[number].context)
        return [self._recover(world, number, 0.0, is_whole, clear) for clear in clears for is_whole in (False, True)]

    def _operations(self, world: World, number: int) -> Iterator[Step]:
        store, ranks = world.stores[number], self.ranks[number]
        world = world._replace(ops=world.ops - 1)
        awaiting = self._recoveries.facts[store.recovery].awaiting
        free = [rank for rank in ranks if rank not in awaiting]
        for rank in free:
            told = store.told[rank]
            if told is None and rank < self.openers:
                yield self._open(world, number, rank)
            elif told is None:
                yield from self._attach(world, number, rank)
            else:
                yield self._write(world, number, [rank], "update")
                yield self._write(world, number, [rank], "clear")
        for rank in set(ranks).difference(free) if self.setting.clears_first else ():
            if (told := store.told[rank]) and told.creator:  # the clear that was held back
                yield self._write(world, number, [rank], "clear")
        if (
            len({told.generation for rank in free if (told := store.told[rank])})
            == 1
            < sum(store.told[rank] is not None for rank in free)
        ):
            yield self._write(world, number, [rank for rank in free if store.told[rank]], "update")
            yield self._write(world, number, [rank for rank in free if store.told[rank]], "clear")

    def _open(self, world: World, number: int, rank: int) -> Step:
        """By the way of the group: by a write where another of its ranks has opened the room."""
        store = world.stores[number]
        recovery, session = self._recoveries.thaw(store.recovery), self._sessions[number]
        identity = self._identities[rank]
        if not recovery.members:
            seen = recovery.tracked_rooms.highest_generation
            return self._opened(world, number, rank, recovery, seen, session.context)
        group = self._group(recovery, session)
        known = group.opened_by_another(ROOM, "a", identity)
        if known is None:
            seen = max(rooms.highest_generation for rooms in recovery.members.all_tracked)
            return self._opened(
                world, number, rank, recovery, seen, recovery.members[identity].context(session.context)
            )
        change = RankChange(ROOM, identity, known.generation, KVPoll.Bootstrapping)
        after, (answer,) = self._carry_out(world, number, recovery, write_ranks([change]), session.context)
        opened = group.joined(change, known, answer)
        return self._after_opening(after, number, rank, recovery, opened, "joins")

    def _opened(
        self, world: World, number: int, rank: int, recovery: Recovery, seen: int, context: CallContext
    ) -> Step:
        command = fenced_commands.open(ROOM, "a", KVPoll.Bootstrapping, seen)
        after, value = self._carry_out(world, number, recovery, command, context)
        return self._after_opening(after, number, rank, recovery, value, "opens")

    def _after_opening(self, world: World, number: int, rank: int, recovery: Recovery, value: Any, what: str) -> Step:
        generation, status = getattr(value, "generation", 0), getattr(value, "status", None)
        told = Told(generation, int(status), True) if generation and status is not None else None
        text = short(f"{_name(number)} on S{world.stores[number].server}: {rank} {what} -> {value}")
        return self._learnt(world, number, recovery, {rank: told}), text

    def _attach(self, world: World, number: int, rank: int) -> Iterator[Step]:
        """A rank that writes what another of its store has opened, and never opens."""
        store = world.stores[number]
        opened = [told for told in store.told if told]
        if opened:
            recovery = self._recoveries.thaw(store.recovery)
            change = RankChange(ROOM, self._identities[rank], opened[0].generation, KVPoll.WaitingForInput)
            context = self._sessions[number].context
            after, (answer,) = self._carry_out(world, number, recovery, write_ranks([change]), context)
            is_done = isinstance(answer, Update) and answer.outcome not in (Outcome.STALE, Outcome.SKIPPED)
            told = Told(opened[0].generation, int(answer.status), False) if is_done else None
            text = short(f"{_name(number)} on S{store.server}: {rank} attaches -> {answer}")
            yield self._learnt(after, number, recovery, {rank: told}), text

    def _write(self, world: World, number: int, ranks: list[int], name: str) -> Step:
        store = world.stores[number]
        recovery, context = self._recoveries.thaw(store.recovery), self._sessions[number].context
        after, answers = self._carry_out(world, number, recovery, self._command(store, number, ranks, name), context)
        if not recovery.members:
            answers = [answers]
        text = short(f"{_name(number)} on S{store.server}: {name} {ranks} -> {answers}")
        learnt: dict[int, Told | None] = {}
        for rank, answer in zip(ranks, answers, strict=True):
            was = store.told[rank]
            assert was is not None
            is_over = name == "clear" or answer.outcome is Outcome.STALE
            learnt[rank] = None if is_over else was._replace(status=int(answer.status))
            if is_over and name == "update" and (lost := self._lost(was, rank, world.servers[store.server])):
                raise BrokenError(f"{text}: it {lost}")
        return self._learnt(after, number, recovery, learnt), text

    def _command(self, store: Store, number: int, ranks: list[int], name: str) -> Command[Any, Any]:
        changes = [self._change(store, rank, name) for rank in ranks]
        if len(self.ranks[number]) > 1:
            return write_ranks(changes)
        if name == "clear":
            return fenced_commands.clear(ROOM, changes[0].generation)
        return fenced_commands.update(ROOM, changes[0].generation, KVPoll.Transferring)

    def _change(self, store: Store, rank: int, name: str) -> RankChange:
        told = store.told[rank]
        assert told is not None
        if name == "clear":
            return RankChange(ROOM, self._identities[rank], told.generation, clears=True)
        return RankChange(ROOM, self._identities[rank], told.generation, KVPoll.Transferring)

    def _carry_out(
        self, world: World, number: int, recovery: Recovery, command: Command[Any, Any], context: CallContext
    ) -> tuple[World, Any]:
        store = world.stores[number]
        call = recovery_store.sent(recovery, command, context)
        self._servers.load(world.servers[store.server], world.now)
        outcomes = recovery.accept_reply(call, _identity(store.server), (), self._servers.run(call))
        assert outcomes is not None, "no epoch is lost in this model"
        after = self._changed(world, store.server)
        try:
            return after, command.finish(call.rooms, command.decode(command.operation, call.rooms, list(outcomes)))
        except KVPollError as error:
            return after, error

    def _learnt(self, world: World, number: int, recovery: Recovery, learnt: dict[int, Told | None]) -> World:
        store = world.stores[number]
        told = tuple(learnt.get(rank, told) for rank, told in enumerate(store.told))
        return self._with_store(world, number, store._replace(told=told), self._recoveries.number(recovery))

    def _is_over(self, history: list[Change], room: int, generation: int) -> bool:
        """A generation is over for all ranks once a later one was here, or nothing is left of it."""
        ours = [change for change in history if change.generation == generation]
        left = {change.room: change.status for change in ours}
        is_gone = bool(left) and not any(left.values())
        return is_gone or has_ended(ours, room, generation) or any(change.generation > generation for change in history)

    def _awaits(self, recovery: int, rank: int) -> bool:
        return rank in self._recoveries.facts[recovery].awaiting


def explore(setting: Setting, most: int | None = None) -> Report:
    return recovery_explorer.explore(setting, most, GroupExplorer)


def _facts(store: Recovery) -> Facts:
    """``awaiting`` has ranks."""
    facts = recovery_store.facts_of(store)
    if not store.members:
        return facts._replace(awaiting=frozenset(range(8)) if facts.awaiting else frozenset())  # it has one, whichever
    awaiting = {one.rank for one, member in store.members.items() if member.tracked_rooms.awaits_creator(ROOM)}
    has_awaiting = any(member.tracked_rooms.awaiting_shards for member in store.members.values())
    return facts._replace(awaiting=frozenset(awaiting), has_awaiting=has_awaiting)
