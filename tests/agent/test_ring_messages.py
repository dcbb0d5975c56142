"""The ring between a process and a real agent: order, fullness, deaths, forks, sleep, and who has no ring."""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
from pathlib import Path

from redis_kvpoll.agent import frames
from tests.agent.application import ECHO, FLOOD, RECORD
from tests.support import agents
from tests.support.internals import answers_of_agent, lock_of, ring_of
from tests.support.interrupts import interrupted_at
from tests.support.real import until

SILENT = {"tick": 10.0**6, "early": 10.0**6}
"""The timing of a channel whose thread asks nothing: it does not wake the agent."""


def silent(engine, **options):
    return engine.channel(timing=agents.patient(**SILENT), **options)


def test_large_and_small_messages_keep_their_order(engine):
    """Through many rounds of the ring, and while it is full."""
    here = silent(engine)
    assert ring_of(here.channel) is not None
    sizes = [5, frames.PIECE, 3, 100_000, 7, frames.PIECE + 1, 0, frames.PIECE - 1, 250_000, 1, 60] * 3
    for size in sizes:
        here.send(RECORD, b"x" * size)
    here.send(RECORD, b"last")
    engine.until("received", payload="last")
    assert [event["length"] for event in engine.events("received")] == [*sizes, 4]


def test_a_killed_process_has_told_all_that_it_wrote(engine):
    """Far more than a socket holds, and than is read before the others' turn."""
    agents.kill_with_messages(engine, 5000)
    engine.until("ended", name="victim", how="killed")
    assert agents.learned_of_victim(engine) == [*map(str, range(5000)), "killed"]


class TestSleep:
    def test_agent_that_sleeps_is_woken_by_a_message(self, engine):
        """At once: here nothing else would wake it. Each of its sleeps is ended anew."""
        here = silent(engine)
        for number in range(1, 6):
            until(lambda: ring_of(here.channel).sleep, "the agent's sleep")
            here.send(ECHO, b"%d" % number)
            until(lambda number=number: len(here.messages()) == number, "the echo")

    def test_burst_wakes_once(self, engine):
        """However many messages are written before the agent runs: a system call each would cost what a socket does."""
        here = silent(engine)
        (agent,) = engine.agents()
        until(lambda: ring_of(here.channel).sleep, "the agent's sleep")
        os.kill(agent, signal.SIGSTOP)
        for _ in range(500):
            assert here.channel.send(RECORD, b"")
        pings = answers_of_agent(here.channel)
        os.kill(agent, signal.SIGCONT)
        here.send(ECHO, b"last")
        until(here.messages, "the echo")
        assert answers_of_agent(here.channel) - pings <= 2  # and one for the last message, if it had slept again


class TestWithoutRing:
    def test_older_agent(self, engine):
        """Its memory is the page alone, so messages go by the socket."""
        here = engine.channel(source=engine.launcher("make_without_rings"))
        assert ring_of(here.channel) is None
        for payload in (b"small", b"x" * 100_000):
            here.send(ECHO, payload)
        until(lambda: here.messages() == [b"small", b"x" * 100_000], "the echoes")

    def test_older_process(self, engine):
        """It maps the page, which is where it was, and sends by the socket."""
        engine.channel()
        raw = engine.raw()
        descriptor = raw.memory()
        page = memoryview(mmap.mmap(descriptor, 4096, prot=mmap.PROT_READ)).cast("Q")
        os.close(descriptor)
        sent = page[0]
        raw.send(frames.PING, b"")
        raw.send(ECHO, b"hello")
        assert raw.answer() == (ECHO, b"hello")
        until(lambda: (page[0], page[2]) == (sent + 1, 1), "its counts")
        beats = page[1]
        until(lambda: page[1] > beats, "a beat")

    def test_process_that_cannot_map_it(self, engine, monkeypatch):
        mapped = mmap.mmap

        def limited(descriptor, length, *arguments, **options):
            if length > 4096:
                raise OSError("no memory")
            return mapped(descriptor, length, *arguments, **options)

        monkeypatch.setattr(mmap, "mmap", limited)
        here = engine.channel()
        assert ring_of(here.channel) is None
        here.send(ECHO, b"hello")
        until(lambda: here.messages() == [b"hello"], "the echo")


def memory_of(pid):
    """The mappings of rings and pages that a process has."""
    return Path(f"/proc/{pid}/maps").read_text().count("memfd:redis_kvpoll")


class TestFork:
    def test_child_has_no_ring(self, engine):
        """Neither its mapping nor its writer, whatever another thread was doing at the fork."""
        before = memory_of("self")
        here = engine.channel()
        assert memory_of("self") == before + 2
        writer = ring_of(here.channel)
        with lock_of(here.channel):  # as another thread has it
            child = os.fork()
            if not child:
                status = 1
                with contextlib.suppress(BaseException):
                    is_away = not (here.channel.send(RECORD, b"child") or writer.write(RECORD, b"child"))
                    here.channel.poll()
                    here.channel.close()
                    status = 0 if is_away and memory_of("self") == before else 2
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        here.send(ECHO, b"from the parent")
        until(here.messages, "the echo")

    def test_fork_at_any_place_of_a_send(self, engine):
        """In a signal handler, say: the child goes on with its parent's call, and writes nothing."""
        here = engine.channel(timing=agents.patient(unanswered=10**6))
        parent, number, sent = os.getpid(), 0, []
        while True:
            number += 1
            children = []

            def handler(children=children):
                children.append(os.fork())

            def call(number=number):
                if here.channel.send(RECORD, b"%d" % number):
                    sent.append(b"%d" % number)

            was_interrupted = False
            try:
                was_interrupted = interrupted_at(number, call, handler, ("redis_kvpoll/agent/",))
            finally:
                if os.getpid() != parent:
                    os._exit(0 if was_interrupted else 1)
            if not was_interrupted:
                break
            assert os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]) == 0
        assert number > 5
        here.send(RECORD, b"last")
        engine.until("received", payload="last")
        assert [event["payload"].encode() for event in engine.events("received")] == [*sent, b"last"]
        assert here.named("away") == []


def test_ring_that_makes_no_sense_ends_its_connection_alone(engine):
    here = engine.channel(source=engine.launcher("make_impatient"))
    raw = engine.raw()
    writer, memory, _ = raw.ring()
    assert writer.write(RECORD, b"before")
    raw.send(frames.PING, b"")
    engine.until("received", name="raw", payload="before")
    memory[:8].cast("Q")[0] = 2**40
    raw.send(frames.PING, b"")
    assert engine.until("ended", name="raw")["how"] == "vanished"
    here.send(ECHO, b"beside it")
    until(here.messages, "the echo")


def test_both_sides_let_go_of_their_memory(engine):
    """However many connections there were."""
    before = memory_of("self")
    here = engine.channel(timing=agents.patient(**SILENT))
    (agent,) = engine.agents()
    until(lambda: memory_of(agent) == 1, "one mapping")
    for _ in range(3):
        other = engine.channel(b"other")
        other.send(FLOOD, b"3")
        until(lambda other=other: len(other.messages()) == 3, "the messages")
        other.channel.close(20)
    until(lambda: memory_of(agent) == 1, "one mapping again")
    here.channel.close(20)
    assert memory_of("self") == before
    until(lambda: memory_of(agent) == 0, "none")
