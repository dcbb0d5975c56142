"""A server that has stopped, over TLS: asyncio would wait half a minute for it to confirm the end of a connection."""

from __future__ import annotations

import asyncio
import ssl

import pytest
import trustme

from chaos.proxy import Proxy
from redis_kvpoll import AsyncStatusStore
from tests.support import real
from tests.support.internals import idle_connections_of


@pytest.fixture
def server():
    with real.World("sync") as world:
        yield world.shared()


async def test_close_does_not_wait_for_silent_server(server, tmp_path):
    authority, context, ca = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), tmp_path / "ca.pem"
    authority.issue_cert("localhost").configure_cert(context)
    authority.cert_pem.write_to_path(str(ca))
    with Proxy(server.socket, context) as tls, Proxy(tls.port, inspect=False) as proxy:
        store = AsyncStatusStore.from_url(f"rediss://localhost:{proxy.port}?ssl_ca_certs={ca}", deadline=60.0)
        await store.get(1)
        await asyncio.gather(*(store.settings() for _ in range(3)))
        assert len(idle_connections_of(store)) >= 3
        proxy.stalled = True
        closing = asyncio.create_task(store.aclose())
        for _ in range(100):
            await asyncio.sleep(0)
        try:
            assert closing.done()
        finally:
            proxy.cut()
            await asyncio.gather(closing, return_exceptions=True)
        await asyncio.to_thread(real.until, lambda: not proxy.open_connections, "the connections are closed")
