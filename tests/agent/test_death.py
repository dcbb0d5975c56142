"""How a process ends, as its session learns it: by the kernel's word, after all that it sent."""

from __future__ import annotations

import os

import pytest

from redis_kvpoll.agent import frames
from redis_kvpoll.agent.link import start_of
from redis_kvpoll.agent.server import process_death
from tests.agent.application import ECHO
from tests.support import agents
from tests.support.agents import tell
from tests.support.real import until

MESSAGES = 200
"""Fewer than the kernel's buffer has room for."""


def die_with_messages(engine, *options):
    agents.kill_with_messages(engine, MESSAGES, *options)


EVERYTHING = [*map(str, range(MESSAGES)), "killed"]


class TestKilled:
    @pytest.mark.parametrize("way", [(), ("--socket",)], ids=["ring", "socket"])
    def test_messages_come_before_the_end(self, engine, way):
        die_with_messages(engine, *way)
        engine.until("ended", name="victim")
        assert agents.learned_of_victim(engine) == EVERYTHING

    def test_a_child_that_holds_the_socket_changes_nothing(self, engine):
        """The socket does not end, as a child has it, too: the kernel's word for the process counts."""
        die_with_messages(engine, "--hold")
        engine.until("ended", name="victim")
        assert agents.learned_of_victim(engine) == EVERYTHING

    @pytest.mark.parametrize("function", ["make", "make_without_peer_pidfd"])
    def test_the_kernel_tells_the_end_of_every_process(self, engine, function):
        """Before Linux 6.5 by the pid and the time of its start."""
        client = engine.client("victim", f"--application=tests.agent.application:{function}", "--hold")
        assert engine.until("opened", name="victim")["is_watched"]
        client.kill()
        assert engine.until("ended", name="victim")["how"] == "killed"

    def test_without_a_watch_the_socket_says_vanished(self, engine):
        """So nobody is ended who may live: the lease decides."""
        client = engine.client("victim", "--application=tests.agent.application:make_without_pidfd")
        assert not engine.until("opened", name="victim")["is_watched"]
        engine.channel(b"beside")  # else this agent ends with its last process
        client.kill()
        assert engine.until("ended", name="victim")["how"] == "vanished"

    @pytest.mark.slow
    def test_memory_that_the_kernel_frees_first(self, engine):
        """A gigabyte: the kernel needs some 0.2 s before it closes the socket and tells the death."""
        die_with_messages(engine, "--megabytes=1024")
        engine.until("ended", name="victim")
        assert agents.learned_of_victim(engine) == EVERYTHING

    def test_a_goodbye_is_not_a_death(self, engine):
        client = engine.client("victim", f"--messages={MESSAGES}")
        tell(client, "send", "sent")
        tell(client, "close", "closed")
        client.kill()
        engine.until("ended", name="victim")
        assert agents.learned_of_victim(engine) == [*map(str, range(MESSAGES)), "goodbye"]


class TestVanished:
    def test_a_process_that_lives_has_vanished_alone(self, engine):
        """Its socket ended without a goodbye, and it is this process: it lives."""
        engine.channel(source=engine.launcher("make_impatient"))
        raw = engine.raw()
        raw.send(ECHO, b"a message")
        raw.socket.close()
        assert engine.until("ended", name="raw")["how"] == "vanished"
        assert engine.events("received", name="raw", payload="a message")

    def test_its_death_is_told_later(self, engine):
        """The child's connection ends, and some time later the child."""
        engine.channel(source=engine.launcher("make_impatient"))
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            os.close(writing)
            engine.raw(name=b"child").socket.close()
            os.read(reading, 1)
            os._exit(0)
        os.close(reading)
        engine.until("ended", name="child", how="vanished")
        os.close(writing)
        os.waitpid(child, 0)
        engine.until("ended", name="child", how="killed")

    def test_a_channel_that_is_back_replaces_its_former_connection(self, engine):
        """What the former one sent is passed on before the new session opens; its end is told once."""
        engine.channel()
        former = engine.raw(name=b"former")
        former.send(ECHO, b"a message")
        engine.raw(name=b"back")
        engine.until("opened", name="back")
        told = [(event["event"], event["name"]) for event in engine.events() if event.get("name") in ("former", "back")]
        assert told == [("opened", "former"), ("received", "former"), ("ended", "former"), ("opened", "back")]
        assert engine.events("ended", name="former")[0]["how"] == "vanished"


class TestRefused:
    def test_another_version_is_refused(self, engine):
        engine.channel()
        kind, why = engine.raw(versions=(7, 9)).answer()
        assert kind == frames.REFUSED
        assert why.decode() == "the agent speaks versions 2 to 2 of the protocol, and this process 7 to 9"

    def test_a_refusal_that_no_text_can_be_made_of_ends_alone(self, engine):
        """A name from the environment may be no UTF-8."""
        here = engine.channel()
        assert engine.raw(name=b"refuse oddly").answer() == (frames.REFUSED, b"? is no name")
        here.send(ECHO, b"beside it")
        until(here.messages, "the echo")

    @pytest.mark.parametrize("packet", [b"x", bytes([frames.HELLO, 0]), b"\x01\x07"])
    def test_an_invalid_packet_ends_its_connection_alone(self, engine, packet):
        here = engine.channel(source=engine.launcher("make_impatient"))
        raw = engine.raw()
        until(lambda: engine.events("opened", name="raw"), "its session")
        raw.socket.send(packet)
        if packet[0] != frames.HELLO:  # A second hello is ignored.
            assert engine.until("ended", name="raw")["how"] == "vanished"
        here.send(ECHO, b"beside it")
        until(here.messages, "the echo")

    def test_messages_before_a_hello_are_nobodys(self, engine):
        here = engine.channel()
        raw = engine.raw(name=None)
        raw.send(ECHO, b"whose?")
        raw.send(frames.GOODBYE, b"")
        raw.socket.close()
        here.send(ECHO, b"beside it")
        until(here.messages, "the echo")
        assert not engine.events("received", payload="whose?")


class TestWatch:
    def test_a_pid_that_is_used_again_is_not_its_process(self, monkeypatch):
        """Without the kernel's word for the socket's peer, the time of its start must agree."""
        monkeypatch.setattr(process_death, "SO_PEERPIDFD", -1)
        one, other = agents.pair()
        with one, other:
            pid = os.getpid()
            watch = process_death.open_watch(one, frames.Hello(pid, start_of(pid), bytes(16), 0))
            assert not process_death.has_ended(watch)
            os.close(watch)
            with pytest.raises(ProcessLookupError):
                process_death.open_watch(one, frames.Hello(pid, start_of(pid) + 1, bytes(16), 0))
            assert process_death.open_watch(one, frames.Hello(pid, 0, bytes(16), 0)) is None
            assert process_death.open_watch(one, frames.Hello(pid + 1, start_of(pid), bytes(16), 0)) is None

    def test_a_process_that_proc_hides_is_not_watched(self, monkeypatch):
        """As by the option hidepid, or without free descriptors. It lives, so its rooms must not fail as killed."""
        pid = os.getpid()
        hello = frames.Hello(pid, start_of(pid), bytes(16), 0)
        monkeypatch.setattr(process_death, "SO_PEERPIDFD", -1)
        monkeypatch.setattr(process_death, "start_of", lambda _: 0)
        one, other = agents.pair()
        with one, other:
            try:
                assert process_death.open_watch(one, hello) is None
            except ProcessLookupError:
                pytest.fail("it counts as killed")
            monkeypatch.setattr(process_death, "has_ended", lambda _: True)
            with pytest.raises(ProcessLookupError):
                process_death.open_watch(one, hello)
