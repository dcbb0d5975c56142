"""All shards of one server are asked together, when another server has taken over. Blocking and asyncio."""

from __future__ import annotations

import os
import signal

import pytest

from redis_kvpoll import KVPoll
from redis_kvpoll.engine.retry import Attempts
from redis_kvpoll.protocol import keys
from redis_kvpoll.transport.connection_options import MAX_IDLE
from tests.support import real
from tests.support.internals import answers_of, executor_of, marks_of

SHARDS = 8
TAGS = keys.tags("default", SHARDS)
KEEPING = ("--appendonly", "yes", "--appendfsync", "always", "--dir")
"""Options of a server that has all its data after a restart."""


class Sharded:
    """A store that holds one room in each of 8 shards, on a server that can be restarted."""

    def __init__(self, world, options=()):
        self._world, self._options = world, options
        self.server = world.serve(*options)
        self.store = world.open(self.server.tcp, shards=SHARDS)
        by_tag = {}
        for room in range(1000):
            by_tag.setdefault(keys.tag("default", SHARDS, room), room)
        self.rooms = [self.store.open(by_tag[tag]) for tag in TAGS]
        self.store.poll(by_tag.values())  # a connection for each shard

    def restart(self):
        os.kill(self.server.pid, signal.SIGKILL)
        self.server = self._world.restart(self.server, *self._options)


@pytest.fixture
def round_trips(monkeypatch):
    """The commands that stores ask about a shard with: one of each round trip."""
    sent, send = [], Attempts.send

    def counted(attempts, effect, *arguments, **options):
        if "epoch" in effect.words:
            sent.append(effect.tag)
        return (yield from send(attempts, effect, *arguments, **options))

    monkeypatch.setattr(Attempts, "send", counted)
    return sent


@pytest.mark.parametrize("has_data", [True, False], ids=["with data", "empty"])
def test_shards_are_verified_in_one_round_trip(world, tmp_path, round_trips, has_data):
    sharded = Sharded(world, (*KEEPING, str(tmp_path)) if has_data else ())
    sharded.restart()
    assert [room.update(KVPoll.Transferring).status for room in sharded.rooms] == [KVPoll.Transferring] * SHARDS
    assert len(round_trips) == 1
    assert not any(answers_of(sharded.store).values())
    sharded.restart()
    assert [room.update(KVPoll.Success).status for room in sharded.rooms] == [KVPoll.Success] * SHARDS
    assert len(round_trips) == 2


def test_answer_is_used_for_the_marks_it_is_about(world, tmp_path, round_trips):
    """A reply may come between: it gives the shard another mark, of which the server was not asked."""
    sharded = Sharded(world, (*KEEPING, str(tmp_path)))
    sharded.restart()
    sharded.rooms[0].update(KVPoll.Transferring)
    marks = marks_of(sharded.store, TAGS[1])
    marks.last_write = marks.last_write._replace(feed_id=b"1-1")
    for room in sharded.rooms:
        room.update(KVPoll.Transferring)
    assert len(round_trips) == 2


def test_answer_of_another_server_is_dropped(world, tmp_path, round_trips):
    sharded = Sharded(world, (*KEEPING, str(tmp_path)))
    sharded.restart()
    sharded.rooms[0].update(KVPoll.Transferring)
    assert sorted(tag for tag, answer in answers_of(sharded.store).items() if answer) == sorted(TAGS[1:])
    recovery = executor_of(sharded.store).recovery
    recovery.server_changed(TAGS[2], recovery.servers[TAGS[0]])
    recovery.server_changed(TAGS[3], b"another")
    assert [answers_of(sharded.store)[tag] is None for tag in TAGS[2:4]] == [False, True]
    sharded.restart()
    sharded.rooms[1].update(KVPoll.Transferring)
    assert len(round_trips) == 2


def test_data_lost_after_the_answer_is_restored(world, tmp_path):
    sharded = Sharded(world, (*KEEPING, str(tmp_path)))
    sharded.restart()
    sharded.rooms[0].update(KVPoll.Transferring)
    with sharded.server.client() as client:
        client.flushall()
    assert [room.update(KVPoll.Success).status for room in sharded.rooms] == [KVPoll.Success] * SHARDS


def test_parallel_calls_ask_of_each_shard_once_more(world, tmp_path, round_trips):
    """A poll of all shards does not wait for the first one: each asks, but not for those that are being asked."""
    sharded = Sharded(world, (*KEEPING, str(tmp_path)))
    sharded.restart()
    sharded.store.poll([room.id for room in sharded.rooms])
    assert len(round_trips) <= SHARDS
    real.until(lambda: not any(answers_of(sharded.store).values()), "all are used")


def test_batch_over_many_shards_needs_no_new_connections(world):
    """A store keeps 16 connections to a server. Each further one of a call would be opened for it, and closed after."""
    server, rooms = world.serve(), range(1000)
    store = world.open(server.tcp, shards=4 * MAX_IDLE)
    with server.client() as client:
        before = client.info("stats")["total_connections_received"]
        for status in (KVPoll.Bootstrapping, KVPoll.Transferring, KVPoll.Success):
            store.update_many(dict.fromkeys(rooms, status))
        opened = client.info("stats")["total_connections_received"] - before
    assert store.poll(rooms) == [KVPoll.Success] * len(rooms)
    assert opened <= MAX_IDLE + 1  # the asyncio store has one more, for calls that are alone
