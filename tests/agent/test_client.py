"""A client beside what listens in its agent's place: what it tells at its end, and what it counts."""

from __future__ import annotations

import contextlib
import os
import threading
from types import SimpleNamespace

import pytest

from redis_kvpoll.agent import frames, messages
from redis_kvpoll.agent.client import client as client_module
from redis_kvpoll.agent.client.client import TableClient
from redis_kvpoll.agent.client.open_channel import agent_name
from redis_kvpoll.agent.messages import ClientHello
from redis_kvpoll.agent.session_state import SessionState
from redis_kvpoll.integrations.sglang.registry import RoomRegistry
from tests.support import pace
from tests.support.real import until

BOOT, OK = 1, 4


def hello(url="redis://h", **options):
    return ClientHello(
        url, {"namespace": "t"} | options, "owner", "name", "prefill/10.0.0.1:8998", 5.0, pace.seconds(60)
    )


def say(connection, kind, payload):
    connection.send(frames.HEADER.pack(kind, 0) + payload)


def heard(connection, last):
    """The kinds of all messages up to a kind, without what the channel says for itself."""
    found, assembler = [], frames.Assembler()
    while last not in found:
        packet = connection.recv(100_000)
        assert packet, "the client has ended the connection"
        message = assembler.add(packet)
        if message and message[0] < frames.FIRST_CONTROL:
            found.append(message[0])
    return found


def begin_to_close(client, rooms, monkeypatch):
    """Close a client in a thread; returns that once all that the client has to say waits to be sent."""
    change, has_said, closing = rooms.change, threading.Event(), threading.Thread(target=client.close)

    def changed(call):
        change(call)
        if threading.current_thread() is closing:
            has_said.set()

    monkeypatch.setattr(rooms, "change", changed)
    closing.start()
    assert has_said.wait(pace.seconds(20))
    return closing


@pytest.fixture
def joined(agent):
    """A client that has joined, its rooms, and the agent's end of its connection."""
    nothing = lambda *_: None  # noqa: E731
    handlers = SimpleNamespace(state_changed=nothing, tick=nothing, went_on_alone=nothing)
    rooms = RoomRegistry()
    client = TableClient(hello(), agent.path, rooms, handlers)
    joining = threading.Thread(target=client.join)
    joining.start()
    with contextlib.closing(agent.accept()) as connection:
        say(connection, messages.JOINED, b"")
        joining.join()
        yield client, rooms, connection
    client.channel.close(0.0)


def test_client_leaves_behind_its_changes(joined, monkeypatch):
    """The agent takes nothing for a while, so the last changes do not fit: it must not hear of the end before them."""
    monkeypatch.setattr(client_module, "CLOSE_SECONDS", pace.seconds(20))
    client, rooms, connection = joined
    room = 0
    while client.sent == room:
        room += 1
        rooms.statuses[room] = BOOT
    for late in range(room + 1, room + 10):
        rooms.statuses[late] = BOOT
    closing = begin_to_close(client, rooms, monkeypatch)
    assert heard(connection, messages.LEAVE) == [messages.CHANGE] * (room + 9) + [messages.LEAVE]
    say(connection, messages.LEFT, b"")
    closing.join()


def test_client_whose_agent_is_away_leaves_by_the_next(joined, agent, monkeypatch):
    """It waits for that one: nobody else would tell its last changes, or end its lease."""
    monkeypatch.setattr(client_module, "CLOSE_SECONDS", pace.seconds(20))
    client, rooms, connection = joined
    connection.close()
    until(lambda: not client.channel.is_connected, "its end")
    rooms.statuses[7] = BOOT
    closing = begin_to_close(client, rooms, monkeypatch)
    try:
        with contextlib.closing(agent.accept()) as following:
            assert heard(following, messages.LEAVE) == [messages.CHANGE, messages.LEAVE]
            say(following, messages.LEFT, b"")
            closing.join()
    except (OSError, frames.FrameError):
        pytest.fail("it has not waited")


def test_client_that_goes_on_alone_waits_for_nothing_at_its_end(joined):
    client, _, _ = joined
    client.go_on_alone()
    with pace.Stopwatch() as took:
        client.close()
    assert took.seconds < client_module.CLOSE_SECONDS / 2


def test_client_that_is_refused_later_goes_on_alone(joined, caplog):
    """Another process has its name: it must not seem to be in the table."""
    client, rooms, connection = joined
    say(connection, messages.REFUSED, messages.encode_words("another process has joined as owner", ""))
    until(lambda: not client.channel.is_connected, "the end of its connection")
    rooms.statuses[7] = BOOT
    assert (client.sent, client.is_told) == (0, False)
    assert "name has left the status table until it is restarted: another process has joined as owner" in caplog.text


def test_dropped_lives_of_a_former_agent_stay_counted(joined, agent):
    """The next one begins at 0; what only grows for Prometheus never falls."""
    client, _, connection = joined
    say(connection, messages.STATE, messages.encode_words(*SessionState(dropped=5)))
    until(lambda: client.state.dropped == 5, "the count")
    connection.close()
    with contextlib.closing(agent.accept()) as following:
        until(lambda: client.channel.is_connected, "the next connection")
        assert client.state.dropped == 5
        say(following, messages.STATE, messages.encode_words(*SessionState(dropped=2, is_up=True)))
        until(lambda: client.state.is_up, "the next state")
        assert client.state.dropped == 7


def test_held_room_that_cannot_be_written_hides_no_other(joined, agent):
    """After a reconnection each is told; one that cannot be told keeps nothing else from the agent."""
    _, rooms, connection = joined
    rooms.on_hold = lambda room, *others: rooms.sender.post_life(messages.HOLD, room, *others)
    rooms.awaits_claims = True
    for room in (2**200, 7):
        rooms.statuses[room] = BOOT
    assert heard(connection, messages.HOLD) == [messages.HOLD]
    connection.close()
    with contextlib.closing(agent.accept()) as following:
        assert heard(following, messages.HOLD) == [messages.HOLD]


class TestAgentName:
    """Everybody on the host can read it in the list of processes."""

    @pytest.mark.parametrize(
        "url",
        [
            "redis://:secret@h:6379/1",
            "redis://user:secret@h:6379/1",
            "redis://user:sec@ret@h:6379/1",
            "redis://h:6379/1?password=secret",
            "redis://user:secret@h:6379/1?sentinel_password=secret",
        ],
        ids=["password", "user", "unescaped", "option", "sentinel"],
    )
    def test_no_part_of_it_depends_on_a_password(self, url):
        assert agent_name(hello(url)) == agent_name(hello("redis://h:6379/1"))

    @pytest.mark.parametrize("url", ["redis://:se?{}@h", "{}", "redis://h?sentinel_password={}@x", "redis://h?a=x@{}"])
    def test_url_that_is_wrong_does_not_show_in_it_either(self, url):
        assert agent_name(hello(url.format("cret"))) == agent_name(hello(url.format("another")))

    def test_url_that_is_no_text_has_one(self):
        """It comes from a variable, and the agent says what is wrong with it."""
        assert agent_name(hello(os.fsdecode(b"redis://h\xc3")))

    def test_servers_and_deployments_have_agents_of_their_own(self):
        found = [hello(), hello("redis://g"), hello("redis://h/1"), hello("rediss://h"), hello(namespace="u")]
        assert len(set(map(agent_name, found))) == len(found)
