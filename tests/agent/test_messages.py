"""What a client and its session write is what the other reads."""

from __future__ import annotations

import pytest

from redis_kvpoll import KVPoll
from redis_kvpoll.agent import messages
from redis_kvpoll.agent.messages import ClientHello
from redis_kvpoll.agent.outbox import RoomLife
from redis_kvpoll.agent.session.client_news import ClientNews
from redis_kvpoll.agent.session_state import SessionState
from redis_kvpoll.engine.leases.lease_state import LeaseState
from redis_kvpoll.validation import MAX_PREFIX_LEN, MAX_REASON
from tests.support.told import encode


@pytest.mark.parametrize("room", [0, 42, 2**64 - 1, 2**64 + 1, -(2**62)])
@pytest.mark.parametrize(
    "life",
    [
        RoomLife(1),
        RoomLife(7, is_new=True, request="rid é", status=1, length=0, opened_at=12.5),
        RoomLife(2**40, is_new=True, status=0, reason="why \udc80 🙂", is_over=True, generation=1795689786638044),
    ],
)
def test_change_is_read_as_it_was_written(room, life):
    found_room, found = messages.decode_change(encode(room, life))
    assert (found_room, found, found.opened_at) == (room, life, life.opened_at)


def test_news_are_one_message_for_one_wake_up():
    sent = []
    news = ClientNews(lambda kind, payload: sent.append((kind, payload)))
    news.opened(2**64 - 1, 3, 1795689786638044)
    news.ended(7, 2)
    news.send(SessionState(received=4), LeaseState(12, (("epoch", 0),)))
    [(kind, payload)] = sent
    assert kind == messages.NEWS
    opened, ended, lease, state = messages.decode_news(payload)
    assert list(messages.decode_lives(opened[1])) == [(2**64 - 1, 3, 1795689786638044)]
    assert list(messages.decode_lives(ended[1])) == [(7, 2, 0)]
    assert [part[0] for part in (opened, ended, lease, state)] == [82, 83, 93, 88]
    news.send(SessionState(received=5), None)
    assert [kind for kind, _ in sent[1:]] == [messages.STATE]


def test_what_the_table_would_refuse_is_still_told():
    """It is refused there, with a line in the log, and not in a thread of SGLang's."""
    life = RoomLife(1, status=17, length=10**30, reason="x" * 5000)
    _, found = messages.decode_change(encode(1, life))
    assert (found.status, found.length, len(found.reason)) == (None, MAX_PREFIX_LEN + 1, MAX_REASON + 1)


@pytest.mark.parametrize("reason", ["\n", " " * (MAX_REASON + 1) + "why"], ids=["blank", "blank where it is cut"])
def test_blank_reason_is_none(reason):
    """The table refuses one, and with it the status that it is for."""
    _, found = messages.decode_change(encode(1, RoomLife(1, status=0, reason=reason)))
    assert found == RoomLife(1, status=0)


def test_lives_and_ranks_are_read_as_they_were_written():
    lives = [(1, 2, 3), (2**64 - 1, 4, 0)]
    assert list(messages.decode_lives(messages.encode_lives(lives))) == lives
    ranks = [(5, 6, {0: KVPoll.Failed, 1023: KVPoll.Success}), (7, 8, {})]
    assert list(messages.decode_ranks(messages.encode_ranks(ranks))) == ranks
    assert messages.decode_life(messages.encode_life(5, 6, True, 0.5)) == (5, 6, True, 0.5)


def test_hello_is_read_as_it_was_written():
    hello = ClientHello("redis://h", {"world_size": 8}, "a", "b", "c", 5.0, 10.0, former=["1", [["t", "e"]]])
    assert ClientHello.decode(hello.encode()) == hello
    assert hello.world_size == 8
    later = hello.encode()[:-1] + b', "of_a_later_version": 1}'
    assert ClientHello.decode(later) == hello
