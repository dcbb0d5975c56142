"""Memory that the agent shares with a process by a descriptor: nobody can change its size.

Python has ``os.memfd_create`` only if it was built with glibc 2.27 or newer. Those of uv and conda were not, though
they run with a newer one: there the C library's own function is called. The numbers are the kernel's, for the same
reason.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os

from redis_kvpoll.agent import ring, shared_memory

_MFD_CLOEXEC, _MFD_ALLOW_SEALING = 1, 2
_F_ADD_SEALS = 1033
_F_SEAL_SEAL, _F_SEAL_SHRINK, _F_SEAL_GROW = 1, 2, 4
_NAME = "redis_kvpoll"


def share() -> tuple[int, memoryview, memoryview | None]:
    """Make what shared_memory describes. Returns its descriptor, the page, and the ring where there may be one. OSError
    if this host has no such memory."""
    size = shared_memory.WITH_RING if ring.is_supported() else shared_memory.PAGE_BYTES
    descriptor = sealed_memory(size)
    try:
        memory = memoryview(mmap.mmap(descriptor, size))
    except BaseException:
        os.close(descriptor)
        raise
    page, rest = memory[: shared_memory.PAGE_BYTES].cast("Q"), memory[shared_memory.PAGE_BYTES :]
    return descriptor, page, rest if len(rest) else None


def sealed_memory(size: int) -> int:
    """Return the descriptor of so many zero bytes. OSError if this host has no such memory."""
    descriptor = _create(_MFD_CLOEXEC | _MFD_ALLOW_SEALING)
    try:
        os.ftruncate(descriptor, size)
        # Without the seals the process could make it shorter, and a write here would end the agent.
        fcntl.fcntl(descriptor, _F_ADD_SEALS, _F_SEAL_SHRINK | _F_SEAL_GROW | _F_SEAL_SEAL)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _create(flags: int) -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create(_NAME, flags)
    try:
        import ctypes

        create = ctypes.CDLL(None, use_errno=True).memfd_create
    except (ImportError, AttributeError):
        raise OSError(errno.ENOSYS, "neither Python nor the C library has memfd_create") from None
    descriptor: int = create(_NAME.encode(), flags)
    if descriptor < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return descriptor
