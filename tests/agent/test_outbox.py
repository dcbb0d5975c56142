"""A session's outbox alone: what the table does not have yet, in order and bounded."""

from __future__ import annotations

import pytest

from redis_kvpoll.agent import outbox as outbox_module
from redis_kvpoll.agent.outbox import Outbox, RoomLife

BOOT, WAIT, MOVE, OK = range(1, 5)
ROOM = 7


@pytest.fixture
def outbox():
    return Outbox(lambda: None)


def change(outbox, number, room=ROOM, **words):
    life = outbox.life(room, number)
    life.is_new = life.is_new or words.pop("is_new", False)
    life.add(RoomLife(number, **words))
    if life.is_over:
        outbox.end(room, number)


def end_lives(outbox, rooms):
    for room in rooms:
        change(outbox, room, room, is_new=True, status=BOOT, is_over=True)


def take_all(outbox, room=ROOM):
    return [(life.number, life.status, life.is_over) for life in iter(lambda: outbox.take(room), None)]


def test_changes_of_a_life_are_taken_as_one(outbox):
    for status in (BOOT, MOVE, WAIT):
        change(outbox, 1, is_new=status == BOOT, status=status)
    change(outbox, 1, is_over=True)
    assert outbox.take_changed() == [ROOM]
    assert outbox.take(ROOM) == RoomLife(1, is_new=True, status=MOVE, is_over=True)
    assert (len(outbox), outbox.take(ROOM), outbox.has_changes) == (0, None, False)


def test_lives_of_a_room_are_taken_in_order(outbox):
    change(outbox, 1, is_new=True, status=OK, is_over=True)
    change(outbox, 2, is_new=True, status=BOOT)
    assert take_all(outbox) == [(1, OK, True), (2, BOOT, False)]


def test_life_that_is_put_back_is_merged_with_later_changes(outbox):
    change(outbox, 1, is_new=True, status=BOOT)
    life = outbox.take(ROOM)
    change(outbox, 1, status=MOVE)
    outbox.put_back(ROOM, life)
    assert take_all(outbox) == [(1, MOVE, False)]


def test_life_that_is_put_back_comes_before_the_next_one(outbox):
    change(outbox, 1, is_new=True, status=BOOT)
    life = outbox.take(ROOM)
    change(outbox, 2, is_new=True, status=WAIT)
    outbox.put_back(ROOM, life)
    assert take_all(outbox) == [(1, BOOT, False), (2, WAIT, False)]


def test_lives_over_the_limit_are_dropped_if_they_are_over(outbox, monkeypatch):
    monkeypatch.setattr(outbox_module, "MAX_ENDED_LIVES", 10)
    dropped = []
    outbox.on_dropped = lambda room, number: dropped.append(room)
    change(outbox, 1, is_new=True, status=BOOT)
    end_lives(outbox, range(1000, 1030))
    assert (len(outbox), outbox.dropped, dropped) == (11, 20, list(range(1000, 1020)))
    assert take_all(outbox) == [(1, BOOT, False)]
    assert outbox.take_changed() == [ROOM, *range(1020, 1030)], "what was dropped is not looked at"


@pytest.mark.parametrize("ends", ["before", "later"])
def test_life_that_the_table_may_have_outlasts_the_limit(outbox, monkeypatch, ends):
    monkeypatch.setattr(outbox_module, "MAX_ENDED_LIVES", 10)
    change(outbox, 1, is_new=True, status=OK, is_over=ends == "before")
    life = outbox.take(ROOM)
    life.may_be_open = True
    if ends == "later":
        change(outbox, 1, is_over=True)
    outbox.put_back(ROOM, life)
    end_lives(outbox, range(1000, 1030))
    assert (len(outbox), outbox.dropped) == (11, 20)
    assert outbox.take(ROOM) == RoomLife(1, is_new=True, status=OK, is_over=True, may_be_open=True)


def test_lives_that_the_table_may_have_are_bounded(outbox, monkeypatch):
    monkeypatch.setattr(outbox_module, "MAX_ENDED_LIVES", 10)
    dropped = []
    outbox.on_dropped = lambda room, number: dropped.append(room)
    end_lives(outbox, range(1000, 1010))
    for room in range(2000, 2030):
        outbox.put_back(room, RoomLife(room, is_new=True, is_over=True, may_be_open=True))
    assert (len(outbox), outbox.dropped, dropped) == (20, 20, list(range(2000, 2020)))


def test_life_that_is_taken_and_put_back_counts_once(outbox, monkeypatch):
    monkeypatch.setattr(outbox_module, "MAX_ENDED_LIVES", 1)
    for _ in range(3):
        outbox.put_back(ROOM, outbox.take(ROOM) or RoomLife(1, is_new=True, is_over=True, may_be_open=True))
    outbox.take(ROOM)
    outbox.put_back(ROOM + 1, RoomLife(2, is_new=True, is_over=True, may_be_open=True))
    assert (outbox.rooms(), outbox.dropped) == ([ROOM + 1], 0)


def test_end_that_comes_meanwhile_counts_with_its_life(outbox, monkeypatch):
    """Also if it says again that the life is new."""
    monkeypatch.setattr(outbox_module, "MAX_ENDED_LIVES", 10)
    change(outbox, 1, is_new=True, status=BOOT)
    life = outbox.take(ROOM)
    life.may_be_open = True
    change(outbox, 1, is_new=True, is_over=True)
    outbox.put_back(ROOM, life)
    end_lives(outbox, range(1000, 1030))
    assert (len(outbox), outbox.dropped, outbox.has(ROOM)) == (11, 20, True)
