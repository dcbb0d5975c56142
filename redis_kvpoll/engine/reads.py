"""Reads that are made of single commands, outside of scripts: pages of a listing, the feed, the settings."""

from __future__ import annotations

from redis_kvpoll.engine.classify import ServerChanged
from redis_kvpoll.engine.effects import Flow, Send, Sleep
from redis_kvpoll.engine.executor import Executor
from redis_kvpoll.errors import FeedOffError
from redis_kvpoll.protocol.feed_reader import FeedReader
from redis_kvpoll.protocol.scan import Scan
from redis_kvpoll.protocol.settings import Settings


def next_page(executor: Executor, scan: Scan, operation: str) -> Flow[list[int] | None]:
    """Return the next rooms of a scan; None after the last. Errors name the operation that it is a part of."""
    session = executor.session
    context = yield from executor.context(operation)
    request = scan.request(context, session.slot_map_version)
    if request is None:
        return None
    send = Send(*request, asking=scan.asking, server=scan.server)
    try:
        reply = yield from executor.send_read(operation, send)
    except ServerChanged:
        scan.server_changed()
        return []
    return scan.page(reply, session.slot_map_version, send.server, send.asking)


def read_feed(executor: Executor, operation: str, reader: FeedReader) -> Flow[bool]:
    """Send the next request of a feed reader; False if its pass is complete."""
    if reader.pause:
        yield Sleep(reader.pause)
    context = yield from executor.context(operation)
    if context.feed_length == "0":
        raise FeedOffError(operation, executor.namespace)
    request = reader.request(context)
    if request is None:
        return False
    reader.take((yield from executor.send_command(operation, *request)))
    return True


def read_settings(executor: Executor) -> Flow[Settings | None]:
    """Return the settings of the namespace without writing them; None if it does not exist."""
    executor.session.check_open("settings")
    expected = executor.session.expected_settings
    reply = yield from executor.send_command("settings", executor.namespace, expected.reading())
    return expected.read(reply) if any(reply) else None
