"""The whole public interface as a type checker sees it. Not a test by itself: test_wheel.py runs mypy on it."""

from collections.abc import AsyncIterator, Iterator
from typing import Literal, assert_type

import redis
import redis.asyncio

from redis_kvpoll import (
    AsyncFailures,
    AsyncLease,
    AsyncMirror,
    AsyncRoom,
    AsyncStatistics,
    AsyncStatusStore,
    Change,
    Consensus,
    CorruptEntryError,
    Entry,
    Failures,
    FeedGap,
    FeedOffError,
    InvalidInputError,
    KVPoll,
    KVPollError,
    KVTransferError,
    Lease,
    LeaseLostError,
    Mirror,
    NamespaceMismatchError,
    Outcome,
    OutcomeUnknownError,
    Owner,
    Room,
    RoomBusyError,
    RoomFailure,
    RoomNotFoundError,
    RoomRow,
    Settings,
    Snapshot,
    Statistics,
    StatusStore,
    StoreUnavailableError,
    Update,
    WorldSizeMismatchError,
)


def making() -> None:
    StatusStore(redis.Redis())
    StatusStore(redis.Redis(), namespace="a", ttl=1, terminal_ttl=1.5, deadline=5, policy="strict", mode=None, shards=3)
    AsyncStatusStore(redis.asyncio.Redis(), policy=None, mode="prefill", feed_length=0, rank=0, world_size=2)
    assert_type(StatusStore.from_url("memory://", namespace="a", ttl=1, policy="compat", shards=None), StatusStore)
    assert_type(AsyncStatusStore.from_url("memory://", deadline=1), AsyncStatusStore)
    assert_type(StatusStore.from_url("memory://", rank=1, world_size=2), StatusStore)


def blocking(store: StatusStore) -> None:
    assert_type(store.update_status(1, KVPoll.Success), Update)
    assert_type(store.update_status(1, 4), Update)
    assert_type(store.update_many({1: KVPoll.Success, 2: KVPoll.Failed}), dict[int, Update])
    assert_type(store.update_many({1: 4}), dict[int, Update])
    assert_type(store.abort(1), Update)
    assert_type(store.abort(1, "why").outcome, Outcome)
    assert_type(store.abort(1, reason="why").status, KVPoll | None)
    assert_type(store.abort(1).changed, bool)
    assert_type(store.record_failure(1, "why"), bool)
    assert_type(store.touch({1, 2}), int)
    store.set_decode_prefix_len(1, 7)
    assert_type(store.pop_decode_prefix_len(1), int)
    assert_type(store.clear(1), KVPoll | None)
    assert_type(store.clear_many(iter([1])), dict[int, KVPoll | None])
    assert_type(store.check_status(1), KVPoll)
    assert_type(store.get(1), KVPoll | None)
    assert_type(store.get(1, None), KVPoll | None)
    assert_type(store.get(1, "gone"), KVPoll | str)
    assert_type(store.get(1, default=KVPoll.Failed), KVPoll)
    assert_type(store.poll(range(3)), list[KVPoll | None])
    assert_type(store.failure_reason(1), str | None)
    assert_type(store.rooms(), Iterator[int])
    assert_type(store.rooms(KVPoll.Failed), Iterator[int])
    assert_type(store.rows(KVPoll.Failed), Iterator[RoomRow])
    assert_type(store.entries([1, 2]), dict[int, Entry | CorruptEntryError])
    assert_type(store.counts(), dict[KVPoll, int])
    assert_type(store.settings(), Settings | None)
    assert_type(store.history(1), list[Change])
    assert_type(store.rows(KVPoll.Failed), Iterator[RoomRow])
    assert_type(store.entries([1, 2]), dict[int, Entry | CorruptEntryError])
    with store.statistics(stuck_after=60, lookback=300, share=0.1) as statistics:
        assert_type(statistics, Statistics)
        assert_type(statistics.wait_synced(timeout=5), Snapshot)
        assert_type(statistics.snapshot().counts[KVPoll.Failed], int)
        assert_type(statistics.seconds(60)[0].opened, int)
        assert_type(statistics.rooms([KVPoll.Failed], longer_than=1, owner="p", limit=5), list[RoomRow])
        assert_type(statistics.count([KVPoll.Failed], longer_than=1), int)
        assert_type(statistics.latest(KVPoll.Failed, limit=5), list[RoomRow])
    assert_type(store.tail(), Iterator[Change | FeedGap])
    assert_type(store.tail(last=5), Iterator[Change | FeedGap])
    with store as same:
        assert_type(same, StatusStore)
    assert_type(store.entry(1), Entry | None)
    assert_type(store.consensus({1, 2}), list[Consensus])
    assert_type(store.collect(1), dict[int, KVPoll])
    with store.lease("prefill-0", ttl=5, heartbeat=0.5) as lease:
        assert_type(lease, Lease)
        assert_type((lease.name, lease.incarnation, lease.lost), tuple[str, int, bool])
        assert_type((lease.ttl, lease.heartbeat), tuple[float, float])
        lease.check()
    assert_type(store.reap(), int)
    assert_type(store.owners(), list[Owner])
    store.close()


