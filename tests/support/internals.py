"""The insides of stores, mirrors and replicas, by name: the one module of the tests that reads private attributes.

A rename inside the package is followed here and nowhere else; tests/package/test_private_attributes.py holds that. To
reach something new, add a function named after what it returns.

A store or mirror may be wrapped (``Blocking``, ``Looped``): every function takes it either way.
"""

from __future__ import annotations

from collections.abc import Callable, Sized
from typing import Any

import pytest

from redis_kvpoll.aio.lease import AsyncLease
from redis_kvpoll.engine.effects import Send
from redis_kvpoll.protocol import scripts
from redis_kvpoll.sync import dispatcher
from redis_kvpoll.sync.lease import Lease
from redis_kvpoll.transport import embedded
from tests.support.blocking import Blocking


def inner(wrapped: Any) -> Any:
    """The library's own object."""
    return getattr(wrapped, "inner", wrapped)


# Of a store


def executor_of(store: Any) -> Any:
    return inner(store)._executor


def dispatcher_of(store: Any) -> Any:
    return inner(store)._dispatcher


def transport_of(store: Any) -> Any:
    return inner(store)._transport


def asked_last_for_slot_map(store: Any) -> int:
    """The port of the node that is asked when no other has answered."""
    (_, port), _ = transport_of(store)._cluster.sources_of_map()[-1]
    return port


def replace_transport(store: Any, transport: Any) -> None:
    inner(store)._transport = transport


def tracked_rooms_of(store: Any) -> Any:
    return executor_of(store).recovery.tracked_rooms


def context_of(store: Any) -> Any:
    """The settings that a store has agreed on with its server."""
    return executor_of(store).session.context


def run(store: Any, effects: Any) -> Any:
    """The result of a generator of effects, driven by the store's dispatcher."""
    answer = dispatcher_of(store).run(effects)
    return store.runner.run(answer) if isinstance(store, Blocking) else answer


def execute(store: Any, command: Any) -> Any:
    """The result of one command, sent as a method of the store would send it."""
    answer = inner(store)._run(command)
    return store.runner.run(answer) if isinstance(store, Blocking) else answer


def age_settings(store: Any, seconds: float) -> None:
    """Let the store check its settings so much earlier."""
    executor_of(store).session.valid_until -= seconds


def track_one_room(tracked_rooms: Any, tag: str, room: int, tracked: Any, *, awaits_creator: bool) -> None:
    """Make a room tracked without a reply that does it."""
    tracked_rooms.shards[tag] = {room: tracked}
    if awaits_creator:
        tracked_rooms._awaiting_creator[tag] = {room: "server"}


def state_of_recovery(recovery: Any) -> str:
    """All that a Recovery knows: two with the same text behave the same. Waits for creators are due from 0.05 s on."""
    texts = []
    for rooms in recovery.members.all_tracked:
        for tag in rooms.awaiting_shards:
            rooms.awaiting_shards[tag] = 0.05
        unmarked = {tag: found for tag, found in rooms.unmarked.items() if found}
        held = (rooms.shards, rooms._to_replay, rooms._awaiting_creator, unmarked, rooms.awaiting_shards)
        texts.append(f"{held} {rooms.highest_generation}")
    shards = {tag: (s.epoch, s.marks.all(), s.answer) for tag, s in recovery._shards.items()}
    return f"{texts} {shards} {recovery.servers} {sorted(recovery.unverified)}"


def verification_of(recovery: Any, tag: str) -> tuple[bool, bool]:
    """Whether a Recovery has to verify a shard before its next call, and whether it knows the shard at all."""
    return tag in recovery.unverified, tag in recovery._shards


def answers_of(store: Any) -> dict[str, Any]:
    """{shard: what a server said of it when another was verified; None if nothing, or its own verification used it}"""
    return {tag: shard.answer for tag, shard in executor_of(store).recovery._shards.items()}


def marks_of(store: Any, tag: str) -> Any:
    return executor_of(store).recovery._shards[tag].marks


