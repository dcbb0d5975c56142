"""Why the data of a table was lost, as far as its servers tell."""

from __future__ import annotations

from redis_kvpoll.doctor import databases
from redis_kvpoll.doctor.facts import Facts, NodeFacts
from redis_kvpoll.doctor.findings import plural
from redis_kvpoll.doctor.node_view import number
from redis_kvpoll.protocol.durations import human

RECENT_SECONDS = 3600.0
"""For how long a loss of data, or a start, explains what is missing."""
UPTIME_SECONDS = 1.0
"""A server's uptime is in whole seconds."""
RESTORE_SECONDS = 20.0
"""After the start of an empty server, in which owners restore their rooms."""
CLOSE_SECONDS = 1.0
"""Times within so much of each other are of one moment."""
OWN_CONNECTIONS = 1
"""Of a look, to each server."""


def cause(facts: Facts, before: float, at: float, begun: float) -> str:
    """Return why data that was there at one time was lost by another: restart, flush, eviction, or empty.

    ``begun`` is when the data that is there now began, in the youngest shard.
    """
    for node in facts.nodes:
        start = started_at(node)
        if start is None or before >= start - UPTIME_SECONDS:
            continue
        # Owners restore within seconds. Many rooms take longer: then the data begins with the start, and nothing that
        # the server counts has removed any since.
        if _follows(start, at) or (_follows(start, begun) and not may_be_gone(facts)):
            return "restart"
    if flushes(facts):
        return "flush"
    return "eviction" if evicted(facts) else ""


def _follows(start: float, at: float) -> bool:
    """Whether what was restored at a time was restored because of a server's start."""
    return -UPTIME_SECONDS <= at - start < RESTORE_SECONDS


def in_words(facts: Facts, cause: str) -> str:
    """Return a cause in words."""
    texts = {
        "restart": "the server was started anew, without it",
        "flush": may_be_gone(facts),
        "eviction": "keys were evicted",
        "": "its keys are gone",
    }
    return texts[cause]


def may_be_gone(facts: Facts) -> str:
    """Return what may have removed a namespace that is not there; empty if nothing points at that."""
    return ", ".join(found for found in (flushes(facts), evicted(facts)) if found)


def evicted(facts: Facts) -> str:
    """Return how many keys the servers have evicted, in words; empty for none."""
    count = sum(int(number(node.info or {}, "evicted_keys")) for node in facts.nodes)
    return f"{plural(count, 'key')} evicted" if count else ""


def last_start(facts: Facts) -> str:
    """Return how long ago the youngest server was started, if that was lately; else nothing."""
    ups = [number(node.info, "uptime_in_seconds") for node in facts.nodes if node.info]
    return f"the server was started {human(min(ups))} ago" if ups and min(ups) < RECENT_SECONDS else ""


def flushes(facts: Facts) -> str:
    """Return how often the servers were flushed, in words; empty for never."""
    counts: dict[str, int] = {}
    for node in facts.nodes:
        for name, count in node.flushes.items():
            counts[name.upper()] = counts.get(name.upper(), 0) + count
    shown = " and ".join(f"{name} {times(count)}" for name, count in counts.items())
    return f"{shown} since the server's start or CONFIG RESETSTAT" if shown else ""


def who_flushed(facts: Facts) -> str:
    """Return which connection has flushed a server last, in words; empty if none that is open has."""
    found = [one for node in facts.nodes for one in node.flushers]
    if not found:
        return ""
    last = min(found, key=lambda one: one.idle)
    names = [f"name {last.name}"] * bool(last.name) + [f"user {last.user}"] * bool(last.user)
    shown = f" ({', '.join(names)})" if names else ""
    total = sum(sum(node.flushes.values()) for node in facts.nodes)
    others = "" if total <= len(found) else "; of the others nothing is known"
    return f"{last.address}{shown} sent {last.command} {human(last.idle)} ago, and is still connected{others}"


def why_absent(facts: Facts) -> str:
    """Return what may have removed a namespace that is not there, and what is known of the time; empty for nothing."""
    elsewhere = wrong_number(facts)
    if reason := may_be_gone(facts):
        ups = [number(node.info, "uptime_in_seconds") for node in facts.nodes if node.info]
        start = f" (it was started {human(min(ups))} ago)" if ups else ""
        known = (
            who_flushed(facts) or f"the server does not know when{start}: the logs of the table's processes may tell"
        )
        gone = f"its data is gone ({reason}), or nobody has used it yet; {known}"
        return f"{elsewhere} If it is: {gone}" if elsewhere else gone
    started = last_start(facts)
    if elsewhere or not started:
        return elsewhere
    before = f"{started}, and what it held before is gone unless it was on disk"
    return f"{before}; since then (or since CONFIG RESETSTAT) its counters show no loss{_connected(facts)}"


def wrong_number(facts: Facts) -> str:
    """Return that the keys are in another database than the URL's; empty if not."""
    return databases.of_all([databases.count(node.info, node.database) for node in facts.nodes]).wrong_number


def no_loss_known(facts: Facts) -> str:
    """Return what counters that show no loss prove: CONFIG RESETSTAT clears them, and leaves no time."""
    ups = [number(node.info, "uptime_in_seconds") for node in facts.nodes if node.info]
    if not ups:
        return "whether data was lost is not known: this user may not call INFO"
    since = f"since its start ({human(min(ups))} ago) or CONFIG RESETSTAT"
    return f"the server's counters show no loss {since}{_connected(facts)}"


def _connected(facts: Facts) -> str:
    """Return how many clients are connected besides this look, to append; empty for none."""
    others = sum(int(number(node.info or {}, "connected_clients")) - OWN_CONNECTIONS for node in facts.nodes)
    return f"; {plural(others, 'other client')} {'is' if others == 1 else 'are'} connected" if others > 0 else ""


def times(count: int) -> str:
    return "once" if count == 1 else f"{count:,} times"


def started_at(node: NodeFacts) -> float | None:
    """Return when a server was started, by its own clock."""
    uptime = number(node.info or {}, "uptime_in_seconds")
    return node.clock.server - uptime if node.clock is not None and node.info else None


def is_older_than_servers(facts: Facts, begun: float) -> bool:
    """Whether a table began before its servers were started."""
    return all((started_at(node) or 0.0) > begun for node in facts.nodes)
