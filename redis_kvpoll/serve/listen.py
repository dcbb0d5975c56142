"""Runs the application with uvicorn until a signal."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
import sys
from typing import Any

import uvicorn

from redis_kvpoll.errors import KVPollError
from redis_kvpoll.serve.app import make_app
from redis_kvpoll.serve.config import ServeConfig
from redis_kvpoll.serve.service import ExamineOf, Service
from redis_kvpoll.transport.urls import place

GRACE = 5
"""Seconds that requests in flight may take after a signal."""
LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
REMEDIES = {errno.EADDRINUSE: "choose another --port", errno.EACCES: "choose a --port from 1024 on"}
"""By what the operating system says of a port; the rest is about the address."""

log = logging.getLogger(__name__)


class Server(uvicorn.Server):
    """Listens before uvicorn logs anything, and ends the streams of events first: uvicorn waits for them."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        with contextlib.ExitStack() as stack:
            super().run([stack.enter_context(one) for one in sockets or listen(self.config)])

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if sockets:  # of its own uvicorn logs this
            where = place(self.config.host, sockets[0].getsockname()[1])
            log.info("listening on http://%s (Ctrl-C ends it)", where)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._service.hub.close()
        await super().shutdown(sockets)


def uvicorn_options(config: ServeConfig) -> dict[str, Any]:
    """Return the options of uvicorn, without its access log of each scrape and probe: actions have their own."""
    return {
        "host": config.host,
        "port": config.port,
        "log_config": None,
        "access_log": False,
        "server_header": False,
        "proxy_headers": False,
        "timeout_graceful_shutdown": GRACE,
        "timeout_keep_alive": 30,
        "limit_concurrency": 1000,
    }


def listen(config: uvicorn.Config) -> list[socket.socket]:
    """Return sockets that listen on all addresses of the host; KVPollError has the operating system's reason."""
    try:
        listeners = asyncio.run(_bind(config.host, config.port))
        for one in listeners:
            one.listen(config.backlog)  # of two processes that bind a port at once, this refuses the second
    except OSError as error:
        code = None if isinstance(error, socket.gaierror) else error.errno
        reason = os.strerror(code) if code else error.strerror  # asyncio has put the address into the latter
        what = f"kvpoll serve cannot listen on {place(config.host, config.port)} ({reason})"
        raise KVPollError(f"{what}: {REMEDIES.get(code or 0, 'check --host')}") from None
    return listeners


async def _bind(host: str, port: int) -> list[socket.socket]:
    """Return sockets on all addresses of a host, which asyncio resolves and binds as it does for uvicorn."""
    server = await asyncio.get_running_loop().create_server(asyncio.Protocol, host, port, start_serving=False)
    with contextlib.closing(server):
        return [one.dup() for one in server.sockets]


def run(config: ServeConfig, examine_of: ExamineOf | None = None) -> bool:
    """Serve until SIGINT or SIGTERM; False if the application did not start. KVPollError if it cannot listen."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format=LOG_FORMAT)
    service = Service(config, examine_of)
    server = Server(uvicorn.Config(make_app(service), **uvicorn_options(config)), service)
    # uvicorn raises both once it has ended: the first after Ctrl-C, the second if it could not start.
    with contextlib.suppress(KeyboardInterrupt, SystemExit):
        server.run()
    return server.started
