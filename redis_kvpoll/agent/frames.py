"""The packets between a process and its agent. Pure.

A packet, of the SOCK_SEQPACKET socket or of a ring, is a header (kind, flags) and a piece of a message. A message of
more than PIECE bytes is sent as several packets, one behind the other. So a packet is never empty, and an empty one is
the end.

To add a control kind: a number from FIRST_CONTROL on. The kinds below are the user's.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

VERSIONS = (2, 2)
"""The versions of this protocol that this code speaks: first and last. Version 1 was never published."""

FIRST_CONTROL = 0xF0
HELLO, WELCOME, PING, PONG, GOODBYE, SUPERSEDED, REFUSED = range(FIRST_CONTROL, FIRST_CONTROL + 7)

HEADER = struct.Struct("<BB")
"""Kind, flags."""
WHOLE = [HEADER.pack(kind, 0) for kind in range(256)]
"""By kind: the header of a message that is one packet."""
MORE = 1
"""The flag of every piece of a message but the last."""
PIECE = 16_384
"""The bytes of a message in one packet. The kernel's buffer for a socket, 212,992 bytes by default, holds several."""
MAX_MESSAGE = 4 * 1024 * 1024
"""The limit for a message, so that no peer can make the other hold more than this."""

_HELLO = struct.Struct("<BBIQ16sQ")
_WELCOME = struct.Struct("<BQ")


class FrameError(ValueError):
    """A packet that the protocol does not allow; its connection cannot go on."""


def packets(kind: int, payload: bytes) -> Iterator[bytes]:
    """Yield the packets of a message. FrameError if it is too long."""
    if len(payload) > MAX_MESSAGE:
        raise FrameError(f"a message of {len(payload):,} bytes; at most {MAX_MESSAGE:,} can be sent")
    for start in range(0, len(payload) or 1, PIECE):
        has_more = start + PIECE < len(payload)
        yield HEADER.pack(kind, MORE if has_more else 0) + payload[start : start + PIECE]


class Assembler:
    """Puts the pieces of messages together."""

    __slots__ = ("_kind", "_length", "_pieces")

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._kind = 0
        self._length = 0

    def add(self, packet: bytes) -> tuple[int, bytes] | None:
        """Return kind and payload of the message that this packet completes, or None. FrameError if it is invalid."""
        if len(packet) < HEADER.size:
            raise FrameError(f"a packet of {len(packet)} bytes, without a header")
        kind, flags = packet[0], packet[1]
        piece = packet[HEADER.size :]
        if not flags and not self._pieces:
            return kind, piece
        if flags not in (0, MORE) or (self._pieces and kind != self._kind):
            raise FrameError(f"a piece of kind {kind} with flags {flags} within a message of kind {self._kind}")
        self._kind = kind
        self._length += len(piece)
        if self._length > MAX_MESSAGE:
            raise FrameError(f"a message of more than {MAX_MESSAGE:,} bytes")
        self._pieces.append(piece)
        if flags:
            return None
        payload = b"".join(self._pieces)
        self._pieces, self._length = [], 0
        return kind, payload


@dataclass(frozen=True, slots=True)
class Hello:
    """The first message of a process."""

    pid: int
    started: int
    """When the process started, in the kernel's clock ticks; 0 if unknown. With the pid it names one process."""
    channel: bytes
    """16 bytes that name the channel: its next connection has the same."""
    agent: int
    """The number of the agent that the channel had before; 0 for none."""
    payload: bytes = b""
    versions: tuple[int, int] = VERSIONS

    def pack(self) -> bytes:
        """Return the payload of the message."""
        return _HELLO.pack(*self.versions, self.pid, self.started, self.channel, self.agent) + self.payload

    @classmethod
    def unpack(cls, message: bytes) -> Self:
        """Read the payload of the message. FrameError if it is invalid."""
        try:
            first, last, pid, started, channel, agent = _HELLO.unpack_from(message)
        except struct.error:
            raise FrameError(f"a hello of {len(message)} bytes") from None
        return cls(pid, started, channel, agent, message[_HELLO.size :], (first, last))


@dataclass(frozen=True, slots=True)
class Welcome:
    """The agent's answer to a hello."""

    agent: int
    """The number of the agent: a later agent of the same engine has a higher one."""
    payload: bytes = b""
    version: int = VERSIONS[1]

    def pack(self) -> bytes:
        """Return the payload of the message."""
        return _WELCOME.pack(self.version, self.agent) + self.payload

    @classmethod
    def unpack(cls, message: bytes) -> Self:
        """Read the payload of the message. FrameError if it is invalid."""
        try:
            version, agent = _WELCOME.unpack_from(message)
        except struct.error:
            raise FrameError(f"a welcome of {len(message)} bytes") from None
        return cls(agent, message[_WELCOME.size :], version)


def common_version(theirs: tuple[int, int], ours: tuple[int, int] = VERSIONS) -> int | None:
    """Return the highest version that both sides speak, or None."""
    highest = min(theirs[1], ours[1])
    return highest if highest >= max(theirs[0], ours[0]) else None
