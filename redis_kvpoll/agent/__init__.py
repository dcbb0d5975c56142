"""One process per engine and host that speaks to Redis for the engine's processes.

A process keeps its rooms in dicts and tells each change (``sender``, ``outbox``, ``messages``) over a channel
(``channel``, ``link``, ``frames``, ``launch``). These are the client's part. They import neither asyncio nor a Redis
client: they run inside an engine's process.

The agent knows a process by its messages alone (``session``): it publishes the changes, holds the process's lease, and
tells it the failures of its rooms.
"""
