"""Whether a server that closes plain connections expects TLS: then no retry helps, and the caller hears it at once.

A server that expects TLS closes a plain connection without a word, and so does a proxy whose server is away. Only a
TLS handshake tells them apart. The probe verifies no certificate and sends nothing after the handshake.
"""

from __future__ import annotations

import socket
import ssl
from typing import Any

from redis_kvpoll.engine.remedies import CLOSED, ExpectsTLS

_SECONDS = 1.0
"""At most."""


def may_expect_tls(error: BaseException, connection_class: Any, options: dict[str, Any]) -> bool:
    """Whether a connection that ended in ``error`` was a plain one that the server closed."""
    return "host" in options and "SSL" not in connection_class.__name__ and str(error).startswith(CLOSED)


def probe(options: dict[str, Any], seconds: float) -> ExpectsTLS | None:
    """Return the error to report if the server of these connection options answers a TLS handshake. It blocks."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    host, port = options["host"], options.get("port", 6379)
    try:
        with socket.create_connection((host, port), min(seconds, _SECONDS)) as plain:
            context.wrap_socket(plain, server_hostname=host).close()
    except OSError:  # TLS errors are such, too
        return None
    return ExpectsTLS(f"{host}:{port} closes plain connections and answers a TLS handshake")
