"""A server that is a replica: what it knows of its primary, and how old its data is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from redis_kvpoll.doctor import node_look
from redis_kvpoll.doctor.facts import Facts
from redis_kvpoll.doctor.findings import Observation, unknown
from redis_kvpoll.doctor.node_view import Check, number
from redis_kvpoll.protocol.durations import human
from redis_kvpoll.sync.connect import transport_from_url
from redis_kvpoll.transport.urls import parse, place


class ReplicaLink(NamedTuple):
    """What a replica tells of its link."""

    primary: str
    """Its address, as in a URL."""
    is_linked: bool
    behind: float | None
    """Seconds since it heard of its primary; None if it never has."""

    @property
    def described(self) -> str:
        """How old its data is without a link, in words."""
        if self.behind is None:
            return "it has no link to it, and has had none since its start"
        return f"it has had no link to it for {human(self.behind)}, and its data is as old"


def replica_in(info: Mapping[str, str]) -> ReplicaLink | None:
    """Return the replica that INFO describes; None for a primary."""
    if info.get("role") != "slave":
        return None
    primary = place(info.get("master_host", "?"), info.get("master_port", "?"))
    is_linked = info.get("master_link_status") == "up"
    seconds = number(info, "master_last_io_seconds_ago" if is_linked else "master_link_down_since_seconds")
    return ReplicaLink(primary, is_linked, seconds if seconds >= 0 else None)


def read_replica(url: str, seconds: float) -> ReplicaLink | None:
    """Return what the server of a URL tells if it is a replica; None for a primary, a cluster or Sentinels.

    None, too, if it does not answer, or does not let this user ask.
    """
    if parse(url).kind != "single":
        return None
    transport = transport_from_url(url, seconds)
    try:
        node = transport.nodes(seconds)[0]
        return replica_in(node_look.read_fields(node_look.ask(node.pool, "INFO", "replication")) or {})
    except node_look.FAILURES:
        return None
    finally:
        transport.close()


def replica_of(facts: Facts) -> ReplicaLink | None:
    """Return the replica that was looked at; None for a primary or a cluster."""
    found = (replica_in(node.info or {}) for node in facts.nodes if node.is_primary)
    return next((one for one in found if one is not None), None)


def of_primary(check: Check) -> Check:
    """Return a check that says nothing of the old data of a replica without its primary."""

    def check_primary(facts: Facts) -> Observation:
        found = replica_of(facts)
        if found is None or found.is_linked:
            return check(facts)
        return unknown(f"not known: this server is a replica of {found.primary}; {found.described}")

    return check_primary
