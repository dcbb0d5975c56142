"""A channel beside a real agent: order, fullness, reconnection."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time

import pytest

from redis_kvpoll.agent import frames
from redis_kvpoll.agent.client.channel import AgentChannel
from tests.agent.application import BREAK, ECHO, FLOOD, RECORD
from tests.agent.client import sockets
from tests.support import agents, pace
from tests.support.internals import wake_channel
from tests.support.real import until


@pytest.mark.usefixtures("way")
class TestMessages:
    def test_a_message_goes_there_and_back(self, engine):
        here = engine.channel()
        assert here.named("connected") == [("connected", b"welcome here")]
        here.send(ECHO, b"hello")
        until(here.messages, "the echo")
        assert here.messages() == [b"hello"]
        assert engine.until("received", payload="hello", name="here")

    @pytest.mark.parametrize("size", [0, frames.PIECE, frames.PIECE + 1, 1_500_000])
    def test_a_message_of_any_size_comes_whole(self, engine, size):
        """Also one that is larger than the kernel's buffer: what did not fit follows by itself."""
        here = engine.channel()
        payload = os.urandom(size // 2).hex().encode()
        here.send(ECHO, payload)
        until(here.messages, "the echo")
        assert here.messages() == [payload]

    def test_a_message_that_is_too_long_is_dropped(self, engine, caplog):
        here = engine.channel()
        here.send(ECHO, bytes(frames.MAX_MESSAGE + 1))
        assert "it is too long" in caplog.text
        here.send(ECHO, b"next")
        until(lambda: here.messages() == [b"next"], "the next message")

    def test_what_a_session_sends_at_once_follows_the_welcome(self, engine):
        here = engine.channel(b"early")
        until(here.messages, "the early message")
        assert [call[0] for call in here.calls[:2]] == ["connected", "message"]

    def test_a_session_that_fails_goes_on(self, engine):
        here = engine.channel()
        here.send(BREAK, b"")
        here.send(ECHO, b"still there")
        until(lambda: here.messages() == [b"still there"], "the echo")

    def test_a_callback_that_fails_goes_on(self, engine, caplog):
        answers = []

        def on_message(_, payload):
            answers.append(payload)
            raise RuntimeError("a callback that fails")

        channel = engine.closing(AgentChannel(engine.launcher(), b"x", on_message, lambda _: None, lambda: None))
        channel.start()
        until(lambda: channel.send(ECHO, b"1") and channel.send(ECHO, b"2"), "a connection")
        until(lambda: b"2" in answers, "both echoes")
        channel.close()
        assert "a callback that fails" in caplog.text

    def test_polling_threads_and_the_reader_keep_the_order(self, engine):
        """However many threads take messages, they are passed on one after the other."""
        here = engine.channel()
        is_over = threading.Event()

        def poll():
            while not is_over.is_set():
                here.channel.poll()

        threads = [threading.Thread(target=poll) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            here.send(FLOOD, b"3000")
            until(lambda: len(here.messages()) == 3000, "all messages", 60)
        finally:
            is_over.set()
            for thread in threads:
                thread.join()
        assert [int(payload[:6]) for payload in here.messages()] == list(range(3000))

    def test_a_caller_takes_what_has_come_on_its_own_thread(self, engine):
        """While it polls, the channel's thread looks only now and then."""
        here = engine.channel()

        def is_taken_here():
            here.channel.send(FLOOD, b"1")
            here.channel.poll()
            return threading.current_thread().name in here.threads

        until(is_taken_here, "a message that this thread takes")

    def test_kinds_that_are_not_polled_reach_the_channels_thread(self, engine):
        """And no other, in their order, whoever took them from the socket: they may need a lock of the caller's."""
        here = engine.channel(polled_kinds={ECHO})
        here.send(FLOOD, b"2000")

        def all_have_come():
            here.channel.poll()
            return len(here.messages()) == 2000

        until(all_have_come, "all messages", 60)
        assert [int(payload[:6]) for payload in here.messages()] == list(range(2000))
        assert here.threads == {"redis_kvpoll agent channel"}


class TestWakeUps:
    """Each time that the channel's thread wakes, it takes the interpreter from the process's other threads."""

    def test_the_agent_answers_a_ping_without_a_message(self, engine):
        engine.channel()
        raw = engine.raw()
        assert raw.answer()[0] == frames.WELCOME
        for kind in (frames.PING, ECHO):
            raw.send(kind, b"")
        assert raw.answer()[0] == ECHO

    def test_a_message_that_wakes_the_thread_brings_a_tick(self, engine):
        """So that it does not wake once more for that."""
        ticks = []
        timing = agents.patient(tick=10.0**6, early=0.0)
        here = engine.channel(timing=timing, on_tick=lambda: ticks.append(None))
        before = len(ticks)
        here.send(ECHO, b"")
        until(lambda: len(ticks) > before, "a tick")


class TestFull:
    @pytest.mark.usefixtures("way")
    def test_a_refused_message_is_followed_by_a_call(self, engine):
        """The agent stands still: ring or socket fills up, ``send`` refuses at once, and nothing is lost or moved.

        The channel's own thread sends nothing: ``send`` refuses a message meanwhile.
        """
        here = engine.channel(timing=agents.patient(tick=10.0**6, early=10.0**6))
        (agent,) = engine.agents()
        os.kill(agent, signal.SIGSTOP)
        sent = 0
        while here.channel.send(RECORD, b"%d" % sent):
            sent += 1
        assert 100 < sent < 10_000
        assert not here.channel.send(RECORD, b"refused")
        assert not here.named("writable")
        os.kill(agent, signal.SIGCONT)
        until(lambda: here.named("writable"), "room")
        until(lambda: here.channel.send(RECORD, b"last"), "room for the last one")
        engine.until("received", payload="last")
        assert [event["payload"] for event in engine.events("received")] == [*map(str, range(sent)), "last"]

    @pytest.mark.usefixtures("way")
    def test_a_long_message_goes_on_when_there_is_room(self, engine):
        """Its first pieces are on their way, so it counts as sent; nothing comes between its pieces."""
        here = engine.channel(timing=agents.patient(unanswered=10**6))
        (agent,) = engine.agents()
        os.kill(agent, signal.SIGSTOP)
        here.send(ECHO, b"x" * 2_000_000)
        assert not here.channel.send(ECHO, b"behind it")
        os.kill(agent, signal.SIGCONT)
        until(lambda: here.channel.send(ECHO, b"later"), "room")
        until(lambda: len(here.messages()) == 2, "both", 60)
        assert here.messages() == [b"x" * 2_000_000, b"later"]

    def test_a_process_that_does_not_read_is_dropped(self, engine):
        """What waits for it is bounded. It connects again, its session has learned that it vanished, others go on."""
        full, beside = engine.channel(b"full"), engine.channel(b"beside it")
        full.send(FLOOD, b"20000")
        engine.until("ended", name="full", how="vanished")
        until(lambda: len(full.named("connected")) == 2, "its next connection")
        assert 0 < len(full.messages()) < 20_000
        assert len(beside.named("connected")) == len(engine.agents()) == 1
        beside.send(ECHO, b"beside it")
        until(beside.messages, "an answer")


class TestConnection:
    def test_an_agent_that_is_killed_is_replaced(self, engine):
        here = engine.channel()
        os.kill(engine.agents()[0], signal.SIGKILL)
        until(lambda: len(here.named("connected")) == 2, "another agent", 30)
        assert [call[0] for call in here.calls] == ["connected", "away", "connected"]
        assert len(engine.agents()) == 2
        here.send(ECHO, b"again")
        until(here.messages, "the echo")

    @pytest.mark.usefixtures("way")
    def test_only_the_greeter_sends_before_on_connected_returns(self, engine):
        """So what a process has to say first after a reconnection is the first thing that its agent learns."""
        may_go_on, order = threading.Event(), []

        def on_connected(_):
            order.append(("others", other()))
            order.append(("greeter", channel.send(RECORD, b"first")))
            may_go_on.wait(pace.seconds(20))

        def other():
            answer = []
            thread = threading.Thread(target=lambda: answer.append(channel.send(RECORD, b"too early")))
            thread.start()
            thread.join()
            return answer[0]

        writable = threading.Event()
        channel = engine.closing(
            AgentChannel(engine.launcher(), b"x", lambda *_: None, on_connected, lambda: None, on_writable=writable.set)
        )
        channel.start()
        until(lambda: len(order) == 2, "the greeting")
        assert order == [("others", False), ("greeter", True)]
        may_go_on.set()
        assert writable.wait(pace.seconds(20))
        until(lambda: channel.send(RECORD, b"second"), "room for a message")
        engine.until("received", payload="second")
        channel.close()
        assert [event["payload"] for event in engine.events("received")] == ["first", "second"]

    @pytest.mark.parametrize(("patience", "end"), [(20, "goodbye"), (0, "vanished")])
    def test_goodbye_follows_what_the_greeter_sends(self, engine, patience, end):
        """``close`` waits for that as long as it may, and else says none: the agent must not take a part for all."""
        is_greeting, may_go_on = threading.Event(), threading.Event()

        def on_connected(_):
            is_greeting.set()
            may_go_on.wait(pace.seconds(20))
            channel.send(RECORD, b"first")

        channel = engine.closing(
            AgentChannel(engine.launcher(), b"x", lambda *_: None, on_connected, lambda: None, timing=agents.patient())
        )
        channel.start()
        assert is_greeting.wait(pace.seconds(20))
        closing = threading.Thread(target=channel.close, args=(pace.seconds(patience),))
        closing.start()
        if not patience:
            closing.join()
        may_go_on.set()
        closing.join()
        assert engine.until("ended", name="x")["how"] == end
        assert len(engine.events("received", payload="first")) == bool(patience)

    def test_a_channel_without_an_agent_is_away(self, engine, caplog):
        """Nothing waits, nothing raises, one line says so, and ticks go on."""
        ticks = []
        path = engine.folder / "nobody"
        here = engine.channel(source=path, start=False, on_tick=lambda: ticks.append(time.monotonic()))
        here.channel.start()
        until(lambda: len(ticks) > 6, "ticks")
        assert not here.channel.send(RECORD, b"x")
        here.channel.poll()
        assert here.calls == []
        assert caplog.text.count("no connection to the agent") == 1

    def test_ticks_come_at_most_five_times_a_second(self, engine):
        """However many messages come."""
        ticks, began = [], time.monotonic()
        here = engine.channel(on_tick=lambda: ticks.append(time.monotonic()))
        until(lambda: here.channel.send(ECHO, b"") and len(ticks) > 4, "ticks")
        assert all(tick - began >= 0.2 * number for number, tick in enumerate(ticks, 1))

    def test_an_agent_that_ends_each_connection_is_asked_rarely(self, engine, agent, caplog):
        """Its welcome is no success: an agent that breaks at what it is told is not started in a tight loop."""
        ticks = []
        here = engine.channel(source=agent.path, start=False, on_tick=lambda: ticks.append(1))
        here.channel.start()
        connections = 0
        while len(ticks) < 6:
            agent.accept().close()
            connections += 1
        assert 2 <= connections < 20
        assert caplog.text.count("it ended the connection; trying again") == 1
        connection = agent.accept()
        until(lambda: here.channel.is_connected, "a connection that lasts")
        before = len(ticks)
        until(lambda: len(ticks) > before + 2, "questions")
        connection.close()
        for _ in range(3):  # which begins anew
            agent.accept().close()
        until(lambda: caplog.text.count("it ended the connection; trying again") == 2, "another line")

    def test_a_refused_process_is_told_why(self, engine, caplog):
        here = engine.channel(b"refuse", start=False)
        here.channel.start()
        until(lambda: "this application refuses it" in caplog.text, "the reason")
        assert not here.channel.is_connected

    @pytest.mark.usefixtures("way")
    def test_a_closed_channel_has_said_goodbye(self, engine):
        here = engine.channel()
        here.send(RECORD, b"last")
        here.channel.close(pace.seconds(10))
        engine.until("ended", name="here", how="goodbye")
        assert engine.events("received", payload="last")
        assert not here.channel.send(RECORD, b"after the end")
        assert not here.named("away")

    def test_a_thread_that_ends_during_close_is_no_error(self, engine):
        """It takes its descriptor with it, at any moment."""
        here = engine.channel()
        here.channel.close(pace.seconds(10))
        wake_channel(here.channel)

    def test_a_forked_child_has_no_channel(self, engine):
        gc.collect()  # it closes what other tests have left
        others = set(sockets())
        here = engine.channel()
        assert set(sockets()) - others
        child = os.fork()
        if not child:
            status = 1
            try:
                here.channel.poll()
                is_away = not here.channel.send(RECORD, b"from the child") and not here.channel.is_connected
                if is_away and set(sockets()) <= others:
                    here.channel.close()
                    status = 0
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        here.send(ECHO, b"from the parent")
        until(here.messages, "the echo")
        assert [event["payload"] for event in engine.events("received")] == ["from the parent"]
