"""The last of 8 ranks of SGLang, as a process on an agent: run by test_agent.py. It opens one room and says "open"."""

from __future__ import annotations

import sys

from redis_kvpoll.integrations.sglang import plugin
from tests.plugin.agent_client import FIRST, PORT
from tests.support.standin import manager

RANKS = 8


def main() -> None:
    sglang = manager(rank_port=PORT, attn_tp_size=RANKS, attn_tp_rank=RANKS - 1)
    plugin.after_init(None, sglang)
    sglang.request_status[FIRST] = 1
    sys.stdout.write("open\n")
    sys.stdout.flush()
    sys.stdin.readline()


if __name__ == "__main__":
    main()
