"""One consistent table of KV-transfer statuses, in a Redis that all processes share.

from redis_kvpoll import KVPoll, StatusStore

with StatusStore.from_url("redis://localhost:6379/0", namespace="prod") as store:
    store.update_status(42, KVPoll.Bootstrapping)
    store.poll([42, 43])                            # [KVPoll.Bootstrapping, None]
"""

from redis_kvpoll.aio import AsyncStatusStore
from redis_kvpoll.aioroom import AsyncRoom
from redis_kvpoll.checks import Mode, Policy
from redis_kvpoll.commands import Change, FeedGap, Settings
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
    ReplayError,
    RoomBusyError,
    RoomNotFoundError,
    ServerRefusedError,
    StoreClosedError,
    StoreUnavailableError,
    WaitTimeoutError,
    WorldSizeMismatchError,
)
from redis_kvpoll.leases.aio import AsyncLease
from redis_kvpoll.leases.blocking import Lease
from redis_kvpoll.mirror.aio import AsyncMirror
from redis_kvpoll.mirror.blocking import Mirror
from redis_kvpoll.room import Room
from redis_kvpoll.status import Consensus, Entry, KVPoll, Outcome, Owner, Update
from redis_kvpoll.store import StatusStore

__all__ = [
    "AsyncLease",
    "AsyncMirror",
    "AsyncRoom",
    "AsyncStatusStore",
    "Change",
    "Consensus",
    "CorruptEntryError",
    "EmbeddedServerError",
    "Entry",
    "EvictionWarning",
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
    "ReplayError",
    "Room",
    "RoomBusyError",
    "RoomNotFoundError",
    "ServerRefusedError",
    "Settings",
    "StatusStore",
    "StoreClosedError",
    "StoreUnavailableError",
    "Update",
    "WaitTimeoutError",
    "WorldSizeMismatchError",
]
