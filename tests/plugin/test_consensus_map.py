"""The map that replaces PPConsensusStore, over a stand-in for it; over the real one see tests/sglang."""

from __future__ import annotations

import gc
import itertools
from types import SimpleNamespace

import pytest

from redis_kvpoll.integrations.sglang.compat import ProcessIdentity
from redis_kvpoll.integrations.sglang.maps import ConsensusMap
from redis_kvpoll.integrations.sglang.registry import RoomRegistry
from redis_kvpoll.integrations.sglang.settings import PluginSettings
from redis_kvpoll.integrations.sglang.worker import TableWorker

FAIL, BOOT, WAIT, MOVE, OK = range(5)
ROOM = 7
IDENTITY = ProcessIdentity("prefill", "prefill/h:1", "prefill/h:1/pp1@h:2", 1, 2, (0, 1))


class OwnStore(dict):
    """A stand-in for SGLang's PPConsensusStore on rank 0 of two."""

    def __init__(self):
        super().__init__()
        self.peer = {}

    def collect(self, room):
        return [self.get(room), self.peer.get(room)]


@pytest.fixture
def own():
    return OwnStore()


def consensus_map(own, rank, peers, theirs):
    registry = RoomRegistry()
    registry.statuses = ConsensusMap(registry, rank, peers, lambda room: theirs.get(room, {}), own)
    return registry.statuses


def test_collect_on_rank_0_is_sglangs_own(own):
    """It knows other stages at once: before rank 0 has opened the room, after they have cleared it, without Redis."""
    statuses = consensus_map(own, 0, [0, 1], {ROOM: {1: OK}})
    assert statuses.collect(ROOM) == [None, None]
    own.peer[ROOM] = WAIT
    assert statuses.collect(ROOM) == [None, WAIT]
    statuses[ROOM] = BOOT
    assert statuses.collect(ROOM) == [BOOT, WAIT]
    del own.peer[ROOM]
    assert statuses.collect(ROOM) == [BOOT, None]


def test_collect_on_another_rank_is_the_tables(own):
    statuses = consensus_map(own, 4, [0, 4, 8], {ROOM: {0: OK, 4: WAIT, 6: MOVE}})
    assert statuses.collect(ROOM) == [OK, None, None]
    statuses[ROOM] = BOOT
    assert statuses.collect(ROOM) == [OK, BOOT, None]
    assert statuses.collect(8) == [None, None, None]


def test_collect_takes_what_has_come_on_its_own_thread():
    """A thread that waits for the interpreter beside a busy scheduler gets it only after 5 ms."""
    worker = TableWorker(PluginSettings("redis://nowhere"), IDENTITY)
    worker.registry.statuses[ROOM] = BOOT
    ranks = {ROOM: (worker.registry.lives.number(ROOM), {0: OK})}
    worker.client.channel = SimpleNamespace(poll=lambda: worker.client.ranks.update(ranks))
    assert worker.statuses_of(ROOM) == {0: OK}


@pytest.fixture
def at_each_collection():
    """Return a function; what it is given is called at each collection of Python's, of which there are many."""
    before, thresholds = list(gc.callbacks), gc.get_threshold()

    def call(callback):
        gc.callbacks.append(lambda *_: callback())
        gc.set_threshold(1, 1_000_000)

    yield call
    gc.set_threshold(*thresholds)
    gc.callbacks[:] = before


def test_rooms_come_while_others_are_forgotten(at_each_collection):
    """Up to Python 3.11 each new object may start a collection, in which another thread may run."""
    worker, rooms = TableWorker(PluginSettings("redis://nowhere"), IDENTITY), itertools.count(100)
    worker.client.ranks.update((room, (1, {})) for room in range(100))
    at_each_collection(lambda: worker.client.ranks.setdefault(next(rooms), (1, {})))
    worker.tick()
    assert not worker.client.ranks.keys() & set(range(100))


def test_every_write_reaches_sglangs_own_store(own):
    statuses = consensus_map(own, 0, [0, 1], {})
    for status in (BOOT, OK):
        statuses[ROOM] = status
        assert own == {ROOM: status}
    assert statuses.pop(ROOM) == OK
    assert own == {}


def test_removal_of_an_absent_room_is_as_sglangs(own):
    statuses = consensus_map(own, 0, [0, 1], {})
    assert (statuses.pop(ROOM), statuses.pop(ROOM, "default")) == (None, "default")
    with pytest.raises(KeyError):
        del statuses[ROOM]


@pytest.mark.parametrize("value", ["4", None, 4.0, object()])
def test_status_that_is_no_int_is_a_type_error(own, value):
    statuses = consensus_map(own, 0, [0, 1], {})
    with pytest.raises(TypeError):
        statuses[ROOM] = value
    assert ROOM not in statuses
    assert own == {}
