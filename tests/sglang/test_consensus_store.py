"""What SGLang's own tests ask of PPConsensusStore, of it and of the map that replaces it: the same, on real sockets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from redis_kvpoll.integrations.sglang.maps import ConsensusMap
from redis_kvpoll.integrations.sglang.registry import RoomRegistry
from tests.sglang.deployment import until

ROOM = 1234567890123
Stores = Callable[[int], list[Any]]


class _Group:
    """The broadcast of stages that are made one after the other, in one process."""

    def __init__(self) -> None:
        self._value: Any = None

    def broadcast_object(self, value: Any, src: int) -> Any:
        self._value = self._value if value is None else value
        return self._value


@pytest.fixture(params=["sglang's own", "the map"])
def stores(request: pytest.FixtureRequest) -> Iterator[Stores]:
    """Make the stores of so many stages."""
    from sglang.srt.disaggregation.pp_consensus_store import PPConsensusStore

    made: list[Any] = []

    def make(stages: int) -> list[Any]:
        group = _Group()
        for rank in range(stages):
            own = PPConsensusStore(stages, rank, group)
            if request.param == "the map":
                registry = RoomRegistry()
                own = registry.statuses = ConsensusMap(registry, rank, [*range(stages)], lambda _: {}, own)
            made.append(own)
        return made

    yield make
    for store in made:
        store.close()


def test_assigned_value_is_read_in_every_way(stores: Stores) -> None:
    (store,) = stores(1)
    store[ROOM] = 10
    assert (store[ROOM], store.get(ROOM), ROOM in store, store.collect(ROOM)) == (10, 10, True, [10])


def test_absent_key_is_absent_in_every_way(stores: Stores) -> None:
    (store,) = stores(1)
    assert (store.get(ROOM), store.get(ROOM, "default"), ROOM in store) == (None, "default", False)
    assert (store.pop(ROOM), store.pop(ROOM, "default"), store.collect(ROOM)) == (None, "default", [None])
    for read in (store.__getitem__, store.__delitem__):
        with pytest.raises(KeyError):
            read(ROOM)


@pytest.mark.parametrize("missing", [[], [0], [1], [0, 2]])
def test_rank_0_collects_what_each_stage_has(stores: Stores, missing: list[int]) -> None:
    """Also before it has a value of its own."""
    stages = stores(3)
    wanted: list[int | None] = [None, None, None]
    for rank in {0, 1, 2} - {*missing}:
        stages[rank][ROOM] = wanted[rank] = 10 + rank
    until(lambda: stages[0].collect(ROOM), wanted)


@pytest.mark.parametrize("remove", [lambda store: store.pop(ROOM), lambda store: store.__delitem__(ROOM)])
def test_value_removed_by_a_stage_is_gone_on_rank_0(stores: Stores, remove: Callable[[Any], Any]) -> None:
    stages = stores(2)
    for rank, store in enumerate(stages):
        store[ROOM] = 10 + rank
    until(lambda: stages[0].collect(ROOM), [10, 11])
    assert remove(stages[1]) in (11, None)
    assert ROOM not in stages[1]
    until(lambda: stages[0].collect(ROOM), [10, None])


def test_value_that_is_no_int_is_refused_where_it_is_assigned(stores: Stores) -> None:
    stages = stores(2)
    with pytest.raises(TypeError):
        stages[1][ROOM] = object()
    assert ROOM not in stages[1]
