"""Runs the application with uvicorn until a signal."""

from __future__ import annotations

import contextlib
import logging
import socket
import sys
from typing import Any

import uvicorn

from redis_kvpoll.serve.app import make_app
from redis_kvpoll.serve.config import ServeConfig
from redis_kvpoll.serve.service import ExamineOf, Service

GRACE = 5
"""Seconds that requests in flight may take after a signal."""
LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class Server(uvicorn.Server):
    """Ends the streams of events first: uvicorn waits for them."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

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


def run(config: ServeConfig, examine_of: ExamineOf | None = None) -> bool:
    """Serve until SIGINT or SIGTERM; False if it could not listen."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format=LOG_FORMAT)
    service = Service(config, examine_of)
    server = Server(uvicorn.Config(make_app(service), **uvicorn_options(config)), service)
    # uvicorn raises both once it has ended: the first after Ctrl-C, the second if it could not listen.
    with contextlib.suppress(KeyboardInterrupt, SystemExit):
        server.run()
    return server.started