# Of its dispatcher


def queues_of(store: Any) -> dict[str, Any]:
    """{tag: the queue of that shard}"""
    return dict(dispatcher_of(store)._queues)


def queue_of(store: Any, tag: str = "default") -> Any:
    return dispatcher_of(store)._queues[tag]


def dispatcher_lock_of(store: Any) -> Any:
    return dispatcher_of(store)._lock


def is_idle(store: Any) -> bool:
    """Whether no call of a blocking store is queued, under way or inside a thread."""
    free = all(queue.is_free and queue.next_sender is None for queue in queues_of(store).values())
    return free and not dispatcher_of(store)._threads_inside


def wake_next_sender(store: Any, queue: Any) -> None:
    dispatcher_of(store)._wake_next_sender(queue)


# Of its connections


def node_pool_of(store: Any) -> Any:
    return transport_of(store)._node_pool


def idle_connections_of(store: Any) -> list[Any]:
    return list(node_pool_of(store)._idle)


def pool_at(store: Any, port: int) -> Any:
    """The connections of a store to a node of its cluster."""
    return transport_of(store)._nodes.pool_at(("127.0.0.1", port))


def idle_connections_in(pool: Any) -> list[Any]:
    return list(pool._idle)


def socket_of(connection: Any) -> Any:
    """The socket of an asyncio connection of redis-py's."""
    return connection._writer.get_extra_info("socket")


def fill_write_buffer(connection: Any) -> None:
    """Let the next command of an asyncio connection wait until it is written, as behind a slow network."""
    connection._writer.transport.get_protocol().pause_writing()


def slot_map_of(store: Any) -> Any:
    """Which node of its cluster a store takes for the owner of a slot."""
    return transport_of(store)._nodes.slot_map


def known_server_of(store: Any) -> Any:
    """What the connections of a store have found of their server."""
    return node_pool_of(store)._known


def lost_connections_of(store: Any) -> int:
    return known_server_of(store).losses  # type: ignore[no-any-return]


def take_connection(store: Any) -> Any:
    """A connection of a blocking store, as a call would take it."""
    return node_pool_of(store)._connection(Send("", ()))


def give_back_connection(store: Any, connection: Any) -> None:
    node_pool_of(store)._give_back(connection)


# Of a lease


def make_touch_due(keeper: Any, seconds: float | None = None) -> None:
    """Let a lease's rooms be touched so many seconds earlier, or with the next heartbeat."""
    touches = keeper._touches
    touches.due_at = 0.0 if seconds is None else touches.due_at - seconds


def make_visit_due(keeper: Any) -> None:
    """Let the next heartbeat renew a lease in all shards."""
    keeper._visited = dict.fromkeys(keeper._visited, float("-inf"))


def rooms_to_touch(keeper: Any) -> Any:
    return keeper._touches.left


# Of a mirror, and of the waits of a store


def replica_of(watcher: Any) -> Any:
    """The local copy of a mirror, or the one behind ``store.wait``; None while there is none."""
    return waits_of(watcher)._replica


def waits_of(watcher: Any) -> Any:
    return getattr(inner(watcher), "_waits", inner(watcher))


def follower_threads_of(mirror: Any) -> list[Any]:
    """The threads of a blocking mirror that follow the feed."""
    return [follower._thread for follower in inner(mirror)._threads]


def read_once(follower: Any) -> Any:
    """The effects of one blocking read of the feed, by a follower whose replica is synced."""
    follower._continuity.start(follower._positions())
    return follower._read(block=True)


def follow_feed(follower: Any) -> Any:
    """The effects of following the feed, by a follower whose replica is synced."""
    follower._continuity.start(follower._positions())
    follower._follows = True
    return follower._follow()


def catch_up(follower: Any) -> Any:
    """The effects of a session's resync."""
    return follower._catch_up()


def wakeups_of(signal: Any) -> int:
    """How often a thread is to be woken."""
    return signal._wakeups.qsize()  # type: ignore[no-any-return]


