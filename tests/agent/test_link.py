"""One connection of a process, without an agent: what it does when the kernel's buffer is full."""

from __future__ import annotations

import threading

import pytest

from redis_kvpoll.agent import frames
from redis_kvpoll.agent.link import Link
from tests.support import agents, pace


@pytest.fixture
def ends():
    """A link, and the other end of its connection."""
    one, other = agents.pair()
    with one, other:
        one.setblocking(False)
        other.setblocking(False)
        yield Link(one), other


def take(other, assembler):
    """The next message at the other end, or None if there is none, or only a part of one."""
    while True:
        try:
            message = assembler.add(other.recv(100_000))
        except BlockingIOError:
            return None
        except frames.FrameError as error:
            pytest.fail(str(error))
        if message:
            return message


def test_a_message_follows_the_rest_of_the_one_before(ends):
    """Whoever makes room first: the kernel has room again, but a message that is sent now goes behind the rest."""
    link, other = ends
    assembler = frames.Assembler()
    long = bytes(1_000_000)
    assert link.send(1, long)
    taken = []
    for _ in range(100):
        if message := take(other, assembler):
            taken.append(message)
        if link.send(2, b"later"):
            break
    else:
        pytest.fail("there never was room")
    taken += iter(lambda: take(other, assembler), None)
    assert taken == [(1, long), (2, b"later")]


def test_a_link_whose_other_end_is_gone_has_ended(ends):
    """What the other end had sent is taken; then neither way goes on, and nothing raises."""
    link, other = ends
    other.send(bytes([1, 0]) + b"last")
    link.send(1, b"unread, so that the kernel resets the connection")
    other.close()
    assert not link.send(1, b"x")
    taken = []
    assert link.receive(lambda _, kind, payload: taken.append((kind, payload)))
    assert taken == [(1, b"last")]
    assert link.is_ended
    link.end()
    assert not link.send(1, b"x")
    assert not link.receive(lambda *_: pytest.fail("nothing can come"))


def test_what_another_thread_kept_from_being_sent_wants_room(ends):
    """Also if the room is there before that thread is done: else nobody would say so again."""
    link, other = ends
    link.socket = sending = Slow(link.socket)
    thread = threading.Thread(target=link.send, args=(1, b"slow"))
    thread.start()
    assert sending.has_begun.wait(pace.seconds(20))
    assert not link.send(1, b"refused")
    link.wants_room = False  # as by the channel's thread, which sees that the kernel has room
    assert not link.flush()
    assert link.wants_room
    sending.may_end.set()
    thread.join()
    assert link.flush()
    assert take(other, frames.Assembler()) == (1, b"slow")


class Slow:
    """A socket that sends when it may. It waits only once, so that a thread which waits for it goes on."""

    def __init__(self, inner):
        self.inner = inner
        self.has_begun, self.may_end = threading.Event(), threading.Event()

    def send(self, *arguments):
        self.has_begun.set()
        self.may_end.wait(pace.seconds(5))
        self.may_end.set()
        return self.inner.send(*arguments)
