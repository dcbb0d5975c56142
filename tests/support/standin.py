"""A stand-in for SGLang's manager, with its attributes and its rule for a status. For the real one see tests/sglang."""

from __future__ import annotations

import contextlib
from enum import Enum
from types import SimpleNamespace

from redis_kvpoll import KVPoll, StatusStore
from redis_kvpoll.agent.session import outage
from redis_kvpoll.integrations.sglang import plugin
from tests.support import pace, real

OWNER = "prefill/10.0.0.1:8998@10.0.0.1:40000"
"""The owner of a prefill manager's rooms."""


class Mode(Enum):
    PREFILL = "prefill"
    DECODE = "decode"
    NULL = "null"


class Manager(SimpleNamespace):
    """A manager that changes statuses as SGLang does since 0.5.20."""

    def update_status(self, room, status):
        if (write := decided(self.request_status.get(room), status)) is not None:
            self.request_status[room] = write

    def check_status(self, room):
        return self.request_status[room]


class Receiver:
    """A receiver of a decode manager that defers the release of pages, and has not asked for them."""

    def __init__(self, sglang, room):
        self.kv_mgr, self.bootstrap_room, self.init_time = sglang, room, None
        self.kvpoll_life = sglang.request_status.registry.lives.get(room)

    def ensure_abort_notified(self):
        raise AssertionError("nothing here polls a receiver")


class EarlyManager(Manager):
    """A manager that changes statuses as SGLang does up to 0.5.19."""

    def update_status(self, room, status):
        if room not in self.request_status:
            if status != 0:
                self.request_status[room] = status
        else:
            self.request_status[room] = 0 if status == 0 else max(self.request_status[room], status)


def decided(current, status):
    """Return what SGLang writes for a status after it has read the current one; None if it writes nothing."""
    if current is None:
        return status if status in (1, 2) else None
    if status == 0 or current == 0:
        return 0 if status == 0 else None
    return max(current, status)


def manager(role="prefill", kind=Manager, **others):
    """Return a manager with its dicts as SGLang's __init__ leaves them."""
    return kind(**attributes(role) | others)


def attributes(role):
    """Return the attributes of a manager that the plugin looks at."""
    found = {
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
        found |= {f"{name}_size": 1, f"{name}_rank": 0}
    if role == "decode":
        found["enable_deferred_decode_kv_release"] = True
    else:
        found["req_to_decode_prefix_len"] = {}
    return found


def serve(world, monkeypatch, deadline):
    """Start a server of a test's own, and set the environment so that managers join it."""
    server = world.serve()
    deadline = str(pace.seconds(deadline))
    for name, value in {"URL": server.tcp, "NAMESPACE": "t", "LEASE": "5", "DEADLINE": deadline}.items():
        monkeypatch.setenv(f"KVPOLL_{name}", value)
    monkeypatch.setattr(outage, "OUTAGE_SECONDS", 0.0)
    return server


def table(server):
    """Return a store of the server's prefill table, as an operator's."""
    return StatusStore.from_url(server.tcp, namespace="t-prefill", policy="strict")


def until_equal(store, sglang):
    """Wait until the table has exactly what SGLang has."""

    def is_equal():
        rooms = list(store.rooms())
        return dict(zip(rooms, store.poll(rooms), strict=True)) == dict(sglang.request_status)

    real.until(is_equal, "the table equals SGLang's statuses")


def serve_rooms(sglang, rooms):
    """Take each room through a request's life; every third is still in progress afterwards."""
    for room in rooms:
        for status in (KVPoll.Bootstrapping, KVPoll.WaitingForInput, KVPoll.Transferring):
            sglang.request_status[room] = int(status)
        if room % 3:
            sglang.request_status[room] = int(KVPoll.Success)
            sglang.request_status.pop(room, None)


def learn_servers(decode, room, *prefills):
    """Let a decode manager know which prefill managers serve a room, as its receiver does.

    The release of its pages is taken to be hooked: see tests/sglang/test_pages.py.
    """
    receiver = Receiver(decode, room)
    vars(decode).setdefault("receivers", []).append(receiver)
    decode.kvpoll_failures.can_hold = True
    decode.kvpoll_failures.add(receiver)
    infos = [{"rank_ip": prefill.local_ip, "rank_port": prefill.rank_port} for prefill in prefills]
    decode.kvpoll_worker.learn_servers(room, infos)


def session_of(sglang):
    """Return the session of a manager's process, which runs in a thread of it."""
    return sglang.kvpoll_worker.client.channel.session


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


def leave(sglang):
    """Leave the table, if the manager has joined."""
    if hasattr(sglang, "kvpoll_worker"):
        sglang.kvpoll_worker.close()


def until_entry_is(store, room, **wanted):
    """Wait until the table's entry of a room has these values."""

    def is_there():
        entry = store.entry(room)
        found = {name: getattr(entry, name, None) for name in wanted}
        return found == wanted

    real.until(is_there, f"room {room} is {wanted}")
