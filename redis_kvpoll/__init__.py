"""One consistent table of KV-transfer statuses, in a Redis that all processes share.

from redis_kvpoll import KVPoll, StatusStore

with StatusStore.from_url("redis://localhost:6379/0", namespace="prod") as store:
    store.update_status(42, KVPoll.Bootstrapping)
    store.poll([42, 43])                            # [KVPoll.Bootstrapping, None]

Each public name is loaded when it is first asked for (PEP 562), so that a plugin's entry point or the command line
loads neither a Redis client nor asyncio.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from redis_kvpoll.aio.failures import AsyncFailures
    from redis_kvpoll.aio.lease import AsyncLease
    from redis_kvpoll.aio.mirror import AsyncMirror
    from redis_kvpoll.aio.room import AsyncRoom
    from redis_kvpoll.aio.statistics import AsyncStatistics
    from redis_kvpoll.aio.store import AsyncStatusStore
    from redis_kvpoll.errors import (
        CorruptEntryError,
        EmbeddedServerError,
        EvictionWarning,
        FeedOffError,
        InvalidInputError,
        KVPollError,
        KVTransferError,
        LeaseLostError,
        NamespaceMismatchError,
        OutcomeUnknownError,
        ReadOnlyStoreError,
        ReplayError,
        RoomBusyError,
        RoomNotFoundError,
        ServerRefusedError,
        StoreClosedError,
        StoreUnavailableError,
        WaitTimeoutError,
        WorldSizeMismatchError,
    )
    from redis_kvpoll.model import Consensus, DataLosses, Entry, KVPoll, Outcome, Owner, RoomFailure, RoomRow, Update
    from redis_kvpoll.protocol.feed import Change, FeedGap
    from redis_kvpoll.protocol.settings import Settings
    from redis_kvpoll.statistics.model import Snapshot
    from redis_kvpoll.sync.failures import Failures
    from redis_kvpoll.sync.lease import Lease
    from redis_kvpoll.sync.mirror import Mirror
    from redis_kvpoll.sync.room import Room
    from redis_kvpoll.sync.statistics import Statistics
    from redis_kvpoll.sync.store import StatusStore
    from redis_kvpoll.validation import Mode, Policy

_MODULES = {
    "aio.failures": ("AsyncFailures",),
    "aio.lease": ("AsyncLease",),
    "aio.mirror": ("AsyncMirror",),
    "aio.room": ("AsyncRoom",),
    "aio.statistics": ("AsyncStatistics",),
    "aio.store": ("AsyncStatusStore",),
    "errors": (
        *("CorruptEntryError", "EmbeddedServerError", "EvictionWarning", "FeedOffError", "InvalidInputError"),
        *("KVPollError", "KVTransferError", "LeaseLostError", "NamespaceMismatchError", "OutcomeUnknownError"),
        *(
            "ReadOnlyStoreError",
            "ReplayError",
            "RoomBusyError",
            "RoomNotFoundError",
            "ServerRefusedError",
            "StoreClosedError",
        ),
        *("StoreUnavailableError", "WaitTimeoutError", "WorldSizeMismatchError"),
    ),
    "model": (*("Consensus", "DataLosses", "Entry", "KVPoll", "Outcome", "Owner", "RoomFailure", "RoomRow", "Update"),),
    "protocol.feed": ("Change", "FeedGap"),
    "protocol.settings": ("Settings",),
    "statistics.model": ("Snapshot",),
    "sync.failures": ("Failures",),
    "sync.lease": ("Lease",),
    "sync.mirror": ("Mirror",),
    "sync.room": ("Room",),
    "sync.statistics": ("Statistics",),
    "sync.store": ("StatusStore",),
    "validation": ("Mode", "Policy"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "AsyncFailures",
    "AsyncLease",
    "AsyncMirror",
    "AsyncRoom",
    "AsyncStatistics",
    "AsyncStatusStore",
    "Change",
    "Consensus",
    "CorruptEntryError",
    "DataLosses",
    "EmbeddedServerError",
    "Entry",
    "EvictionWarning",
    "Failures",
    "FeedGap",
    "FeedOffError",
    "InvalidInputError",
    "KVPoll",
    "KVPollError",
    "KVTransferError",
    "Lease",
    "LeaseLostError",
    "Mirror",
    "Mode",
    "NamespaceMismatchError",
    "Outcome",
    "OutcomeUnknownError",
    "Owner",
    "Policy",
    "ReadOnlyStoreError",
    "ReplayError",
    "Room",
    "RoomBusyError",
    "RoomFailure",
    "RoomNotFoundError",
    "RoomRow",
    "ServerRefusedError",
    "Settings",
    "Snapshot",
    "Statistics",
    "StatusStore",
    "StoreClosedError",
    "StoreUnavailableError",
    "Update",
    "WaitTimeoutError",
    "WorldSizeMismatchError",
]


def __getattr__(name: str) -> Any:
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{module}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
