"""Which processes of the other role serve a room, and whether a failure in the other role's table concerns it.

A room's number says nothing about that: a router may try the same room with another instance. SGLang's own bookkeeping
has the address of each process that takes part, and an owner's name ends with its address.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Any

Address = tuple[str, int]
"""Where a process receives SGLang's messages: its ``local_ip`` and ``rank_port``."""

_OWNER = re.compile(r"(?P<instance>\S+?)(?P<ranks>(?:/(?:tp|cp|pp)\d+)*)@(?P<host>\S+):(?P<port>\d+)")


def owner_name(instance: str, ranks: Iterable[str], host: str, port: int) -> str:
    """Return the name of a process as an owner: ``prefill/10.0.0.1:8998/tp0@10.0.0.1:41233``."""
    return f"{'/'.join([instance, *ranks])}@{_plain(host)}:{port}"


def address_of(owner: str | None) -> Address | None:
    """Return the address in an owner's name, also where a rank follows it; None without one."""
    found = _OWNER.match(owner or "")
    return (found["host"], int(found["port"])) if found else None


def instance_of(owner: str | None) -> str | None:
    """Return the instance in an owner's name."""
    found = _OWNER.match(owner or "")
    return found["instance"] if found else None


def has_stages(owner: str | None) -> bool:
    """Return whether a process, by its name as an owner, is one of several stages of a pipeline."""
    found = _OWNER.match(owner or "")
    return found is not None and "/pp" in found["ranks"]


def without_address(text: str) -> str:
    """Return a text without the addresses of the owners in it, for people."""
    return re.sub(r"(?<=[\w\]])@\S+:\d+", "", text)


def servers_of(bootstrap_infos: Iterable[Any]) -> frozenset[Address]:
    """Return the addresses in a receiver's ``bootstrap_infos``: every process of prefill that will send it pages."""
    return frozenset(
        (_plain(info["rank_ip"]), int(info["rank_port"])) for info in bootstrap_infos if info.get("rank_port")
    )


def receivers_of(manager: Any, room: int) -> frozenset[Address] | None:
    """Return the addresses of the decode processes that have asked this prefill process for a room's pages, if any."""
    infos = getattr(manager, "transfer_infos", {}).get(room) or {}
    found = ((getattr(info, "endpoint", None), getattr(info, "dst_port", None)) for info in list(infos.values()))
    return frozenset((_plain(host), int(port)) for host, port in found if host and port) or None


def _plain(host: Any) -> str:
    return str(host).strip("[]").partition("%")[0]


def concerns(failed_by: str | None, owner: str | None, peers: Collection[Address], owners: Iterable[str]) -> bool:
    """Return whether a failed room is the one that these peers serve.

    A process that failed it must be one of them. If nobody did, as after an abort by hand, the room must belong to an
    instance of theirs. ``owner`` is the room's, and ``owners`` are all: they are known only then.
    """
    if (author := address_of(failed_by)) is not None:
        return author in peers
    if address_of(owner) in peers:
        return True
    instances = {instance_of(name) for name in owners if address_of(name) in peers}
    return instance_of(owner) in instances - {None}
