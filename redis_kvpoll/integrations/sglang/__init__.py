"""SGLang's prefill and decode workers on one status table, through SGLang's plugin interface; no SGLang code is edited.

SGLang's threads read and write maps in place of its dicts. The RoomRegistry decides every change, and the TableWorker's
client tells it to the process's session in the agent, which publishes it, holds the process's lease and follows the
changes of other processes. Each opening of a room begins a new, numbered life, which ends when SGLang clears the room.

Importing this package loads neither a Redis client nor asyncio: see plugin. How to use it: docs/sglang.md.
"""

from redis_kvpoll.integrations.sglang.plugin import register

__all__ = ["register"]
