"""The channel to a client's agent: one that runs as a service, or one that the first client starts."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Protocol

from redis_kvpoll.agent.client.channel import AgentChannel
from redis_kvpoll.agent.client.launch import Launcher
from redis_kvpoll.agent.messages import PROGRESS, ClientHello

APPLICATION = "redis_kvpoll.agent.server.table_sessions:make"


class ClientChannel(Protocol):
    """What a client needs of a channel. ``send`` neither waits nor raises; it may be replaced at any time."""

    hello: bytes

    @property
    def is_connected(self) -> bool: ...
    def start(self) -> None: ...
    def send(self, kind: int, payload: bytes) -> bool: ...
    def poll(self) -> None: ...
    def close(self, timeout: float) -> None: ...


def open_channel(
    agent: str,
    hello: ClientHello,
    on_message: Callable[[int, bytes], None],
    on_connected: Callable[[bytes], None],
    on_away: Callable[[], None],
    *,
    on_writable: Callable[[], None],
    on_tick: Callable[[], None],
) -> ClientChannel:
    """Return a channel to the agent at a path, or else to the one that an instance's first process starts."""
    source = agent or Launcher(agent_name(hello), APPLICATION)
    callbacks = on_message, on_connected, on_away
    return AgentChannel(
        source, hello.encode(), *callbacks, on_writable=on_writable, on_tick=on_tick, polled_kinds=PROGRESS
    )


def agent_name(hello: ClientHello) -> str:
    """Return the name of the agent of an instance: one for each server and deployment.

    Everybody on the host can read it in the list of processes, so no checksum in it is of a password.
    """
    servers = _servers(hello.url).encode(errors="surrogatepass")
    return f"{hello.instance} {hello.options.get('namespace')} {zlib.crc32(servers):08x}"


def _servers(url: str) -> str:
    """Return a URL without user, password and options; where the password ends is doubtful, nothing that follows it."""
    scheme, separator, rest = url.partition("://")
    before, _, after = rest.rpartition("@")
    place = "" if "?" in before else after.partition("?")[0]
    return f"{scheme}://{place}" if separator else ""
