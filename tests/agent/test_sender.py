"""What a client tells, and keeps for the next session; and what a session makes of it."""

from __future__ import annotations

import tracemalloc

import pytest

from redis_kvpoll.agent import messages, outbox, tombstones
from redis_kvpoll.agent.client import sender
from redis_kvpoll.agent.client.sender import ChangeSender
from redis_kvpoll.agent.life import HAS_STATUS, Life
from redis_kvpoll.agent.outbox import RoomLife
from redis_kvpoll.agent.session.told import ToldRooms

FAIL, BOOT, WAIT, MOVE, OK = range(5)
ROOM = 7


class Client:
    """Lives, their sender, and what was sent on this connection."""

    def __init__(self):
        self.sender = ChangeSender()
        self.sender.channel = self
        self.lives = {}
        self.sent = []
        self.room_left = 10**6
        self.connect()

    def send(self, kind, payload):
        if not self.room_left:
            return False
        self.room_left -= 1
        self.sent.append(messages.decode_change(payload) if kind == messages.CHANGE else kind)
        return True

    def connect(self):
        self.sent.clear()
        self.sender.connected()
        self.sender.send_changes()

    def open(self, room, number, status=BOOT):
        life = self.lives[number] = Life(room, number)
        life.status = status
        self.sender.begin(life)

    def change(self, number, status):
        self.lives[number].status = status
        self.sender.tell(self.lives[number], HAS_STATUS)

    def end(self, number):
        self.sender.end(self.lives[number])

    def open_and_end(self, numbers):
        for number in numbers:
            self.open(1000 + number, number)
            self.end(number)


@pytest.fixture
def client():
    return Client()