def failures_session(follower: Any) -> Any:
    """The effects of a session of a follower of failures, after its settings were checked."""
    follower._mark_unsynced()
    follower._follows = False
    yield from follower._catch_up()
    follower._follows = True
    yield from follower._follow()


def feed_positions_of(follower: Any) -> Any:
    """{shard: how far a follower of statistics has read its feed}"""
    return follower._feeds.positions


# Of the replica of a shard


def sizes_of(shard: Any) -> dict[str, int]:
    """How much a copy keeps, by attribute."""
    return {name: len(kept) for name, kept in vars(shard).items() if isinstance(kept, Sized)}


def ids_of(shard: Any) -> dict[int, int]:
    """{room: the id of the newest entry that is known of it}"""
    return shard._ids  # type: ignore[no-any-return]


def statuses_of(shard: Any) -> dict[int, Any]:
    return shard._statuses  # type: ignore[no-any-return]


def ahead_of(shard: Any) -> list[tuple[int, int]]:
    """(id, room) of own writes that the feed has not come to."""
    return shard._ahead  # type: ignore[no-any-return]


def reasons_of(shard: Any) -> dict[int, Any]:
    return shard._reasons  # type: ignore[no-any-return]


def own_writes_of(shard: Any) -> dict[int, Any]:
    return shard._own_writes  # type: ignore[no-any-return]


def cleared_ranks_of(shard: Any) -> dict[int, set[int]]:
    return shard._cleared  # type: ignore[no-any-return]


def read_positions_of(shard: Any) -> dict[int, int]:
    """{room: the id up to which a read of the server speaks for it}"""
    return shard._read_ahead  # type: ignore[no-any-return]


def unread_of(shard: Any) -> set[int]:
    """The rooms that a resync has still to read."""
    return shard._unread  # type: ignore[no-any-return]


def buckets_of(expiry: Any) -> Any:
    return expiry._buckets


def ticks_of(expiry: Any) -> Any:
    return expiry._ticks


# Of leases


def interrupt_release(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the release of a lease be interrupted while it waits for a heartbeat under way."""

    def interrupted(lease: Any) -> None:
        lease._stopping.set()
        raise InterruptedError

    for kind in (Lease, AsyncLease):
        monkeypatch.setattr(kind, "_stop", interrupted)


# Of SGLang's plugin


def age_rooms(registry: Any, seconds: float) -> None:
    """Let so many seconds go by for the rooms without a sender."""
    clock = registry.unclaimed._clock
    registry.unclaimed._clock = lambda: clock() + seconds


# Of modules


def calls_without_comments(source: str) -> tuple[list[str], str]:
    """(the commands that the ACL rule's reader finds in a script, the script without its comments)"""
    code = scripts._COMMENT.sub("", source)
    return scripts._CALLED.findall(code), code


def is_process_gone(pid: int) -> bool:
    return embedded._is_gone(pid)


# Of the plugin's worker, and of an agent's channel


def known_servers_of(worker: Any) -> dict[int, Any]:
    """By room of decode's, what it knows of the processes of prefill that serve it."""
    return dict(worker._servers)


def ring_of(channel: Any) -> Any:
    """The writer of an agent's channel, if there is one."""
    return channel._link.ring


def lock_of(channel: Any) -> Any:
    """The lock of the thread that sends."""
    return channel._link._sending


def answers_of_agent(channel: Any) -> int:
    """How many pings the agent has read."""
    return channel._link.answers


def wake_channel(channel: Any) -> None:
    channel._waiter.wake()


def before_waking(monkeypatch: Any, act: Callable[..., None]) -> None:
    """Call ``act`` with the callers that a thread of a blocking store is about to wake."""
    wake = dispatcher._wake

    def acting(*callers: Any) -> None:
        act(*callers)
        wake(*callers)

    monkeypatch.setattr(dispatcher, "_wake", acting)
