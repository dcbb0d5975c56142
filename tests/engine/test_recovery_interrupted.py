"""What is being said again after a loss is cut off in the midst of it."""

from __future__ import annotations

import pytest

from redis_kvpoll import KVPoll, StoreUnavailableError
from redis_kvpoll.engine.retry import Attempts, CallFailed
from redis_kvpoll.protocol import script_specs
from redis_kvpoll.protocol.keys import rooms
from tests.engine.test_recovery import A, B, on_server
from tests.support.internals import executor_of


@pytest.fixture
def held(store, client, monkeypatch):
    """Six rooms in three calls, which the server has lost."""
    monkeypatch.setattr("redis_kvpoll.engine.tracked_rooms.MAX_BATCH", 2)
    held = [store.open(room) for room in range(6)]
    held[0].status()
    client.flushall()
    return held


class TestInterruptedReplay:
    """Nothing is left out."""

    def test_replay_cut_by_deadline_is_completed(self, held, client, monkeypatch):
        with monkeypatch.context() as patch:
            patch.setattr(Attempts, "send_script", after(Attempts.send_script, 2, out_of_time))
            with pytest.raises(StoreUnavailableError):
                held[0].status()
        assert len(on_server(client)) == 2
        assert held[0].status() is KVPoll.Bootstrapping
        assert len(on_server(client)) == 6

    def test_interrupted_replay_continues_where_it_stopped(self, held, client, monkeypatch):
        with monkeypatch.context() as patch:
            patch.setattr(Attempts, "send_script", after(Attempts.send_script, 2, out_of_time))
            with pytest.raises(StoreUnavailableError):
                held[0].status()
        client.delete(*rooms("default", [0, 1]))
        held[5].status()
        assert sorted(on_server(client)) == [2, 3, 4, 5]

    def test_replay_cut_by_reconnect_is_completed(self, store, held, client, monkeypatch):
        """To a server that was lost, and has not been since."""
        with monkeypatch.context() as patch:
            patch.setattr(
                Attempts,
                "send_script",
                after(Attempts.send_script, 2, lambda: executor_of(store).server_may_have_changed()),
            )
            held[0].status()
        assert len(on_server(client)) == 6

    def test_replay_cut_by_another_loss_is_completed(self, held, client, monkeypatch):
        with monkeypatch.context() as patch:
            patch.setattr(Attempts, "send_script", after(Attempts.send_script, 2, client.flushall))
            held[0].status()
        assert len(on_server(client)) == 6

    def test_loss_while_attached_room_waits_is_recovered(self, make_store, client, monkeypatch):
        monkeypatch.setattr("redis_kvpoll.engine.tracked_rooms.CREATOR_POLL_INTERVAL", 0.0)
        guest_of = make_store()
        make_store().open(A)
        guest_of.attach(A)
        room = guest_of.open(B)
        room.status()
        client.flushall()
        room.status()
        client.flushall()
        assert room.status() is KVPoll.Bootstrapping
        assert sorted(on_server(client)) == [B]


def after(carry, times, do):
    """Attempts.send_script, but something happens before it has said rooms again for the last of so many times."""
    said = []

    def carry_but(attempts, call, *arguments, **options):
        if call.spec is script_specs.REPLAY:
            said.append(call)
            if len(said) == times:
                do()
        return (yield from carry(attempts, call, *arguments, **options))

    return carry_but


def out_of_time():
    raise CallFailed(StoreUnavailableError, "no time left")
