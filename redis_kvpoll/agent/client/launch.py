"""Starts an engine's agent when one of its processes needs it, and finds it otherwise.

The process that starts an agent listens for it: so the socket is there at once, whoever connects meanwhile is served
once the agent runs, and two processes that begin together find one agent. The lock is held for the start alone.

The agent is no child of the process that started it, and shares no descriptor, CPU affinity or terminal with it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import subprocess
import sys
from collections.abc import Sequence

from redis_kvpoll.agent.client.source import ENDED, connect_to
from redis_kvpoll.agent.rendezvous import Rendezvous, number_at, write_number

LOCK_PATIENCE = 10.0
"""Seconds for another process to start the agent: an interpreter up to its detachment, on a busy machine."""
MAX_LOG_BYTES = 1_000_000
"""A longer log is begun anew with the next agent."""


class Launcher:
    """Connects to the agent of an engine, and starts it if it does not run.

    ``application`` is ``module:function``: the agent calls it to make what opens the sessions. ``options`` are further
    options of ``python -m redis_kvpoll.agent``.
    """

    def __init__(self, name: str, application: str, options: Sequence[str] = ()) -> None:
        self._name = name
        self._application = application
        self._options = tuple(options)
        self._rendezvous = Rendezvous(name)

    def connect(self, newer_than: int) -> tuple[socket.socket, int]:
        """Return a connection to the newest agent, and its number. OSError if none runs and none can be started."""
        newest = self._rendezvous.newest()
        if found := self._connect_to(newest, newer_than):
            return found, newest
        with self._rendezvous.locked(LOCK_PATIENCE) as lock:
            newest = number_at(lock)
            if found := self._connect_to(newest, newer_than):
                return found, newest
            number = self._rendezvous.next_number(max(newest, newer_than))
            self._start(number)
            write_number(lock, number)
            self._rendezvous.remove(newest)
        return connect_to(self._rendezvous.socket_path(number)), number

    @property
    def ended_text(self) -> str:
        """What the log says of an agent that has ended a connection: only its own log has why, if it cannot run."""
        with contextlib.suppress(OSError):
            return f"{ENDED} ({self._rendezvous.log_path()} may say why)"
        return ENDED

    def _connect_to(self, number: int, newer_than: int) -> socket.socket | None:
        if number <= newer_than:
            return None
        try:
            return connect_to(self._rendezvous.socket_path(number))
        except (ConnectionRefusedError, FileNotFoundError):
            return None

    def _start(self, number: int) -> None:
        if not sys.executable:
            raise OSError("this process has no Python interpreter that could run the agent")
        with self._rendezvous.listen(number) as listener:
            # A process whose stdin is closed may have it there, where the agent's own stdin will be.
            descriptor = fcntl.fcntl(listener, fcntl.F_DUPFD_CLOEXEC, 3)
            try:
                self._run(number, descriptor)
            except BaseException:
                self._rendezvous.remove(number)
                raise
            finally:
                os.close(descriptor)

    def _run(self, number: int, listener: int) -> None:
        command = [sys.executable, "-P", "-m", "redis_kvpoll.agent", self._application, *self._options]
        command += [f"--name={self._name}", f"--number={number}", f"--descriptor={listener}"]
        log = os.open(self._rendezvous.log_path(), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(log).st_size > MAX_LOG_BYTES:
                os.ftruncate(log, 0)
            starter = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[listener],
                start_new_session=True,
                cwd="/",
                env=os.environ | {"PYTHONPATH": _python_path()},
            )
        finally:
            os.close(log)
        try:
            status = starter.wait(LOCK_PATIENCE)
        except subprocess.TimeoutExpired:
            return  # A slow machine; it goes on by itself, and is reaped with this object.
        if status:
            raise OSError(f"the agent could not be started; {self._rendezvous.log_path()} says why")


def _python_path() -> str:
    """Return where this process imports from: the agent must find the same packages from another folder."""
    with contextlib.suppress(OSError):  # The working directory may not exist any more.
        return os.pathsep.join(path for path in map(os.path.abspath, sys.path) if os.path.exists(path))  # noqa: PTH110
    return os.pathsep.join(sys.path)
