"""How an agent starts with the first process of an engine, and how it ends after the last."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from redis_kvpoll.agent import rendezvous as places
from redis_kvpoll.agent.client.launch import Launcher
from tests.agent.application import ECHO
from tests.support import agents
from tests.support.agents import is_alive
from tests.support.real import until


def children():
    """The ids of this process's children, zombies included. The servers of other tests may be among them."""
    of_threads = Path("/proc/self/task").glob("*/children")
    return {int(pid) for found in of_threads for pid in found.read_text().split()}


class TestStart:
    def test_processes_that_begin_together_share_an_agent(self, engine):
        channels = [engine.channel(b"%d" % number, start=False) for number in range(6)]
        for each in channels:
            each.channel.start()
        clients = []
        threads = [threading.Thread(target=lambda n=n: clients.append(engine.client(f"p{n}"))) for n in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        until(lambda: all(each.channel.is_connected for each in channels), "all channels", 60)
        assert len(clients) == 2
        assert len(engine.agents()) == 1

    def test_engines_have_agents_of_their_own(self, engine):
        """Also those whose names begin alike, or have no letter that a path may have."""
        names = ["x" * 30 + "1", "x" * 30 + "2", "…", "/", ""]
        for name in names:
            engine.channel(source=engine.launcher(name=name or "empty"))
        assert len(engine.agents()) == len(names)

    def test_it_shares_nothing_with_the_process_that_started_it(self, engine):
        """No parent, no terminal's session, no CPU, no descriptor but its own; no zombie is left."""
        allowed, before = os.sched_getaffinity(0), children()
        reading, writing = os.pipe()
        os.set_inheritable(writing, True)
        try:
            os.sched_setaffinity(0, {min(allowed)})
            engine.channel()
        finally:
            os.sched_setaffinity(0, allowed)
        os.close(writing)
        assert os.read(reading, 1) == b""
        os.close(reading)
        started = engine.until("started")
        assert started["affinity"] == len(allowed)
        assert started["parent"] != os.getpid()
        assert os.getsid(started["agent"]) != os.getsid(0)
        assert children() <= before
        assert Path(f"/proc/{started['agent']}/cwd").readlink() == Path("/")

    def test_its_log_is_in_the_folder(self, engine):
        engine.channel()
        assert f"runs as process {engine.agents()[0]}" in engine.rendezvous.log_path().read_text()

    def test_an_agent_that_cannot_start_is_tried_again(self, engine, caplog):
        """One line says so, at a growing distance it is tried again, and nothing else happens."""
        here = engine.channel(source=engine.launcher("fail"), start=False)
        here.channel.start()
        log = engine.rendezvous.log_path
        until(lambda: log().exists() and log().read_text().count("the agent ends by an error") >= 2, "a second try")
        assert not here.channel.is_connected
        assert here.calls == []
        assert caplog.text.count("no connection to the agent") == 1
        assert f"it ended the connection ({log()} may say why); trying again" in caplog.text

    def test_a_python_that_cannot_run_it_is_reported(self, engine, monkeypatch, caplog):
        monkeypatch.setattr(sys, "executable", "/bin/false")
        here = engine.channel(start=False)
        here.channel.start()
        until(lambda: "the agent could not be started" in caplog.text, "the report")
        assert str(engine.rendezvous.log_path()) in caplog.text

    def test_a_process_without_standard_streams_starts_one(self, engine):
        """The listening socket has the number of a stream then, for which the agent has its log."""
        code = "import os, sys; from redis_kvpoll.agent.client.launch import Launcher; os.closerange(0, 3)"
        code += "; Launcher(*sys.argv[1:3], ('--idle=0.5',)).connect(0)"
        command = [sys.executable, "-c", code, engine.name, f"{agents.APPLICATION}:make"]
        assert subprocess.run(command, check=False, cwd=agents.PROJECT).returncode == 0
        engine.until("started")

    def test_a_name_may_come_from_a_variable_that_is_no_text(self, engine):
        engine.channel(source=engine.launcher(name=os.fsdecode(b"n\xc3")))
        assert len(engine.agents()) == 1

    def test_a_child_that_was_forked_meanwhile_holds_no_lock(self, engine):
        """It has the descriptor of the file, and does not know it."""
        reading, writing = os.pipe()
        with engine.rendezvous.locked(0):
            child = os.fork()
            if not child:
                os.close(writing)
                os.read(reading, 1)
                os._exit(0)
        os.close(reading)
        try:
            with engine.rendezvous.locked(0):
                pass
        except BlockingIOError:
            pytest.fail("the child holds it")
        finally:
            os.close(writing)
            os.waitpid(child, 0)

    def test_numbers_grow_even_if_the_clock_does_not(self, engine):
        place = engine.rendezvous
        first = place.next_number(0)
        assert place.next_number(first + 10**9) == first + 10**9 + 1


class TestEnd:
    def test_it_ends_after_its_last_process(self, engine):
        here = engine.channel(source=engine.launcher(idle=0.2))
        (agent,) = engine.agents()
        for _ in range(3):
            here.channel.send(ECHO, b"x")
        until(lambda: len(here.messages()) == 3, "the echoes")
        here.channel.close()
        until(lambda: not is_alive(agent), "its end")
        assert [event["event"] for event in engine.events()][-2:] == ["ended", "closed"]
        assert not Path(engine.rendezvous.socket_path(engine.rendezvous.newest())).exists()
        engine.channel()
        assert len(engine.agents()) == 2

    def test_it_stays_until_all_is_told(self, engine):
        is_behind = Path(f"{engine.file}.behind")
        is_behind.touch()
        here = engine.channel(source=engine.launcher(idle=0.2))
        (agent,) = engine.agents()
        here.channel.close()
        engine.until("ended")
        back = engine.channel(source=engine.launcher(idle=0.2))
        assert engine.agents() == [agent]
        back.channel.close()
        is_behind.unlink()
        until(lambda: not is_alive(agent), "its end")

    def test_it_ends_though_its_folder_cannot_be_used(self, engine):
        """Others may use it now. The log says so once, however often it is tried."""
        here = engine.channel(source=engine.launcher(idle=0.2))
        (agent,) = engine.agents()
        folder, log = places.private_folder(), engine.rendezvous.log_path()
        folder.chmod(0o755)
        here.channel.close()
        until(lambda: not is_alive(agent), "its end")
        assert log.read_text().count("the agent's folder cannot be used") == 1
        assert log.read_text().count("has ended") == 1

    def test_it_ends_though_its_folder_is_gone_for_good(self, engine, monkeypatch):
        """As when the folder of temporary files is removed while there is no other."""
        place = engine.folder / "t"
        place.mkdir()
        monkeypatch.setenv("XDG_RUNTIME_DIR", "")
        monkeypatch.setenv("TMPDIR", str(place))
        here = engine.channel(source=engine.launcher(idle=0.2))
        (agent,) = engine.agents()
        shutil.rmtree(place)
        here.channel.close()
        until(lambda: not is_alive(agent), "its end")

    def test_it_leaves_no_socket_when_it_is_terminated(self, engine):
        here = engine.channel()
        path = Path(engine.rendezvous.socket_path(engine.rendezvous.newest()))
        here.channel.close()
        assert path.exists()
        os.kill(engine.agents()[0], signal.SIGTERM)
        until(lambda: not path.exists(), "its removal")

    def test_it_leaves_no_socket_when_it_cannot_begin(self, engine):
        with contextlib.suppress(OSError):
            engine.launcher("fail").connect(0)[0].close()
        path = Path(engine.rendezvous.socket_path(engine.rendezvous.newest()))
        until(lambda: not path.exists(), "its removal")

    def test_it_ends_at_its_limit_though_not_all_is_told(self, engine):
        Path(f"{engine.file}.behind").touch()
        launcher = Launcher(engine.name, f"{agents.APPLICATION}:make", ("--idle=0.1", "--limit=1"))
        here = engine.channel(source=launcher)
        here.channel.close()
        until(lambda: not is_alive(engine.agents()[0]), "its end")


class TestFolder:
    @pytest.mark.parametrize("mode", [0o755, 0o770, 0o702])
    def test_a_folder_that_others_may_use_is_refused(self, engine, caplog, mode):
        folder = places.private_folder()
        folder.chmod(mode)
        here = engine.channel(start=False)
        here.channel.start()
        until(lambda: f"{folder} belongs to another user, or others may use it" in caplog.text, "the refusal")
        assert engine.agents() == []

    @pytest.mark.skipif(os.getuid() != 0, reason="needs root, to give a folder away")
    def test_a_folder_of_another_user_is_refused(self, engine):
        os.chown(places.private_folder(), 65534, -1)
        with pytest.raises(PermissionError, match="belongs to another user"):
            engine.launcher().connect(0)

    def test_hosts_that_share_it_have_agents_of_their_own(self, engine, monkeypatch):
        here = engine.rendezvous
        monkeypatch.setattr(places, "_host", lambda: "another")
        there = engine.rendezvous
        assert here.lock_path() != there.lock_path()
        assert here.socket_path(1) != there.socket_path(1)
        assert here.lock_path().parent == there.lock_path().parent

    def test_a_link_is_refused(self, engine, tmp_path):
        folder = places.private_folder()
        folder.rmdir()
        tmp_path.chmod(0o700)
        folder.symlink_to(tmp_path)
        with pytest.raises(PermissionError):
            engine.launcher().connect(0)

    def test_without_a_runtime_folder_the_temporary_one_serves(self, engine, monkeypatch):
        """Also if the one in the environment is another user's, or does not exist."""
        monkeypatch.setenv("TMPDIR", str(engine.folder))
        for runtime in ("", "/nowhere", "/proc"):
            monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
            assert places.private_folder() == engine.folder / f"redis_kvpoll-{os.getuid()}"

    def test_a_relative_path_is_no_folder(self, engine, monkeypatch):
        """Each process has a working directory of its own, and the agent another one."""
        (engine.folder / "run").mkdir(mode=0o700)
        monkeypatch.chdir(engine.folder)
        monkeypatch.setenv("TMPDIR", str(engine.folder))
        monkeypatch.setenv("XDG_RUNTIME_DIR", "run")
        assert places.private_folder().parent == engine.folder
        monkeypatch.setenv("TMPDIR", "run")
        assert places.private_folder().is_absolute()

    def test_a_path_that_is_too_long_says_so(self, engine, monkeypatch):
        long = engine.folder / ("x" * 100)
        long.mkdir(mode=0o700)
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(long))
        with pytest.raises(OSError, match="too long for a socket: set XDG_RUNTIME_DIR to a shorter path"):
            engine.launcher().connect(0)


