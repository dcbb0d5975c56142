"""Blocking I/O: connections, transports, dispatcher, follower, lease, mirror, room, table, store.

Each file has a twin of the same name in ``aio``; a test holds table, room, store and connect equal but for ``await``.
"""
