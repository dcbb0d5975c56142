"""How a replay's worker writes into the other side's table."""

from __future__ import annotations

import contextlib
import uuid

from redis_kvpoll import KVPoll
from redis_kvpoll.replay.messages import Job, Plan
from redis_kvpoll.replay.runner import server
from redis_kvpoll.replay.side_table import Meter, SideTable
from redis_kvpoll.replay.writers import FencedWriter
from tests.support import real


def test_status_that_a_killed_server_lost_comes_back():
    """Prefill has nothing left to do there, so decode would wait for its Success until it times out."""
    with server(None) as (url, private), contextlib.ExitStack() as stores:
        plan = Plan(url, f"replay-{uuid.uuid4().hex[:8]}", "strict", speed=1.0, ttl=60.0, lease=5.0)

        def table(side):
            side_table = SideTable(plan, side, Meter())
            stores.enter_context(side_table.store)
            return side_table

        prefill = FencedWriter(table("prefill"), table("decode"), 5.0)
        decode = FencedWriter(table("decode"), table("prefill"), 5.0)
        job = Job(1, 9, 100, 0, None, None)
        decode.open([job])
        prefill.write_peer({job: KVPoll.Success})
        private.restart()
        assert decode.current_status(job) is KVPoll.Bootstrapping
        real.until(lambda: prefill.retry_pending() or decode.current_status(job) is KVPoll.Success, "it is there again")
