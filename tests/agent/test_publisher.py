"""What is published of rooms while the server answers late or not at all. The store is real, the outage is not."""

from __future__ import annotations

import pytest

from redis_kvpoll import AsyncStatusStore, KVPoll
from redis_kvpoll.agent import outbox
from redis_kvpoll.agent.messages import ClientHello
from redis_kvpoll.agent.outbox import RoomLife
from redis_kvpoll.agent.session.publisher import OutboxPublisher
from redis_kvpoll.agent.session.table_member import StoreMember
from redis_kvpoll.agent.session.told import ToldRooms
from redis_kvpoll.errors import OutcomeUnknownError, StoreUnavailableError
from tests.support import calls

FAIL, BOOT, WAIT, MOVE, OK = range(5)
ROOM = 7
LIMIT = 10
HELLO = ClientHello("memory://", {}, "a", "a", "i", 60.0, 60.0)


class Member(StoreMember):
    """A client whose server opens each room, and answers nothing while ``error`` is set."""

    error: Exception | None = None

    async def open(self, room, request, status):
        handle = await super().open(room, request, status)
        if self.error is not None:
            raise self.error
        return handle


class RoundsRoom:
    """A room that the table has, and that is written in rounds."""

    generation = 1
    has_failed = False

    def __init__(self):
        self.said = []

    def say(self, status, reason, length, is_over, on_answer):
        self.said.append((status, is_over, on_answer))
        return True


@pytest.fixture
def rooms(monkeypatch):
    monkeypatch.setattr(outbox, "MAX_ENDED_LIVES", LIMIT)
    return ToldRooms(lambda: None, lambda room, reason: None)


def begin_and_end(rooms, numbers):
    for number in numbers:
        rooms.change(number, RoomLife(number, is_new=True, status=BOOT, is_over=True))


@pytest.mark.parametrize(
    "error", [StoreUnavailableError("no reply"), OutcomeUnknownError("no reply")], ids=["unavailable", "unknown"]
)
@pytest.mark.parametrize("ends", ["before", "later"], ids=["ended before", "ended later"])
async def test_room_opened_without_an_answer_is_cleared(rooms, error, ends):
    """However many rooms begin and end in the outage: else it would stay in the table as long as the process lives."""
    async with AsyncStatusStore.from_url("memory://", policy="strict") as store:
        member = Member(store, HELLO)
        publisher = OutboxPublisher(member, rooms, HELLO, lambda *_: None)
        publisher.resume()
        member.error = error
        rooms.change(ROOM, RoomLife(1, is_new=True, status=BOOT, is_over=ends == "before"))
        publisher.publish([ROOM])
        await calls.until(lambda: publisher.is_idle, "it is put back")
        assert (publisher.is_online.is_set(), await store.get(ROOM)) == (False, KVPoll.Bootstrapping)
        if ends == "later":
            rooms.change(ROOM, RoomLife(1, is_over=True))
        begin_and_end(rooms, range(1000, 1000 + 3 * LIMIT))
        assert rooms.outbox.dropped == 2 * LIMIT
        member.error = None
        publisher.resume()
        await publisher.flush()
        assert await store.entry(ROOM) is None
        assert rooms.outbox.dropped == 2 * LIMIT


async def test_room_that_was_not_asked_for_is_dropped_as_usual(rooms):
    async with AsyncStatusStore.from_url("memory://", policy="strict") as store:
        publisher = OutboxPublisher(Member(store, HELLO), rooms, HELLO, lambda *_: None)
        begin_and_end(rooms, [ROOM])
        publisher.publish([ROOM])  # as it is offline, nothing is sent
        assert publisher.is_idle
        begin_and_end(rooms, range(1000, 1000 + LIMIT))
        assert (rooms.outbox.has(ROOM), rooms.outbox.dropped) == (False, 1)


async def test_end_that_a_round_could_not_write_is_kept(rooms, monkeypatch):
    """A round writes only rooms that the table has: their lives are not new, and none is dropped."""
    opened = RoundsRoom()

    async def opens(member, room, request, status):
        return opened

    monkeypatch.setattr(Member, "open", opens)
    async with AsyncStatusStore.from_url("memory://", policy="strict") as store:
        publisher = OutboxPublisher(Member(store, HELLO), rooms, HELLO, lambda *_: None)
        publisher.resume()
        rooms.change(ROOM, RoomLife(1, is_new=True, status=BOOT))
        await publisher.flush()
        rooms.change(ROOM, RoomLife(1, status=OK, is_over=True))
        publisher.publish([ROOM])
        [(status, is_over, on_answer)] = opened.said
        assert (status, is_over) == (KVPoll.Success, True)
        publisher.is_online.clear()
        on_answer(StoreUnavailableError("no reply"))
        begin_and_end(rooms, range(1000, 1000 + 3 * LIMIT))
        assert rooms.outbox.take(ROOM) == RoomLife(1, status=OK, is_over=True)
