"""The life of an agent's process: its application, its logs, its end.

Invariant: an agent that a client started ends when it is not needed: ``idle`` seconds after its last process left, as
soon as its application has told all, or at ``limit``. One that runs as a service ends by a signal.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import grp
import logging
import os
import signal
import socket
import stat
import sys
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Protocol

from redis_kvpoll.agent.rendezvous import BACKLOG, Rendezvous, number_at, write_number
from redis_kvpoll.agent.server.agent_server import AgentServer
from redis_kvpoll.agent.server.agent_sessions import AgentSession
from redis_kvpoll.agent.server.peer_socket import Peer

UIDS = "KVPOLL_AGENT_UIDS"
CLOSE_SECONDS = 5.0
"""For an application to close: a server that does not answer must not keep the agent."""

logger = logging.getLogger("redis_kvpoll.agent")


METHODS = ("open_session", "is_told", "close")
"""What an AgentApplication must have."""


class AgentApplication(Protocol):
    """What an agent is for. It is made in the agent's event loop."""

    def open_session(self, peer: Peer, hello: bytes) -> AgentSession:
        """Open the session of a process."""

    def is_told(self) -> bool:
        """Whether nothing is left to do for processes that are gone."""

    async def close(self) -> None:
        """Close connections."""


def run_started(options: argparse.Namespace) -> int:
    """Run the agent of ``python -m redis_kvpoll.agent``."""
    _log_to_stderr()
    listener = socket.socket(fileno=options.descriptor)
    listener.set_inheritable(False)
    try:
        make = load(options.application)
        asyncio.run(_Started(options).run(make, listener))
    except Exception:
        logger.exception("the agent ends by an error")
        return 1
    finally:
        Rendezvous(options.name).remove(options.number)
    return 0


def run_service(path: str, application: str, group: str | None) -> None:
    """Run an agent at a path until SIGINT or SIGTERM.

    OSError if another runs there or the path cannot be used, ValueError for an unknown group or no application.
    """
    _log_to_stderr()
    allowed_uids()
    make = load(application)
    _make_folder(path)
    with _listening(path, None if group is None else _gid_of(group)) as listener:
        asyncio.run(_serve(make, listener, number=int(time.time() * 1000)))


def load(application: str) -> Callable[[], AgentApplication]:
    """Return the function that ``module:function`` names. ValueError if there is none; so may the function raise."""
    module, _, name = application.partition(":")
    try:
        make: Callable[[], AgentApplication] = getattr(import_module(module), name)
    except Exception as error:  # a module raises what it likes
        raise ValueError(f"no application {application!r}: {error}") from error

    def make_checked() -> AgentApplication:
        try:
            made = make()
        except Exception as error:
            raise ValueError(f"application {application!r} was not made: {type(error).__name__}: {error}") from error
        if missing := [name for name in METHODS if not callable(getattr(made, name, None))]:
            raise ValueError(f"{application!r} makes no application: the {type(made).__name__} has no {missing[0]}")
        return made

    return make_checked


async def _serve(
    make: Callable[[], AgentApplication],
    listener: socket.socket,
    *,
    number: int,
    beside: Callable[[AgentServer, AgentApplication], contextlib.AbstractContextManager[object]] | None = None,
    is_newest: Callable[[], bool] = lambda: True,
) -> None:
    application = make()
    server = AgentServer(listener, application.open_session, number=number, is_newest=is_newest, uids=allowed_uids())
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, server.stop)
    if beside is None:
        loop.add_signal_handler(signal.SIGINT, server.stop)
    logger.info("agent %d runs as process %d at %s", number, os.getpid(), listener.getsockname())
    try:
        with beside(server, application) if beside else contextlib.nullcontext():
            await server.run()
    finally:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await application.close()
        logger.info("agent %d has ended", number)


def allowed_uids() -> list[int]:
    """Return the users of KVPOLL_AGENT_UIDS. ValueError if it is invalid."""
    text = os.environ.get(UIDS, "")
    try:
        return [int(uid) for uid in text.split(",") if uid.strip()]
    except ValueError:
        raise ValueError(f"{UIDS} must be user ids with commas between them, not {text!r}") from None