def handles(store: StatusStore) -> None:
    assert_type(store.open(1, request="rid", status=KVPoll.WaitingForInput), Room)
    assert_type(store.attach(1), Room)
    with store.open(1) as room:
        assert_type(room, Room)
        assert_type(store.attach(room), Room)
        assert_type((room.id, room.generation, room.namespace), tuple[int, int, str])
        assert_type(room.request, str | None)
        assert_type(room.status(), KVPoll | None)
        assert_type(room.update(KVPoll.Transferring), Update)
        assert_type(room.update(3), Update)
        assert_type(room.fail("why"), Update)
        assert_type(room.set_decode_prefix_len(7), bool)
        assert_type(room.decode_prefix_len(), int)
        assert_type(room.clear(), Update)
        room.generation = 7  # type: ignore[misc]
    store.attach("1")  # type: ignore[arg-type]
    store.open(1, status="Bootstrapping")  # type: ignore[arg-type]
    store.open(1, 7)  # type: ignore[arg-type]


async def awaited_handles(store: AsyncStatusStore, elsewhere: Room) -> None:
    assert_type(await store.open(1, "rid"), AsyncRoom)
    assert_type(await store.attach(1), AsyncRoom)
    assert_type(await store.attach(elsewhere), AsyncRoom)
    async with await store.open(1) as room:
        assert_type(room, AsyncRoom)
        assert_type((room.id, room.generation), tuple[int, int])
        assert_type(await room.status(), KVPoll | None)
        assert_type(await room.update(3), Update)
        assert_type(await room.fail("why"), Update)
        assert_type(await room.set_decode_prefix_len(7), bool)
        assert_type(await room.decode_prefix_len(), int)
        assert_type(await room.clear(), Update)


def expected_settings(consensus: Consensus, owner: Owner) -> None:
    assert_type(consensus.status, KVPoll | None)
    assert_type((consensus.generation, consensus.version), tuple[int, int])
    assert_type((owner.name, owner.incarnation, owner.rooms, owner.reason), tuple[str, int, int, str])
    assert_type((owner.ttl, owner.heartbeat, owner.last_heartbeat_at, owner.since), tuple[float, float, float, float])
    assert_type(owner.state, Literal["alive", "expired", "suspected", "lost"])
    owner.name = "other"  # type: ignore[misc]


def entry(entry: Entry | None) -> None:
    assert entry
    assert_type((entry.room, entry.status, entry.ttl), tuple[int, KVPoll, float])
    assert_type((entry.reason, entry.decode_prefix_len), tuple[str | None, int | None])
    assert_type((entry.generation, entry.world_size), tuple[int | None, int | None])
    assert_type((entry.owner, entry.request, entry.failed_by), tuple[str | None, str | None, str | None])
    assert_type((entry.ranks[0], entry.cleared), tuple[KVPoll, frozenset[int]])
    entry.status = KVPoll.Failed  # type: ignore[misc]


def change(change: Change | FeedGap) -> None:
    if isinstance(change, FeedGap):
        assert_type((change.after, change.before), tuple[str, str | None])
    else:
        assert_type((change.id, change.at, change.room), tuple[str, float, int])
        assert_type((change.status, change.reason, change.ttl), tuple[KVPoll | None, str | None, float | None])


def mistakes(store: StatusStore) -> None:
    store.get("1")  # type: ignore[call-overload]
    store.update_status(1, "Success")  # type: ignore[arg-type]
    store.poll([None])  # type: ignore[list-item]
    store.abort(1, None)  # type: ignore[arg-type]
    StatusStore(redis.Redis(), policy="lax")  # type: ignore[arg-type]
    StatusStore(redis.asyncio.Redis())  # type: ignore[arg-type]
    StatusStore.from_url("memory://", time_to_live=1)  # type: ignore[call-arg]


def errors(store: StatusStore) -> int:
    try:
        store.failure_exception(1)
    except KVTransferError as error:
        assert_type((error.room, error.reason), tuple[int, str])
    except RoomNotFoundError as error:
        assert_type(error.room, int)
    except NamespaceMismatchError as error:
        assert_type((error.setting, error.ours, error.theirs), tuple[str, str | None, str])
    except RoomBusyError as error:
        assert_type((error.room, error.status, error.age), tuple[int, KVPoll | None, float])
        assert_type((error.owner, error.request), tuple[str | None, str | None])
    except WorldSizeMismatchError as error:
        assert_type((error.room, error.theirs), tuple[int, str])
    except LeaseLostError as error:
        assert_type((error.operation, error.owner), tuple[str, str])
    except FeedOffError as error:
        assert_type(error.namespace, str)
    except (InvalidInputError, OutcomeUnknownError, StoreUnavailableError) as error:
        base: KVPollError = error
        raise base from None
    return 0


