"""A stand-in for SGLang's manager, which has its attributes only. For the real one see tests/sglang."""

from __future__ import annotations

import contextlib
import logging
from enum import Enum
from types import SimpleNamespace

from redis_kvpoll import StatusStore
from redis_kvpoll.integrations.sglang import install, plugin, worker
from tests.support import pace


class Mode(Enum):
    PREFILL = "prefill"
    DECODE = "decode"
    NULL = "null"


def manager(role="prefill", **others):
    """Return a manager with its dicts as SGLang's __init__ leaves them."""
    attributes = {
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
        attributes |= {f"{name}_size": 1, f"{name}_rank": 0}
    if role == "prefill":
        attributes["req_to_decode_prefix_len"] = {}
    return SimpleNamespace(**attributes | others)


def serve(world, monkeypatch, deadline):
    """Start a server of a test's own, and set the environment so that managers join it."""
    server = world.serve()
    deadline = str(pace.seconds(deadline))
    for name, value in {"URL": server.tcp, "NAMESPACE": "t", "LEASE": "5", "DEADLINE": deadline}.items():
        monkeypatch.setenv(f"KVPOLL_{name}", value)
    monkeypatch.setattr(worker, "OUTAGE_SECONDS", 0.0)
    return server


def table(server):
    """Return a store of the server's prefill table, as an operator's."""
    return StatusStore.from_url(server.tcp, namespace="t-prefill", policy="strict")


@contextlib.contextmanager
def joined(*managers):
    """Run the hook on managers; leave the table at the end."""
    try:
        for sglang in managers:
            plugin.after_init(None, sglang)
        yield managers
    finally:
        for sglang in managers:
            leave(sglang)
        for name in install.QUIET_LOGGERS:
            logging.getLogger(name).setLevel(logging.NOTSET)
            logging.getLogger(name).removeFilter(install.is_not_lease_advice)


def leave(sglang):
    """Leave the table, if the manager has joined."""
    if hasattr(sglang, "kvpoll_worker"):
        sglang.kvpoll_worker.close()