class _Started:
    """An agent that a client started: it has a number, keeps its place, and ends by itself."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._number: int = options.number
        self._idle: float = options.idle
        self._limit: float = options.limit
        self._rendezvous = Rendezvous(options.name)
        self._logged = ""
        """Why the folder cannot be used, as it was logged last."""

    async def run(self, make: Callable[[], AgentApplication], listener: socket.socket) -> None:
        await _serve(make, listener, number=self._number, beside=self._beside, is_newest=self._is_newest)

    def _is_newest(self) -> bool:
        try:
            return self._rendezvous.newest() <= self._number
        except OSError:
            return True  # Nobody can have started another one there.

    @contextlib.contextmanager
    def _beside(self, server: AgentServer, application: AgentApplication) -> Iterator[None]:
        task = asyncio.create_task(self._watch(server, application))
        try:
            yield
        finally:
            task.cancel()

    async def _watch(self, server: AgentServer, application: AgentApplication) -> None:
        """Keep the socket's path, and stop the server when it is not needed."""
        loop = asyncio.get_running_loop()
        busy_until = loop.time()
        while True:
            await asyncio.sleep(min(1.0, self._idle / 4))
            try:
                self._keep_place(server)
                self._logged = ""
            except OSError as error:
                self._log(error)
            if not server.is_idle:
                busy_until = loop.time()
            elif (idle := loop.time() - busy_until) >= self._idle and (application.is_told() or idle >= self._limit):
                self._retire(server)

    def _log(self, error: OSError) -> None:
        """Log once why the folder cannot be used: it is tried every second."""
        if str(error) != self._logged:
            self._logged = str(error)
            logger.warning("the agent's folder cannot be used: %s", error)

    def _keep_place(self, server: AgentServer) -> None:
        """Listen at the path again after something removed it."""
        if os.path.exists(self._rendezvous.socket_path(self._number)):  # noqa: PTH110
            return
        with self._rendezvous.locked(0) as lock:
            if number_at(lock) <= self._number:
                server.listen_on(self._rendezvous.listen(self._number))
                write_number(lock, self._number)
                logger.info("the agent's socket was removed, and is there again")

    def _retire(self, server: AgentServer) -> None:
        """End, so that whoever connects from now on starts another agent. Not while a process may be connecting."""
        try:
            with self._rendezvous.locked(0):
                self._rendezvous.remove(self._number)
                server.stop()
        except BlockingIOError:
            pass  # tried again within a second
        except OSError as error:
            self._log(error)
            server.stop()  # nobody can find this agent there, or start another one


def _gid_of(group: str) -> int:
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise ValueError(f"this host has no group {group!r}: make it (groupadd), or leave out --group") from None


def _make_folder(path: str) -> None:
    """Make the folder of a service's socket. OSError, with what to do, if it cannot be made or used."""
    folder = Path(path).absolute().parent
    try:
        folder.mkdir(mode=0o755, exist_ok=True)
    except FileNotFoundError:
        raise FileNotFoundError(f"{folder.parent} does not exist: make it, or choose another --socket") from None
    except OSError as error:
        raise OSError(f"{folder} cannot be made: {error.strerror}; make it, or choose another --socket") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"user {os.getuid()} may not make files in {folder}: change its owner or mode")


@contextlib.contextmanager
def _listening(path: str, gid: int | None) -> Iterator[socket.socket]:
    """Listen at a service's path, for a group, too, if one is given. FileExistsError if it is in use."""
    _refuse_other_file(path)
    lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise FileExistsError(f"an agent listens at {path}: end it, or choose another path") from None
    Path(path).unlink(missing_ok=True)  # Left by a former agent, which was killed.
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    former = os.umask(0o177)
    try:
        listener.bind(path)
    finally:
        os.umask(former)
    try:
        if gid is not None:
            os.chown(path, -1, gid)
            Path(path).chmod(0o660)
        listener.listen(BACKLOG)
        yield listener
    finally:
        listener.close()
        if Path(path).is_socket():  # What somebody else has put there stays.
            Path(path).unlink(missing_ok=True)
        os.close(lock)


def _refuse_other_file(path: str) -> None:
    """FileExistsError if something else than a socket is at a path: no agent has left it there."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(Path(path).lstat().st_mode):
            raise FileExistsError(f"{path} is not a socket: remove it, or choose another path")


def _log_to_stderr() -> None:
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
