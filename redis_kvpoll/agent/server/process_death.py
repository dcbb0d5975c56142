"""Whether the process at the other end of a socket has ended, by the kernel's word: a pidfd.

The end of its socket proves nothing: a child may hold the socket open, or the process may have closed it and go on.
A pid alone may be used again; so where the kernel does not give the pidfd of the socket's own peer (before Linux 6.5),
the pid counts only together with the time at which the process started.
"""

from __future__ import annotations

import os
import select
import socket
import struct

from redis_kvpoll.agent import frames
from redis_kvpoll.agent.link import start_of

SO_PEERPIDFD = 77
"""The option of a unix socket, which Python does not name yet."""
_CREDENTIALS = struct.Struct("3i")


def credentials_of(connection: socket.socket) -> tuple[int, int]:
    """Return the pid and uid of the process that connected. The pid is 0 if it is in a foreign PID namespace."""
    packed = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(packed)
    return pid, uid


def open_watch(connection: socket.socket, hello: frames.Hello) -> int | None:
    """Return a descriptor that becomes readable once the process has ended; None if there is no way to know.

    ProcessLookupError if it has ended already.
    """
    try:
        return connection.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD)
    except ProcessLookupError:
        raise
    except OSError:
        pass
    pid, _ = credentials_of(connection)
    if pid != hello.pid or not hello.started or not hasattr(os, "pidfd_open"):
        return None
    try:
        watch = os.pidfd_open(pid)
    except ProcessLookupError:
        raise
    except OSError:
        return None
    started = start_of(pid)
    if started == hello.started:
        return watch
    is_gone = bool(started) or has_ended(watch)
    os.close(watch)
    if is_gone:
        raise ProcessLookupError(f"process {pid} has ended, or is another one now")
    return None  # Some process has this pid, and /proc does not say which: it may hide those of other users.


def has_ended(watch: int) -> bool:
    """Whether the process of a watch has ended."""
    poller = select.poll()
    poller.register(watch, select.POLLIN)
    return bool(poller.poll(0))
