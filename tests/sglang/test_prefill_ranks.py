"""Several ranks of prefill write to the same request of decode: the failure of one is not told by another."""

from __future__ import annotations

import os
import signal

import pytest

from redis_kvpoll import KVPoll
from tests.sglang.deployment import Deployment, until
from tests.sglang.test_pages import LATER, LOST, ROOM, environment
from tests.support.real import free_port

__all__ = ["environment"]


@pytest.mark.parametrize("how", ["held back", "stopped"])
def test_rank_that_ends_tells_no_failure_of_the_table(host, environment, tables, how):
    """The other rank may still write. What the first one says of another room, later, has arrived."""
    settings = environment | {"SGLANG_DISAGGREGATION_DEFERRED_DECODE_KV_RELEASE": "0"}
    with Deployment(host, settings) as deployment:
        port, ranks = free_port(), [{"role": "prefill", "tp_size": 2, "tp_rank": rank} for rank in range(2)]
        stuck, other = prefill = deployment.start(*ranks, port=port)
        (decode,) = deployment.start({"role": "decode"}, port=port)
        assert decode.learn()
        for worker in (*prefill, decode):
            worker.open(ROOM, LATER)
        decode.transfer(ROOM, LATER)
        for worker in prefill:
            until(lambda worker=worker: worker.get(ROOM, LATER), [KVPoll.WaitingForInput] * 2)
            worker.update(ROOM, KVPoll.Transferring)
            worker.set_outstanding(ROOM, 1)
        until(lambda: tables["prefill"].get(ROOM), KVPoll.Transferring)
        if how == "held back":
            stuck.hold_back(ROOM)
        else:
            os.kill(stuck.pid, signal.SIGSTOP)
        until(lambda: other.get(ROOM), [KVPoll.Failed], LOST)
        other.conclude(ROOM, KVPoll.Success)
        other.settle(ROOM)
        other.conclude(LATER, KVPoll.Failed, "no route")
        until(lambda: decode.poll(LATER), [KVPoll.Failed])
        assert decode.get(ROOM) != [KVPoll.Failed]
        assert ROOM not in decode.iterate()["released"]
        if how == "stopped":
            os.kill(stuck.pid, signal.SIGCONT)
