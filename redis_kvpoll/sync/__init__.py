"""Blocking I/O: connections, transports, dispatcher, follower, lease, mirror, room, table, store.

Almost every file has a twin of the same name in ``aio``: docs/architecture.md names those that a test holds equal but
for ``await``, and those without a twin.
"""
