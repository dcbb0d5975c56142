"""The SGLang that this is made for, and where a process stands in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

VERSION = "0.5.23"
TARGET = "sglang.srt.disaggregation.common.conn.CommonKVManager.__init__"
METHODS = ("update_status", "check_status", "record_failure")
STATUSES = {"Failed": 0, "Bootstrapping": 1, "WaitingForInput": 2, "Transferring": 3, "Success": 4}
NUMBERS = ("attn_tp_size", "attn_tp_rank", "attn_cp_size", "attn_cp_rank", "pp_size", "pp_rank")


class IncompatibleSGLangError(Exception):
    """This SGLang is not as we know it."""


def check_class(module: Any) -> None:
    """Raise IncompatibleSGLangError unless ``common.conn`` has what is hooked and what is relied on."""
    manager = getattr(module, "CommonKVManager", None)
    missing = [name for name in METHODS if not callable(getattr(manager, name, None))]
    if manager is None or missing:
        raise IncompatibleSGLangError(f"CommonKVManager{'.' if missing else ''}{', '.join(missing)} is not there")
    kvpoll = getattr(module, "KVPoll", None)
    if any(getattr(kvpoll, name, None) != number for name, number in STATUSES.items()):
        raise IncompatibleSGLangError(f"KVPoll is not {STATUSES}")


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """One process of one instance."""

    role: str
    """prefill, or decode."""
    instance: str
    """What all ranks of a data-parallel rank of an instance have in common."""
    owner: str
    """This process, as the owner of a lease."""
    rank: int
    world_size: int
    stages: tuple[int, ...]
    """The ranks that hold the other stages of this one's pipeline, itself among them, in the order of stages."""

    @property
    def ranks(self) -> dict[str, int]:
        """The options by which a store is one of several ranks; none for one that is alone."""
        return {"rank": self.rank, "world_size": self.world_size} if self.world_size > 1 else {}


def identify(manager: Any) -> ProcessIdentity:
    """Where a manager stands; IncompatibleSGLangError if that cannot be told."""
    numbers = [getattr(manager, name, None) for name in NUMBERS]
    if not all(type(number) is int for number in numbers):
        raise IncompatibleSGLangError(f"{', '.join(NUMBERS)} are {numbers}")
    tp_size, tp, cp_size, cp, pp_size, pp = (int(number or 0) for number in numbers)
    role = str(getattr(getattr(manager, "disaggregation_mode", None), "value", ""))
    if role not in ("prefill", "decode"):
        raise IncompatibleSGLangError(f"disaggregation_mode is {role!r}")
    for name in ("request_status", "failure_records", *(["req_to_decode_prefix_len"] if role == "prefill" else [])):
        there = getattr(manager, name, None)
        is_consensus = name == "request_status" and hasattr(there, "collect") and hasattr(there, "close")
        if not (type(there) is dict and not there) and not is_consensus:
            raise IncompatibleSGLangError(f"{name} is a {type(there).__name__}, and not an empty dict")
    # As CommonKVManager._prefill_unique_rank, so that it is the rank that SGLang's own messages and logs name.
    ranks = [tp * pp_size * cp_size + stage * cp_size + cp for stage in range(pp_size)]
    instance = f"{role}/{_address(manager, role)}"
    if dp := _data_parallel(manager):
        instance += f"/{dp}"
    parts = [(f"tp{tp}", tp_size), (f"cp{cp}", cp_size), (f"pp{pp}", pp_size)]
    owner = "/".join([instance, *(name for name, size in parts if size > 1)])
    return ProcessIdentity(role, instance, owner, ranks[pp], tp_size * cp_size * pp_size, tuple(ranks))


def _address(manager: Any, role: str) -> str:
    """By which people know an instance: its bootstrap server's address, or its own; of several hosts, the first's."""
    several = str(getattr(manager, "dist_init_addr", None) or "")
    host = several.rpartition(":")[0].strip("[]") if several else str(getattr(manager, "local_ip", ""))
    if role == "prefill":
        return f"{host}:{getattr(manager, 'bootstrap_port', 0)}"
    port = getattr(getattr(manager, "server_args", None), "port", None)
    return f"{host}:{port or getattr(manager, 'rank_port', 0)}"


def _data_parallel(manager: Any) -> str:
    """Which data-parallel rank this is; empty where there is one. They share no rooms."""
    for size, rank in (("attn_dp_size", "attn_dp_rank"), ("system_dp_size", "system_dp_rank")):
        if (getattr(manager, size, 1) or 1) > 1:
            return f"dp{getattr(manager, rank, 0)}"
    return ""
