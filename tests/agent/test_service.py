"""``kvpoll agent``: an agent that somebody else starts, at a path."""

from __future__ import annotations

import grp
import logging
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from redis_kvpoll.agent.client.channel import AgentChannel
from redis_kvpoll.agent.client.source import ServicePath
from redis_kvpoll.agent.server.running import load
from tests.agent.application import ECHO
from tests.support import agents, pace
from tests.support.real import hear_signals, until

AGENT = [sys.executable, "-m", "redis_kvpoll.cli", "agent"]
APPLICATION = f"{agents.APPLICATION}:make"


@pytest.fixture
def path(engine):
    return engine.folder / "agent.sock"


@pytest.fixture
def run(engine, path):
    """Start a service; it has its socket when this returns."""
    services = []

    def start(*options, **environment):
        command = [*AGENT, "--socket", str(path), *options, APPLICATION]
        service = subprocess.Popen(
            command,
            cwd=agents.PROJECT,
            env=os.environ | environment,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=hear_signals,
        )
        services.append(service)
        until(lambda: service.pid in engine.agents(), "its start")
        return service

    yield start
    for service in services:
        service.kill()
        service.wait()
        service.stderr.close()


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_processes_connect_to_a_service(engine, path, run):
    service = run()
    assert mode(path) == 0o600
    here = engine.channel(source=path)
    here.send(ECHO, b"hello")
    until(here.messages, "the echo")
    service.terminate()
    assert service.wait() == 0
    assert engine.events("ended")[0]["how"] == "superseded"
    assert not path.exists()
    run()
    until(lambda: len(here.named("connected")) == 2, "the next service", 30)


def test_the_log_says_who_comes_and_goes(engine, path, run):
    """One line for the start, with the socket's path, and one for each process that joins, leaves, or is killed."""
    service = run()
    first, second = (engine.client(name, "--service", str(path)) for name in ("first", "second"))
    agents.tell(first, "close", "closed")
    engine.until("ended", how="goodbye")
    second.kill()
    engine.until("ended", how="killed")
    service.terminate()
    lines = [line.partition(" INFO ")[2] for line in service.communicate()[1].splitlines()]
    started, *between, ended = lines
    assert re.fullmatch(rf"agent \d+ runs as process {service.pid} at {re.escape(str(path))}", started)
    assert between[2:] == [f"process {first.pid} has left", f"process {second.pid} has ended without a goodbye"]
    assert sorted(between[:2]) == sorted(f"process {p.pid} of user {os.getuid()} has joined" for p in (first, second))
    assert re.fullmatch(r"agent \d+ has ended", ended)


def test_the_channel_names_the_path_and_the_next_agent(engine, path, run, caplog):
    """A line that warns of an agent that is away has its counterpart, also if the agent was only replaced."""
    caplog.set_level(logging.INFO)
    here = engine.channel(source=path, start=False)
    here.channel.start()
    until(lambda: f"no connection to the agent at {path}: [Errno 2]" in caplog.text, "the warning")
    service = run()
    until(lambda: caplog.text.count("connected to agent") == 1, "its counterpart", 30)
    service.kill()
    run()
    until(lambda: caplog.text.count("connected to agent") == 2, "the next agent", 30)


@pytest.mark.parametrize("is_starting", [False, True], ids=["away", "ends as soon as it listens"])
def test_a_service_that_was_away_for_long_is_found_soon(engine, path, run, is_starting):
    """It has to be found within the lease. Where each try may start an agent, the pauses grow."""

    class Counted(ServicePath):
        tries = 0

        def connect(self, newer_than):
            self.tries += 1
            if is_starting and self.tries <= 15:
                here, there = socket.socketpair()
                there.close()
                return here, 0
            return super().connect(newer_than)

    source = Counted(path)
    here = engine.channel(source=source, start=False, timing=agents.patient(longest_pause=10_000.0))
    here.channel.start()
    until(lambda: source.tries > 15, "many tries", 30)
    run()
    until(lambda: here.channel.is_connected, "its service", 30)


def test_a_service_that_comes_and_refuses_says_why(engine, path, run, caplog):
    here = engine.channel(b"refuse", source=path, start=False)
    here.channel.start()
    until(lambda: "[Errno 2]" in caplog.text, "that it is away")
    run()
    until(lambda: "this application refuses it" in caplog.text, "the reason", 30)
    assert caplog.text.count("[Errno 2]") == 1


def test_a_killed_service_leaves_nothing_in_the_way(engine, path, run):
    run().kill()
    here = engine.channel(source=path, start=False)
    here.channel.start()
    run()
    until(lambda: here.channel.is_connected, "the next service", 30)


def test_ctrl_c_ends_it(engine, path, run):
    service = run()
    engine.channel(source=path)
    service.send_signal(signal.SIGINT)
    assert service.wait() == 0


def test_a_second_one_at_the_same_path_is_refused(path, run):
    run()
    second = subprocess.run(
        [*AGENT, APPLICATION],
        env=os.environ | {"KVPOLL_AGENT": str(path)},
        capture_output=True,
        text=True,
        cwd=agents.PROJECT,
        check=False,
    )
    assert second.returncode == 1
    assert second.stderr.splitlines()[-1] == f"Error: an agent listens at {path}: end it, or choose another path"