LAUNCHER = """
import ctypes, subprocess, sys
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: orphans become its children, as with PID 1.
workers = [subprocess.Popen([sys.executable, "-m", "tests.agent.client", f"rank {n}", sys.argv[1]],
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE) for n in range(2)]
for worker in workers:
    worker.stdout.readline()
print("up", flush=True)
sys.stdin.read()
"""


def tree(pid):
    """A process and all that descend from it, as engines find them."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found = [pid]
    for each in found:
        found += [child for child, parent in parents.items() if parent == each]
    return found


def test_a_launcher_that_kills_its_tree_takes_the_agent_along(engine):
    """As PID 1 of a container, or a subreaper, it is the agent's parent. No death is told then: leases lapse. The next
    process of the engine starts another agent."""
    launcher = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, engine.name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=agents.PROJECT,
    )
    try:
        assert launcher.stdout.readline() == b"up\n"
        (agent,) = engine.agents()
        assert engine.events("started")[0]["parent"] == launcher.pid
        found = tree(launcher.pid)
        assert agent in found
        assert len(found) == 4
        for number in (signal.SIGSTOP, signal.SIGKILL):  # stopped first: nobody starts another agent meanwhile
            for pid in found:
                os.kill(pid, number)
    finally:
        launcher.kill()
        launcher.communicate()
    until(lambda: not any(map(is_alive, found)), "the ends")
    assert not engine.events("ended")
    engine.channel()
    assert len(engine.agents()) == 2
