"""A signal handler that raises inside ``send`` or ``poll``, or uses the channel itself, at every place of the code."""

from __future__ import annotations

import pytest

from redis_kvpoll.agent.client.channel import Timing
from tests.agent.application import ECHO, FLOOD
from tests.support import pace
from tests.support.interrupts import Interrupted, completes, interrupted_at
from tests.support.real import until

WHERE = ("redis_kvpoll/agent/",)


def raise_interrupted():
    raise Interrupted


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("size", [5, 100_000])
def test_an_exception_at_any_place_costs_one_connection(engine, size):
    """A thread that is thrown out while it sends or takes messages leaves its connection in an unknown state.

    That connection is given up, the same agent serves the next one, and messages go there and back.
    """
    unanswered = round(4 * pace.factor())
    here = engine.channel(timing=Timing(tick=0.05, unanswered=unanswered, unwelcome=10_000, longest_pause=0.05))
    number = 0
    while True:
        number += 1

        def call():
            here.channel.send(ECHO, b"x" * size)
            here.channel.poll()

        until(lambda: here.channel.is_connected, "a connection")
        if not interrupted_at(number, call, raise_interrupted, WHERE):
            break

        def answers(number=number):
            here.channel.send(ECHO, b"after %d" % number)
            return b"after %d" % number in here.messages()

        until(answers, f"an answer after an exception at place {number}", 60)
    assert number > 5
    assert len(engine.agents()) == 1


@pytest.mark.usefixtures("way")
def test_a_handler_may_use_the_channel_at_any_place(engine):
    """It never waits for the thread that it interrupts: its own."""
    here = engine.channel()
    number, sent = 0, []

    def handler():
        if here.channel.send(ECHO, b"handler %d" % number):
            sent.append(b"handler %d" % number)
        here.channel.poll()

    def call():
        if here.channel.send(ECHO, b"call %d" % number):
            sent.append(b"call %d" % number)
        here.channel.send(FLOOD, b"1")
        here.channel.poll()

    while True:
        number += 1
        if not completes(lambda n=number: interrupted_at(n, call, handler, WHERE)):
            break
    assert number > 10
    until(lambda: len([1 for payload in here.messages() if not payload.startswith(b"0")]) == len(sent), "all echoes")
    echoes = [payload for payload in here.messages() if not payload.startswith(b"0")]
    assert sorted(echoes) == sorted(sent)
    assert here.named("away") == []
