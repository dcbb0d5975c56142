"""A server with tables, and a ``kvpoll serve`` over them that may only read."""

from __future__ import annotations

import contextlib

import pytest

from redis_kvpoll import StatusStore
from redis_kvpoll.serve.config import ServeConfig
from tests.support import real
from tests.support.serving import Serving, viewer_url


@pytest.fixture
def table(watched):
    """The server, with no key; shared by the tests of this process."""
    server = real.shared()
    watched.append(server.client())
    return server


@pytest.fixture
def store(table):
    """A store of the namespace ``prod-prefill``, which therewith exists."""
    with StatusStore.from_url(table.tcp, namespace="prod-prefill", policy="strict") as store:
        store.touch([1])
        yield store


@pytest.fixture
def serve(table, store):
    """Starts a server for the options of a ServeConfig, and waits until it knows the table."""
    with contextlib.ExitStack() as stack:

        def start(*, ready=True, examine_of=None, **options):
            options.setdefault("namespaces", ("prod-prefill",))
            options.setdefault("url", viewer_url(table))
            serving = Serving(ServeConfig(**options), examine_of=examine_of)
            serving.start()
            stack.callback(serving.stop)
            if ready:
                serving.until_ready()
            return serving

        yield start


@pytest.fixture
def serving(serve):
    return serve()