class TestSender:
    def test_change_is_sent_at_once(self, client):
        client.open(ROOM, 1)
        client.change(1, WAIT)
        assert client.sent == [(ROOM, RoomLife(1, is_new=True, status=BOOT)), (ROOM, RoomLife(1, status=WAIT))]

    def test_full_channel_merges_and_keeps_the_order(self, client):
        client.room_left = 0
        client.open(ROOM, 1)
        client.change(1, WAIT)
        client.change(1, OK)
        client.end(1)
        client.open(ROOM, 2)
        client.sender.post(messages.HOLD, b"")
        client.room_left = 2
        client.sender.send_changes()
        client.room_left = 10
        client.sender.send_changes()
        lives = [RoomLife(1, is_new=True, status=OK, is_over=True), RoomLife(2, is_new=True, status=BOOT)]
        assert client.sent == [messages.HOLD, *((ROOM, life) for life in lives)]

    def test_next_table_part_is_told_all_that_has_not_ended(self, client):
        client.open(ROOM, 1)
        client.change(1, OK)
        client.end(1)
        client.open(ROOM, 2)
        client.open(ROOM + 1, 3)
        client.sender.opened(1, 99)
        client.connect()
        assert client.sent == [
            (ROOM, RoomLife(1, is_new=True, status=OK, is_over=True, generation=99)),
            (ROOM, RoomLife(2, is_new=True, status=BOOT)),
            (ROOM + 1, RoomLife(3, is_new=True, status=BOOT)),
        ]
        client.sender.ended(1)
        client.connect()
        assert [(room, life.number) for room, life in client.sent] == [(ROOM, 2), (ROOM + 1, 3)]

    def test_change_while_away_is_told_once(self, client):
        client.open(ROOM, 1)
        client.sender.disconnected()
        client.change(1, MOVE)
        client.connect()
        assert client.sent == [(ROOM, RoomLife(1, is_new=True, status=MOVE))]

    def test_ends_that_nobody_acknowledges_are_bounded(self, client, monkeypatch):
        monkeypatch.setattr(sender, "MAX_ENDED_LIVES", 10)
        client.open(ROOM, 1)
        client.open_and_end(range(2, 100))
        client.connect()
        assert [life.number for _, life in client.sent] == [1, *range(90, 100)]

    @pytest.mark.parametrize("is_away", [True, False], ids=["away", "full"])
    def test_dropped_lives_leave_nothing_behind(self, client, monkeypatch, is_away):
        """Neither memory, nor work at the end of an outage, when SGLang's threads wait for the lock of the rooms."""
        monkeypatch.setattr(sender, "MAX_ENDED_LIVES", 10)
        if is_away:
            client.sender.disconnected()
        client.room_left = 0
        client.open_and_end(range(1, 1001))
        client.room_left = 10**6
        assert (len(client.sender), client.sender.dropped) == (10, 990)
        if is_away:
            client.connect()
        else:
            client.sender.send_changes()
        assert [life.number for _, life in client.sent] == list(range(991, 1001))

    @pytest.mark.parametrize("is_open", [True, False], ids=["opened first", "opened later"])
    def test_end_of_a_room_that_the_table_has_is_kept(self, client, monkeypatch, is_open):
        """However many end behind it, and whether it was in the table before its end was told: it is live there."""
        monkeypatch.setattr(sender, "MAX_ENDED_LIVES", 10)
        client.open(ROOM, 1)
        if is_open:
            client.sender.opened(1, 99)
        client.end(1)
        if not is_open:
            client.sender.opened(1, 99)
        client.open_and_end(range(2, 52))
        for _ in range(2):  # the next agent, and the one after it
            client.connect()
            assert (ROOM, RoomLife(1, is_new=True, status=BOOT, is_over=True, generation=99)) in client.sent
            assert len(client.sent) == 11
        client.sender.ended(1)
        client.connect()
        assert len(client.sent) == 10

    def test_lives_that_are_forgotten_are_counted_once(self, client, monkeypatch):
        """Once nobody knows them. What the session has dropped, it counts itself, and says so later."""
        monkeypatch.setattr(sender, "MAX_ENDED_LIVES", 10)
        client.open_and_end(range(1, 51))
        for number in range(1, 16):
            client.sender.ended(number)
        assert client.sender.dropped == 0
        client.connect()
        assert (client.sender.dropped, len(client.sent)) == (25, 10)
        client.connect()
        assert client.sender.dropped == 25

    def test_change_that_cannot_be_written_is_dropped(self, client, caplog):
        client.open(2**200, 1)
        client.open(ROOM, 2)
        assert [room for room, _ in client.sent] == [ROOM]
        assert "cannot be told" in caplog.text

    def test_last_message_follows_all_changes(self, client):
        client.room_left = 0
        client.open(ROOM, 1)
        client.open(ROOM + 1, 2)
        client.sender.post_last(messages.LEAVE, b"")
        client.room_left = 1
        client.sender.send_changes()
        assert client.sent == [(ROOM, RoomLife(1, is_new=True, status=BOOT))]
        client.room_left = 10
        client.sender.send_changes()
        client.sender.send_changes()
        assert client.sent[1:] == [(ROOM + 1, RoomLife(2, is_new=True, status=BOOT)), messages.LEAVE]

    def test_last_message_waits_for_a_change_that_is_withheld(self, client):
        client.sender.withheld.append(ROOM)
        client.open(ROOM, 1, FAIL)
        client.sender.post_last(messages.LEAVE, b"")
        client.sender.send_changes()
        assert client.sent == []
        client.sender.release(ROOM)
        assert client.sent == [(ROOM, RoomLife(1, is_new=True, status=FAIL)), messages.LEAVE]

    def test_lives_withheld_behind_a_full_channel_keep_their_order(self, client):
        client.room_left = 0
        client.open(ROOM, 1)
        client.end(1)
        client.sender.withheld.append(ROOM)
        client.open(ROOM, 2)
        client.room_left = 10
        client.sender.send_changes()
        assert client.sent == []
        client.sender.release(ROOM)
        assert [life.number for _, life in client.sent] == [1, 2]

    def test_last_message_follows_a_reconnection(self, client):
        client.open(ROOM, 1)
        client.room_left = 0
        client.change(1, OK)
        client.sender.post_last(messages.LEAVE, b"")
        client.sender.send_changes()
        client.sender.disconnected()
        client.room_left = 10
        client.connect()
        assert client.sent == [(ROOM, RoomLife(1, is_new=True, status=OK)), messages.LEAVE]

    def test_last_message_is_sent_again_to_the_next_agent(self, client):
        """The one that has got it may have died before it read it: the client would wait for its answer in vain."""
        client.open(ROOM, 1)
        client.sender.post_last(messages.LEAVE, b"")
        client.sender.send_changes()
        client.sender.send_changes()
        assert client.sent[1:] == [messages.LEAVE]
        client.sender.disconnected()
        client.connect()
        assert client.sent == [(ROOM, RoomLife(1, is_new=True, status=BOOT)), messages.LEAVE]

    def test_change_beside_many_unsent_ones_is_cheap(self, client):
        """It copies none of them: SGLang's thread makes it, with the lock of the rooms."""
        client.room_left = 0
        for number in range(1, 5001):
            client.open(number, number)
        tracemalloc.start()
        try:
            client.change(5000, WAIT)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 20_000
        client.room_left = 10**6
        client.sender.send_changes()
        assert [room for room, _ in client.sent] == list(range(1, 5001))

    def test_message_about_a_room_that_cannot_be_written_is_dropped(self, client, caplog):
        """SGLang's thread posts it, in its update_status: nothing is raised there."""
        for room in (2**200, ROOM):
            client.sender.post_life(messages.HOLD, room, 1)
        client.sender.send_changes()
        assert client.sent == [messages.HOLD]
        assert "cannot be told" in caplog.text

    @pytest.mark.parametrize("what", ["a change", "a message", "the last message"])
    def test_what_cannot_be_sent_is_known_to_wait(self, client, what):
        """A tick sends it, if nobody says that there is room."""
        client.room_left = 0
        if what == "a change":
            client.open(ROOM, 1)
        elif what == "a message":
            client.sender.post_life(messages.HOLD, ROOM, 1)
        else:
            client.sender.post_last(messages.LEAVE, b"")
        client.sender.send_changes()
        assert client.sender.is_behind
        client.room_left = 10
        client.sender.send_changes()
        assert not client.sender.is_behind


