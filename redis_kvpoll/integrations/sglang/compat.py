"""What the plugin relies on in SGLang, and which process of which instance a manager is in.

Every assumption about SGLang's objects is checked here, and those about what its methods do in behaviour, before
anything is replaced. No version is compared: a release that behaves alike is supported.

The plugin adds these attributes to SGLang's objects:

  on        attribute               what                                            set in   read in
  manager   kvpoll_worker           the TableWorker                                 install  hooks, tests
  manager   kvpoll_failures         decode's DecodeFailures, unless it has stages   install  hooks, holds
  manager   kvpoll_failed_by_table  prefill's FailedByTable, if it has other ranks  install  withholding
  sender    kvpoll_life             the life of the room that it has opened         hooks    hooks
  receiver  kvpoll_life             the same                                        hooks    hooks, pages
  receiver  kvpoll_waiting          failures that its next poll decides on          pages    pages
  receiver  kvpoll_failed_at        when the table failed it, if held for longer    pages    pages, holds
  receiver  kvpoll_limit            SGLang's own limit for its pages                holds    holds
  queue     kvpoll_prolongs         that one of its limits has been changed         holds    holds

It replaces methods of theirs, too: those of refused senders and receivers (duplicates), a receiver's ``poll`` until its
next call (pages), and a manager's ``update_status`` and ``teardown`` (install) and first ``check_status`` (behaviour).
"""

from __future__ import annotations

import functools
import inspect
import itertools
import sys
from dataclasses import dataclass
from typing import Any

from redis_kvpoll.integrations.sglang.peers import owner_name, without_address

SUPPORTED = "0.5.12 to 0.5.23"
"""The releases that are tested; pipelines are from 0.5.22 on. For people only."""
CONN = "sglang.srt.disaggregation.common.conn"
TARGET = f"{CONN}.CommonKVManager.__init__"
METHODS = ("update_status", "check_status", "record_failure")
STATUSES = {"Failed": 0, "Bootstrapping": 1, "WaitingForInput": 2, "Transferring": 3, "Success": 4}
RANK_ATTRIBUTES = ("attn_tp_size", "attn_tp_rank", "attn_cp_size", "attn_cp_rank", "pp_size", "pp_rank")


class IncompatibleSGLangError(Exception):
    """This SGLang lacks what the plugin relies on."""


def check_class(module: Any) -> None:
    """Raise IncompatibleSGLangError unless ``common.conn`` has what is hooked and relied on."""
    manager = getattr(module, "CommonKVManager", None)
    missing = [name for name in METHODS if not callable(getattr(manager, name, None))]
    if manager is None:
        raise IncompatibleSGLangError("CommonKVManager is missing")
    if missing:
        raise IncompatibleSGLangError(f"CommonKVManager has no {', '.join(missing)}")
    kvpoll = getattr(module, "KVPoll", None)
    if any(getattr(kvpoll, name, None) != number for name, number in STATUSES.items()):
        raise IncompatibleSGLangError(f"KVPoll is not {STATUSES}")


@functools.cache
def takes_aborts(classes: tuple[type, ...]) -> bool:
    """Return whether a backend's prefill knows SGLang's message of an abort, by the source of its manager's classes.

    From 0.5.13 on decode sends it whatever the backend is. Up to 0.5.15 nixl's thread does not know it, and ends.
    """
    backends = itertools.takewhile(lambda owner: owner.__module__ != CONN, classes)
    return any('"ABORT"' in inspect.getsource(sys.modules[owner.__module__]) for owner in backends)


def has_consensus_store(manager: Any) -> bool:
    """Return whether a manager's ``request_status`` is SGLang's PPConsensusStore, as with pipeline parallelism."""
    return hasattr(manager.request_status, "collect")


