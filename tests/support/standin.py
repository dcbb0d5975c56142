"""A stand-in for SGLang's manager, for what needs no more of it than its attributes. tests/sglang has the real one."""

from __future__ import annotations

import contextlib
import logging
from enum import Enum
from types import SimpleNamespace

from redis_kvpoll import StatusStore
from redis_kvpoll.integrations.sglang import install, worker
from tests.support import pace


class Mode(Enum):
    PREFILL = "prefill"
    DECODE = "decode"
    NULL = "null"


def manager(role="prefill", **others):
    """One with its dicts as SGLang's __init__ leaves them."""
    there = {
        "request_status": {},
        "failure_records": {},
        "disaggregation_mode": Mode(role),
        "local_ip": "10.0.0.1",
        "bootstrap_port": 8998,
        "rank_port": 40000,
        "server_args": SimpleNamespace(port=30000),
        "dist_init_addr": None,
        "attn_dp_size": 1,
        "attn_dp_rank": 0,
        "system_dp_size": 1,
        "system_dp_rank": 0,
    }
    for name in ("attn_tp", "attn_cp", "pp"):
        there |= {f"{name}_size": 1, f"{name}_rank": 0}
    if role == "prefill":
        there["req_to_decode_prefix_len"] = {}
    return SimpleNamespace(**there | others)


def serve(world, monkeypatch, deadline):
    """A server of a test's own, which managers are to join."""
    server = world.serve()
    deadline = str(pace.seconds(deadline))
    for name, value in {"URL": server.tcp, "NAMESPACE": "t", "LEASE": "5", "DEADLINE": deadline}.items():
        monkeypatch.setenv(f"KVPOLL_{name}", value)
    monkeypatch.setattr(worker, "AWAY_SECONDS", 0.0)
    return server


def table(server):
    """The prefill side's table there, as an operator sees it."""
    return StatusStore.from_url(server.tcp, namespace="t-prefill", policy="strict")


@contextlib.contextmanager
def joined(*managers):
    """Managers after the hook; their links end with this."""
    try:
        for one in managers:
            install.after_init(None, one)
        yield managers
    finally:
        for one in managers:
            leave(one)
        for name in install.SILENCED:
            logging.getLogger(name).setLevel(logging.NOTSET)
            logging.getLogger(name).removeFilter(install.is_news)


def leave(one):
    """End a manager's link, if it has one."""
    if hasattr(one, "kvpoll_link"):
        one.kvpoll_link.close()