class TestTold:
    @pytest.fixture
    def rooms(self):
        return ToldRooms(lambda: None, lambda room, reason: None)

    def test_late_change_revives_no_room(self, rooms):
        rooms.change(ROOM, RoomLife(1, is_new=True, status=BOOT))
        rooms.change(ROOM, RoomLife(1, is_over=True))
        rooms.outbox.take(ROOM)
        rooms.change(ROOM, RoomLife(1, is_new=True, status=WAIT))
        rooms.hold(ROOM, 1, False, 0.0)
        assert (rooms.current_life(ROOM), rooms.outbox.take(ROOM)) == (None, None)

    def test_end_of_a_room_that_the_table_has_is_kept(self, rooms, monkeypatch):
        """The client tells it with its generation, as it has it from a former agent."""
        monkeypatch.setattr(outbox, "MAX_ENDED_LIVES", 10)
        rooms.change(ROOM, RoomLife(1, is_new=True, status=OK, is_over=True, generation=99))
        for number in range(2, 52):
            rooms.change(1000 + number, RoomLife(number, is_new=True, is_over=True))
        assert rooms.outbox.has(ROOM)
        assert len(rooms.outbox.rooms()) == 11

    def test_end_of_a_former_life_leaves_the_next(self, rooms):
        rooms.hold(ROOM, 2, False, 0.0)
        rooms.change(ROOM, RoomLife(1, status=OK, is_over=True))
        assert rooms.current_life(ROOM) == 2
        assert rooms.outbox.take(ROOM) == RoomLife(1, status=OK, is_over=True)

    def test_held_room_is_not_published(self, rooms):
        rooms.hold(ROOM, 1, False, 0.0)
        assert (rooms.rooms(), rooms.outbox.take(ROOM)) == ([ROOM], None)
        rooms.change(ROOM, RoomLife(1, is_new=True, status=WAIT))
        assert rooms.outbox.take(ROOM) == RoomLife(1, is_new=True, status=WAIT)
        rooms.hold(ROOM, 1, True, 0.0)
        assert rooms.rooms() == []

    def test_rooms_that_are_over_are_forgotten_in_time(self, monkeypatch):
        monkeypatch.setattr(tombstones, "MAX_TOMBSTONES", 3)
        now = [0.0]
        rooms = ToldRooms(lambda: None, lambda room, reason: None, clock=lambda: now[0])
        for room in range(5):
            rooms.change(room, RoomLife(1, is_new=True, is_over=True))
        assert [room for room in range(5) if rooms.is_relevant(room)] == [2, 3, 4]
        now[0] = tombstones.TOMBSTONE_SECONDS + 1
        rooms.change(9, RoomLife(1, is_new=True, is_over=True))
        assert not rooms.is_relevant(4)
