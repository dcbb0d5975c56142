"""The table for processes that must not wait for it, nor run an event loop: they speak by messages to a part that does.

The client's side keeps its rooms in dicts and tells each change (outbox, sender, messages). The table's side
(session) knows a client by its messages alone: it publishes the changes, holds the client's lease, and tells it the
failures of its rooms.

Importing this package loads neither a Redis client nor asyncio, nor do the modules of the client's side.
"""
