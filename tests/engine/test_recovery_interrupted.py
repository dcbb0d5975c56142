"""A replay after a loss of data is interrupted, and completed later."""

from __future__ import annotations

import pytest

from redis_kvpoll import KVPoll, StoreUnavailableError
from redis_kvpoll.engine.retry import Attempts, CallFailed
from redis_kvpoll.protocol import script_specs
from redis_kvpoll.protocol.keys import rooms
from tests.support.internals import executor_of
from tests.support.servers import rooms_on_server

A, B = 1, 2


@pytest.fixture
def held(store, client, monkeypatch):
    """Six rooms in three calls, which the server has lost."""
    monkeypatch.setattr("redis_kvpoll.engine.recovery.tracked_rooms.MAX_REPLAYED", 2)
    held = [store.open(room) for room in range(6)]
    held[0].status()
    client.flushall()
    return held


class TestInterruptedReplay:
    """Every room is recovered in the end."""

    def test_replay_cut_by_deadline_is_completed(self, held, client, monkeypatch):
        with monkeypatch.context() as patch:
            patch.setattr(Attempts, "send_script", after(Attempts.send_script, 2, out_of_time))
            with pytest.raises(StoreUnavailableError):
                held[0].status()
        assert len(rooms_on_server(client)) == 2
        assert held[0].status() is KVPoll.Bootstrapping
        assert len(rooms_on_server(client)) == 6

    def test_interrupted_replay_continues_where_it_stopped(self, held, client, monkeypatch):
        with monkeypatch.context() as patch:
            patch.setattr(Attempts, "send_script", after(Attempts.send_script, 2, out_of_time))
            with pytest.raises(StoreUnavailableError):
                held[0].status()
        client.delete(*rooms("default", [0, 1]))
        held[5].status()
        assert sorted(rooms_on_server(client)) == [2, 3, 4, 5]

    def test_replay_cut_by_reconnect_is_completed(self, store, held, client, monkeypatch):
        """The server lost its data before, and nothing since."""
        with monkeypatch.context() as patch:
            patch.setattr(
                Attempts,
                "send_script",
                after(Attempts.send_script, 2, lambda: executor_of(store).session.server_changed()),
            )
            held[0].status()
        assert len(rooms_on_server(client)) == 6

    def test_replay_cut_by_another_loss_is_completed(self, held, client, monkeypatch):
        with monkeypatch.context() as patch:
            patch.setattr(Attempts, "send_script", after(Attempts.send_script, 2, client.flushall))
            held[0].status()
        assert len(rooms_on_server(client)) == 6

    def test_loss_while_attached_room_waits_is_recovered(self, make_store, client, monkeypatch):
        monkeypatch.setattr("redis_kvpoll.engine.recovery.tracked_rooms.CREATOR_POLL_INTERVAL", 0.0)
        other = make_store()
        make_store().open(A)
        other.attach(A)
        room = other.open(B)
        room.status()
        client.flushall()
        room.status()
        client.flushall()
        assert room.status() is KVPoll.Bootstrapping
        assert sorted(rooms_on_server(client)) == [B]


def after(send_script, times, do):
    """Attempts.send_script, but ``do`` runs before the last of so many replays."""
    replays = []

    def interrupted(attempts, call, *arguments, **options):
        if call.spec is script_specs.REPLAY:
            replays.append(call)
            if len(replays) == times:
                do()
        return (yield from send_script(attempts, call, *arguments, **options))

    return interrupted


def out_of_time():
    raise CallFailed(StoreUnavailableError, "no time left")
