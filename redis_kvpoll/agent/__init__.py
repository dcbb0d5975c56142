"""One process per engine and host that speaks to Redis for the engine's processes.

- ``client`` runs inside an engine's process, which keeps its rooms in dicts and tells each change over a channel.
- ``session`` is what the agent does for one process, which it knows by its messages alone: it publishes the changes,
  holds the process's lease, and tells it the failures of its rooms.
- ``server`` is the agent as a process: its socket, its sessions, its start and end.

The modules here are common to both sides. They and ``client`` import neither asyncio nor a Redis client.
"""