def never_returns(store: StatusStore) -> int:
    store.failure_exception(1)


async def awaited(store: AsyncStatusStore) -> None:
    assert_type(await store.update_status(1, 4), Update)
    assert_type(await store.update_many({1: KVPoll.Success}), dict[int, Update])
    assert_type(await store.abort(1, "why"), Update)
    assert_type(await store.record_failure(1, "why"), bool)
    assert_type(await store.touch([1]), int)
    await store.set_decode_prefix_len(1, 7)
    assert_type(await store.pop_decode_prefix_len(1), int)
    assert_type(await store.clear(1), KVPoll | None)
    assert_type(await store.clear_many([1]), dict[int, KVPoll | None])
    assert_type(await store.check_status(1), KVPoll)
    assert_type(await store.get(1), KVPoll | None)
    assert_type(await store.get(1, 0), KVPoll | int)
    assert_type(await store.poll([1]), list[KVPoll | None])
    assert_type(await store.failure_reason(1), str | None)
    assert_type(await store.entry(1), Entry | None)
    assert_type(await store.consensus([1]), list[Consensus])
    assert_type(await store.collect(1), dict[int, KVPoll])
    assert_type(store.rooms(4), AsyncIterator[int])
    assert_type([room async for room in store.rooms()], list[int])
    assert_type(await store.counts(), dict[KVPoll, int])
    assert_type(await store.settings(), Settings | None)
    assert_type(await store.history(1), list[Change])
    assert_type(store.rows(), AsyncIterator[RoomRow])
    assert_type(await store.entries({1}), dict[int, Entry | CorruptEntryError])
    async with store.statistics() as statistics:
        assert_type(statistics, AsyncStatistics)
        assert_type(await statistics.wait_synced(), Snapshot)
    assert_type(store.tail(5), AsyncIterator[Change | FeedGap])
    async with store as same:
        assert_type(same, AsyncStatusStore)
    async with store.lease("prefill-0") as lease:
        assert_type(lease, AsyncLease)
    assert_type(await store.reap(), int)
    assert_type(await store.owners(), list[Owner])
    await store.aclose()
    await store.get("1")  # type: ignore[call-overload]
    await store.failure_exception(1)


def mirrors(store: StatusStore, other: AsyncStatusStore) -> None:
    assert_type(store.mirror(), Mirror)
    assert_type(store.mirror(rooms=lambda room: room > 7), Mirror)
    assert_type(store.mirror(period=0.5), Mirror)
    assert_type(store.wait(1, KVPoll.Success, 0, timeout=3), KVPoll)
    with store.mirror() as mirror:
        assert_type(mirror.get(1), KVPoll | None)
        assert_type(mirror.get(1, "gone"), KVPoll | str)
        assert_type(mirror.poll([1, 2]), list[KVPoll | None])
        assert_type(mirror.consensus([1, 2]), dict[int, KVPoll | None])
        assert_type(mirror.collect(1), dict[int, KVPoll])
        assert_type(mirror.failure_reason(1), str | None)
        assert_type(mirror.wait(1, 3, timeout=None), KVPoll)
        assert_type(mirror.synced, bool)
        assert_type(mirror.lag, float)
        mirror.on_change(lambda room, status: None)()
    assert_type(other.mirror(), AsyncMirror)


def failures(store: StatusStore, other: AsyncStatusStore) -> None:
    assert_type(store.failures(lambda: [1, 2]), Failures)
    with store.failures(rooms=set) as failures:
        assert_type(failures.get(1), RoomFailure | None)
        assert_type(failures.synced, bool)
        assert_type(failures.lag, float)
        failures.on_failure(lambda failure: failure.reason)()
        failures.close()
    assert_type(other.failures(list), AsyncFailures)


async def awaited_failures(store: AsyncStatusStore) -> None:
    async with store.failures(list) as failures:
        assert_type(failures.get(1), RoomFailure | None)
        await failures.aclose()


async def awaited_mirrors(store: AsyncStatusStore) -> None:
    assert_type(await store.wait(1, timeout=1.5), KVPoll)
    async with store.mirror() as mirror:
        assert_type(mirror.get(1), KVPoll | None)
        assert_type(mirror.consensus([1]), dict[int, KVPoll | None])
        assert_type(mirror.collect(1), dict[int, KVPoll])
        assert_type(mirror.failure_reason(1), str | None)
        assert_type(await mirror.wait(1), KVPoll)
        await mirror.aclose()
