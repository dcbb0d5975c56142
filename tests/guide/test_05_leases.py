"""Chapter 5: a lease fails the rooms of a dead worker within seconds."""

from __future__ import annotations

import subprocess
import sys

from redis_kvpoll import KVPoll

DYING_WORKER = """
import os, sys
from redis_kvpoll import KVPoll, StatusStore
store = StatusStore.from_url(sys.argv[1], namespace="prod")
store.lease("prefill-0", ttl=1.0).__enter__()
store.update_status(42, KVPoll.Transferring)
os._exit(1)
"""


def test_rooms_belong_to_the_lease_that_created_them(store):
    """A background thread renews the lease; ``owners`` lists it with its live rooms."""
    with store.lease("prefill-0") as lease:
        store.update_status(42, KVPoll.Bootstrapping)
        assert store.entry(42).owner == "prefill-0"
        assert [(owner.name, owner.state, owner.rooms) for owner in store.owners()] == [("prefill-0", "alive", 1)]
        assert not lease.lost


def test_rooms_of_a_dead_worker_fail(url, store):
    """When the heartbeats stop, any other holder of a lease fails the rooms, each once."""
    subprocess.run([sys.executable, "-c", DYING_WORKER, url], check=False)
    with store.lease("decode-0"):
        assert store.wait(42, timeout=60) is KVPoll.Failed
    assert store.failure_reason(42) == "owner prefill-0 lost"
