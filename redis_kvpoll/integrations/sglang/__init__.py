"""SGLang's prefill and decode workers on one table, by SGLang's own plugin interface: nothing in it is edited.

Installed beside SGLang 0.5.23, with KVPOLL_URL set: see docs/sglang.md. Its words:

- use: one life of a room here, from SGLang's opening it until it clears it; a room's uses are numbered;
- registry: what this process knows of its rooms. SGLang's threads read and write it, by what look like its dicts;
- publisher: says to the table what the registry has, in order;
- link: the thread that joins a process to the table. The publisher, the lease and the mirrors live in it;
- place: which process of which instance this is, and so its rank and its lease's owner.
"""

from redis_kvpoll.integrations.sglang.plugin import register

__all__ = ["register"]