def test_the_folder_is_made(engine, run, path):
    """As for /run/kvpoll on a host that has just started."""
    folder = path.parent / "kvpoll"
    run("--socket", str(folder / "agent.sock"))
    assert mode(folder / "agent.sock") == 0o600
    assert mode(folder) == 0o755 & ~current_umask()


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("{0}/no/where/agent.sock", "Error: {0}/no does not exist: make it, or choose another --socket"),
        ("{0}/file/agent.sock", "Error: {0}/file cannot be made: File exists; make it, or choose another --socket"),
    ],
)
def test_an_unusable_folder_is_one_sentence(tmp_path, place, message):
    (tmp_path / "file").touch()
    command = [*AGENT, "--socket", place.format(tmp_path), APPLICATION]
    found = subprocess.run(command, capture_output=True, text=True, cwd=agents.PROJECT, check=False)
    assert (found.returncode, found.stderr.splitlines()[-1]) == (1, message.format(tmp_path))


@pytest.mark.parametrize("make", [Path.touch, Path.mkdir, lambda path: path.symlink_to("nothing")])
def test_what_is_no_socket_stays(path, make):
    """``--socket`` may be mistyped. Nothing is made beside it, either."""
    make(path)
    before = path.lstat()
    command = [*AGENT, "--socket", str(path), APPLICATION]
    found = subprocess.run(command, capture_output=True, text=True, cwd=agents.PROJECT, check=False)
    assert found.returncode == 1
    assert found.stderr.splitlines()[-1] == f"Error: {path} is not a socket: remove it, or choose another path"
    assert os.path.samestat(path.lstat(), before)
    assert not Path(f"{path}.lock").exists()


def test_what_took_the_place_of_its_socket_stays(engine, path, run):
    service = run()
    engine.channel(source=path)
    path.unlink()
    path.write_text("somebody else's")
    service.terminate()
    assert service.wait() == 0
    assert path.read_text() == "somebody else's"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--group", "no such group", APPLICATION], "Error: this host has no group 'no such group': make it"),
        (["nothing:at_all"], "no application 'nothing:at_all'"),
        (["tests.agent.application:nothing"], "no application 'tests.agent.application:nothing'"),
        (["os:path"], "application 'os:path' was not made: TypeError: 'module' object is not callable"),
        (["os:getcwd"], "'os:getcwd' makes no application: the str has no open_session"),
    ],
)
def test_wrong_options_are_one_sentence(path, options, message):
    found = subprocess.run(
        [*AGENT, "--socket", str(path), *options], capture_output=True, text=True, cwd=agents.PROJECT, check=False
    )
    assert found.returncode == 1
    assert message in found.stderr.splitlines()[-1]
    assert "Traceback" not in found.stderr
    assert not path.exists()


def test_a_group_may_connect(path, run):
    group = grp.getgrgid(os.getgid())
    run("--group", group.gr_name)
    assert mode(path) == 0o660
    assert path.stat().st_gid == group.gr_gid


def current_umask():
    found = os.umask(0o022)
    os.umask(found)
    return found


NOBODY = 65534


def connects_as_nobody(path, seconds):
    """Whether a process of another user gets a welcome; or the reason that it is told."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        os.setuid(NOBODY)
        connected, refused = threading.Event(), logging.Handler()
        refused.emit = lambda record: "is not in the agent's KVPOLL_AGENT_UIDS" in record.getMessage() and os._exit(2)
        logging.getLogger("redis_kvpoll").addHandler(refused)
        channel = AgentChannel(path, b"nobody", lambda *_: None, lambda _: connected.set(), lambda: None)
        channel.start()
        connected.wait(seconds)
        channel.close()
        os._exit(0)
    finally:
        os._exit(1)


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to be another user")
@pytest.mark.parametrize("is_allowed", [True, False])
def test_another_user_must_be_named(engine, path, run, is_allowed):
    """Even if the socket's mode lets it connect."""
    service = run(KVPOLL_AGENT_UIDS=f"12,{NOBODY}" if is_allowed else "")
    engine.folder.chmod(0o755)
    path.chmod(0o666)
    assert connects_as_nobody(path, pace.seconds(30)) == (0 if is_allowed else 2)
    engine.folder.chmod(0o700)
    if is_allowed:
        assert engine.until("opened")["uid"] == NOBODY
        engine.until("ended", how="goodbye")
    else:
        assert not engine.events("opened")
        service.terminate()
        assert service.communicate()[1].count(f"a process of user {NOBODY} was refused") == 1


@pytest.mark.parametrize("name", ["os:getcwd", "os:getenv", "os:path"])
def test_application_needs_its_methods(name):
    """Not only the first process that joins must find that out."""
    with pytest.raises(ValueError, match=r"has no open_session|was not made: TypeError"):
        load(name)()


def test_invalid_users_are_an_error(path):
    found = subprocess.run(
        [*AGENT, "--socket", str(path), APPLICATION],
        env=os.environ | {"KVPOLL_AGENT_UIDS": "0;1"},
        capture_output=True,
        text=True,
        cwd=agents.PROJECT,
        check=False,
    )
    assert "KVPOLL_AGENT_UIDS must be user ids with commas between them, not '0;1'" in found.stderr
    assert not Path(path).exists()