def all_stages_joined(manager: Any, has_joined: bool) -> bool:
    """Return whether all stages of a pipeline have joined.

    Each stage broadcasts to all others in turn, as SGLang's own store does just before to exchange addresses. Without
    this, a stage on SGLang's store would wait for messages from a stage on the table.
    """
    group, rank = manager.pp_group, manager.pp_rank
    answers = [
        group.broadcast_object(has_joined if rank == stage else None, src=stage) for stage in range(manager.pp_size)
    ]
    return all(answers)


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """Which process of which instance this is."""

    role: str
    """prefill or decode."""
    instance: str
    """Common to all ranks of one data-parallel rank of an instance."""
    owner: str
    """This process's name as the owner of a lease; it ends with the address at which SGLang's messages reach it."""
    rank: int
    world_size: int
    stages: tuple[int, ...]
    """The ranks of this process's pipeline, its own among them, in the order of stages."""

    @property
    def name(self) -> str:
        """This process's name for people."""
        return without_address(self.owner)

    @property
    def rank_options(self) -> dict[str, int]:
        """The options that make a store one of several ranks; none if there is a single one."""
        return {"rank": self.rank, "world_size": self.world_size} if self.world_size > 1 else {}


def identify(manager: Any) -> ProcessIdentity:
    """Return the identity of a manager's process; IncompatibleSGLangError if its attributes are not as expected."""
    numbers = [getattr(manager, name, None) for name in RANK_ATTRIBUTES]
    if not all(type(number) is int for number in numbers):
        raise IncompatibleSGLangError(f"{', '.join(RANK_ATTRIBUTES)} are {numbers}, not ints")
    tp_size, tp, cp_size, cp, pp_size, pp = (int(number or 0) for number in numbers)
    role = str(getattr(getattr(manager, "disaggregation_mode", None), "value", ""))
    if role not in ("prefill", "decode"):
        raise IncompatibleSGLangError(f"disaggregation_mode is {role!r}")
    port = getattr(manager, "rank_port", None)
    if type(port) is not int:
        raise IncompatibleSGLangError(f"rank_port is {port!r}, not an int")
    _check_dicts(manager, role)
    # As CommonKVManager._prefill_unique_rank, so that it is the rank in SGLang's own messages and logs.
    ranks = [tp * pp_size * cp_size + stage * cp_size + cp for stage in range(pp_size)]
    instance = f"{role}/{_address(manager, role)}"
    if dp := _data_parallel_rank(manager):
        instance += f"/{dp}"
    parts = [(f"tp{tp}", tp_size), (f"cp{cp}", cp_size), (f"pp{pp}", pp_size)]
    ranks_of_several = [name for name, size in parts if size > 1]
    owner = owner_name(instance, ranks_of_several, str(getattr(manager, "local_ip", "")), port)
    return ProcessIdentity(role, instance, owner, ranks[pp], tp_size * cp_size * pp_size, tuple(ranks))


def _check_dicts(manager: Any, role: str) -> None:
    for name in ("request_status", "failure_records", *(["req_to_decode_prefix_len"] if role == "prefill" else [])):
        found = getattr(manager, name, None)
        is_consensus = name == "request_status" and hasattr(found, "collect") and hasattr(found, "close")
        if not (type(found) is dict and not found) and not is_consensus:
            raise IncompatibleSGLangError(f"{name} is a {type(found).__name__}, not an empty dict")


def _address(manager: Any, role: str) -> str:
    """Return the address by which operators know an instance: its first host, with the port of its server."""
    first = str(getattr(manager, "dist_init_addr", None) or "")
    host = first.rpartition(":")[0].strip("[]") if first else str(getattr(manager, "local_ip", ""))
    if role == "prefill":
        return f"{host}:{getattr(manager, 'bootstrap_port', 0)}"
    port = getattr(getattr(manager, "server_args", None), "port", None)
    return f"{host}:{port or getattr(manager, 'rank_port', 0)}"


def _data_parallel_rank(manager: Any) -> str:
    """Return which data-parallel rank this is, empty if there is one. Data-parallel ranks share no rooms."""
    for size, rank in (("attn_dp_size", "attn_dp_rank"), ("system_dp_size", "system_dp_rank")):
        if (getattr(manager, size, 1) or 1) > 1:
            return f"dp{getattr(manager, rank, 0)}"
    return ""
