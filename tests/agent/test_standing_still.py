"""Agents that stand still, that are two, or whose folder is gone: no living process is ended, and all goes on."""

from __future__ import annotations

import os
import shutil
import signal

import pytest

from redis_kvpoll.agent.client.channel import Timing
from tests.agent.application import ECHO, STALL
from tests.support import pace
from tests.support.agents import is_alive
from tests.support.real import until


def quick():
    """The timing of a channel that gives up an agent after a second on a machine at rest."""
    return Timing(unanswered=round(4 * pace.factor()), unwelcome=1_000)


class TestStopped:
    def test_another_agent_takes_its_place(self, engine):
        """When it wakes, it ends by itself, and ends nobody."""
        here, beside = engine.channel(timing=quick()), engine.channel(b"beside", timing=quick())
        (former,) = engine.agents()
        os.kill(former, signal.SIGSTOP)
        until(lambda: len(here.named("connected")) == len(beside.named("connected")) == 2, "another agent", 60)
        _, newer = engine.agents()
        here.send(ECHO, b"there")
        until(here.messages, "the echo")
        assert here.channel.agent == beside.channel.agent == engine.rendezvous.newest()
        os.kill(former, signal.SIGCONT)
        until(lambda: not is_alive(former), "the former agent's end")
        assert {event["how"] for event in engine.events("ended", agent=former)} == {"superseded"}
        assert len(engine.events("ended", agent=former)) == 2
        assert not engine.events("ended", agent=newer)

    def test_a_death_meanwhile_is_told_by_the_newer_alone(self, engine):
        """The former one sees the death as it wakes, but is not the newest any more."""
        client = engine.client("victim")
        here = engine.channel(timing=quick())
        (former,) = engine.agents()
        os.kill(former, signal.SIGSTOP)
        until(lambda: len(here.named("connected")) == 2, "another agent", 60)
        client.kill()
        client.wait()
        os.kill(former, signal.SIGCONT)
        until(lambda: not is_alive(former), "the former agent's end")
        assert [event["how"] for event in engine.events("ended", agent=former, name="victim")] == ["superseded"]

    def test_a_process_that_stands_still_blames_nobody(self, engine):
        """A client that is stopped for long asks again before it gives its agent up."""
        client = engine.client("stopped", f"--unanswered={quick().unanswered}")
        os.kill(client.pid, signal.SIGSTOP)
        for _ in pace.turns(3):
            pass
        os.kill(client.pid, signal.SIGCONT)
        for _ in pace.turns(1):
            pass
        assert len(engine.agents()) == 1
        assert not engine.events("ended")

    def test_an_agent_that_is_only_busy_is_kept(self, engine):
        """Its process runs, however long its event loop takes: another one would be no faster."""
        second = pace.seconds(1)
        here = engine.channel(timing=Timing(tick=0.3 * second, unanswered=4, busy=10**6, unwelcome=1_000))
        here.send(STALL, b"%g" % (3 * second))
        here.send(ECHO, b"later")
        until(here.messages, "the echo")
        assert len(engine.agents()) == 1
        assert not here.named("away")

    @pytest.mark.slow
    def test_twenty_seconds(self, engine):
        here = engine.channel(timing=quick())
        (former,) = engine.agents()
        os.kill(former, signal.SIGSTOP)
        for _ in pace.turns(20):
            here.channel.send(ECHO, b"meanwhile")
        os.kill(former, signal.SIGCONT)
        until(lambda: not is_alive(former), "the former agent's end")
        assert {event["how"] for event in engine.events("ended", agent=former)} == {"superseded"}
        until(lambda: here.channel.send(ECHO, b"after"), "room")
        until(lambda: b"after" in here.messages(), "the echo")


class TestTwo:
    def test_the_older_one_sends_its_processes_to_the_newer(self, engine):
        """Two agents by mistake: within a second all are with one."""
        here = engine.channel()
        (former,) = engine.agents()
        engine.launcher().connect(newer_than=engine.rendezvous.newest())[0].close()
        until(lambda: not is_alive(former), "the former agent's end")
        until(lambda: len(here.named("connected")) == 2, "the newer agent", 30)
        assert [event["how"] for event in engine.events("ended", agent=former)] == ["superseded"]
        assert len(engine.agents()) == 2

    def test_one_that_is_terminated_ends_nobody(self, engine):
        here = engine.channel()
        os.kill(engine.agents()[0], signal.SIGTERM)
        until(lambda: len(here.named("connected")) == 2, "another agent", 30)
        assert engine.events("ended")[0]["how"] == "superseded"
        assert engine.events("closed")


class TestFolder:
    def test_a_removed_folder_is_made_again(self, engine):
        """A cleaner took it: the agent goes on, and whoever comes finds it."""
        here = engine.channel()
        number = engine.rendezvous.newest()
        shutil.rmtree(engine.rendezvous.lock_path().parent)
        until(lambda: engine.rendezvous.newest() == number, "the folder")
        beside = engine.channel(b"beside")
        assert len(engine.agents()) == 1
        for each in (here, beside):
            each.send(ECHO, b"there")
            until(each.messages, "the echo")
        assert here.named("away") == []
