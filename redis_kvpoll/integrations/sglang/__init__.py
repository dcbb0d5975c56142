"""SGLang's prefill and decode workers on one table, by SGLang's own plugin interface: nothing in it is edited.

Installed beside SGLang 0.5.23, with KVPOLL_URL set: see docs/sglang.md.
"""

from redis_kvpoll.integrations.sglang.plugin import register

__all__ = ["register"]
