"""One process per engine and host that speaks to Redis for the engine's processes.

``frames``, ``link``, ``channel`` and ``launch`` are the client's part. They import nothing else of the package but
``_fork``, and neither asyncio nor a Redis client: they run inside an engine's process.
"""
