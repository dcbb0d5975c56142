"""Where the processes of one engine find its agent: a private folder with a lock file and the agents' sockets.

Invariants:

- The folder belongs to this user, and nobody else can enter it. Otherwise nothing in it is used.
- Agents have growing numbers. The lock file has the newest one, and only who holds the lock changes it. A number begins
  with the clock, so that it grows even if the file is lost.
- All of it can be removed at any time, and is made again.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import socket
import stat
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

BACKLOG = 128
"""Connections that wait for an agent to start."""
_DIGITS = 20
_LONGEST_PATH = 107
"""Bytes in the address of a unix socket."""


def private_folder() -> Path:
    """Return the folder of this user's agents; creates it. PermissionError if others could change what is in it."""
    # A relative path would be another folder for each process, and for the agent, whose working directory is "/".
    place = Path(os.environ.get("XDG_RUNTIME_DIR", ""))
    if not (place.is_absolute() and _is_ours(place)):
        place = Path(os.environ.get("TMPDIR", ""))
    if not place.is_absolute():
        place = Path("/tmp")  # noqa: S108 - checked below
    folder = place / f"redis_kvpoll-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    if not _is_ours(folder):
        raise PermissionError(
            f"{folder} belongs to another user, or others may use it: remove it, or set XDG_RUNTIME_DIR to a folder of "
            "your own with mode 0700"
        )
    return folder


def _is_ours(folder: str | Path) -> bool:
    try:
        found = os.lstat(folder)
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077


def _host() -> str:
    """Return what names this host until it starts anew; containers may each have a name of their own."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return os.uname().nodename


class Rendezvous:
    """The place of one engine's agents on this host. Any text names the engine."""

    def __init__(self, name: str) -> None:
        # The socket's path has room for a few letters only. The checksum keeps engines apart, and the hosts of one
        # engine if they share the folder: a socket leads to its own host only.
        checked = f"{name} {_host()}".encode(errors="surrogatepass")  # a variable that is no UTF-8 has surrogates
        self._stem = f"{re.sub(r'[^A-Za-z0-9]+', '-', name)[:20]}-{zlib.crc32(checked):08x}"

    def lock_path(self) -> Path:
        """Return the path of the file with the newest number."""
        return private_folder() / f"{self._stem}.lock"

    def log_path(self) -> Path:
        """Return the path of the agents' log."""
        return private_folder() / f"{self._stem}.log"

    def socket_path(self, number: int) -> str:
        """Return the path of an agent's socket."""
        path = str(private_folder() / f"{self._stem}.{number}")
        if len(os.fsencode(path)) > _LONGEST_PATH:
            raise OSError(f"{path} is too long for a socket: set XDG_RUNTIME_DIR to a shorter path")
        return path

    def newest(self) -> int:
        """Return the newest agent's number; 0 if there has been none, or the file is lost."""
        try:
            return _number_in(self.lock_path().read_bytes())
        except FileNotFoundError:
            return 0

    @contextlib.contextmanager
    def locked(self, patience: float) -> Iterator[int]:
        """Hold the lock, and get its descriptor. BlockingIOError if another process has it for so many seconds."""
        deadline = time.monotonic() + patience
        while True:
            path = self.lock_path()
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                if _lock(descriptor, deadline) and _is_at(descriptor, path):
                    yield descriptor
                    return
            finally:
                with contextlib.suppress(OSError):
                    fcntl.flock(descriptor, fcntl.LOCK_UN)  # a child that was forked meanwhile would hold it for ever
                os.close(descriptor)
            if time.monotonic() > deadline:
                raise BlockingIOError(f"another process has held {path} for {patience:g} seconds")

    def next_number(self, above: int) -> int:
        """Return the number for a new agent."""
        return max(above + 1, int(time.time() * 1000))

    def listen(self, number: int) -> socket.socket:
        """Return a listening socket at the agent's path."""
        path = self.socket_path(number)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)  # noqa: PTH108 - a text, as the socket needs it
            listener.bind(path)
            listener.listen(BACKLOG)
        except BaseException:
            listener.close()
            raise
        return listener

    def remove(self, number: int) -> None:
        """Remove the path of an agent's socket."""
        with contextlib.suppress(OSError):
            os.unlink(self.socket_path(number))  # noqa: PTH108


def number_at(descriptor: int) -> int:
    """Read the newest number, under the lock."""
    return _number_in(os.pread(descriptor, _DIGITS, 0))


def write_number(descriptor: int, number: int) -> None:
    """Set the newest number, under the lock. A reader without the lock sees the former one or this one."""
    os.pwrite(descriptor, f"{number:0{_DIGITS}d}".encode(), 0)


def _number_in(content: bytes) -> int:
    return int(content) if content.strip().isdigit() else 0


def _lock(descriptor: int, deadline: float) -> bool:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.005)


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether the file is still the one at its path: it may have been removed while this process waited for it."""
    with contextlib.suppress(OSError):
        return os.path.samestat(os.fstat(descriptor), path.stat())
    return False
