"""The checks of what a table has lost or refused: its data, and writes."""

from __future__ import annotations

from redis_kvpoll.doctor import losses
from redis_kvpoll.doctor.facts import Facts, TableFacts
from redis_kvpoll.doctor.findings import Observation, note, plural, unknown, warning, well
from redis_kvpoll.doctor.node_view import when
from redis_kvpoll.doctor.replica import replica_of
from redis_kvpoll.doctor.table_checks import not_read
from redis_kvpoll.protocol import keys

RECENT_SECONDS = losses.RECENT_SECONDS
"""A loss of data is a warning for so long, as a lost owner is."""
MANY_REFUSED, FEW_REFUSED = 10.0, 20
"""Refused writes a second from which on they are a warning; and how many in a look are too few for a rate."""
SENDERS = {
    "skipped": "messages that come after the clear: a slow network, a paused worker, a client that retries",
    "stale": "messages that come after the clear: a slow network, a paused worker, a client that retries",
    "busy": "room ids that are given out twice: see the router or client",
    "lease": "a process that writes after it has lost its lease",
    "world_size": "ranks that disagree on their number",
}


BEGINNING_UNKNOWN = "when the table began is not known: no room was opened in it, and no lease taken"
FLUSHED = (
    "who was it? The server knows while that connection is open (redis-cli CLIENT LIST: cmd=flushall), or if it took "
    "long (redis-cli SLOWLOG GET 128); the users of kvpoll acl may not do that"
)


def data_loss(facts: Facts) -> Observation:
    """Whether the server has lost the table's data: then what is older than the data was restored."""
    table = facts.table
    if table is None:
        return not_read(facts)
    home = table.epochs.get(keys.home(facts.namespace, table.shards))
    older = [owner.since for owner in table.owners if home and owner.since < home - losses.CLOSE_SECONDS]
    restored = [room.restored_at for room in (table.sample.rooms if table.sample else ()) if room.restored_at]
    moments = [home] * bool(older) + restored
    begun = max(table.epochs.values(), default=None)
    if not moments:
        return _without_moments(facts, table, begun)
    at = max(moment for moment in moments if moment)
    back = [plural(len(set(older)), "lease")] * bool(older) + [plural(len(restored), "sampled room")] * bool(restored)
    rooms = [table.now - room.age for room in (table.sample.rooms if table.sample else ()) if room.restored_at]
    kind = losses.cause(facts, min([*older, *rooms], default=at), at, at if begun is None else begun)
    lost, moment = "all data" if older else "data", when(at, table.now)
    if kind == "restart":
        what = f"{lost} was lost: {losses.in_words(facts, kind)}, and the table began anew at {moment}"
    else:
        what = f"{lost} was lost at {moment}: {losses.in_words(facts, kind)}"
    what += f"; back since: {' and '.join(back)}"
    if table.now - at > RECENT_SECONDS:
        return note(what)
    if replica_of(facts) is not None:
        return warning(what, "no loss", "why? kvpoll doctor at the primary")
    advice = (
        "nothing to do for rooms of live owners: each restores its own; rooms of plain updates and of dead processes "
        f"are gone; {_advice(facts, kind)}"
    )
    return warning(what, "no loss", advice)


def _without_moments(facts: Facts, table: TableFacts, begun: float | None) -> Observation:
    """Return what is known of losses where nothing was restored. A table of plain updates alone has no beginning."""
    began = f"the table began at {when(begun, table.now)}" if begun is not None else BEGINNING_UNKNOWN
    flushes = losses.flushes(facts)
    is_old = begun is not None and (losses.is_older_than_servers(facts, begun) or table.now - begun > RECENT_SECONDS)
    if not flushes or is_old:
        return well(f"none is known; {began}")
    return note(f"{flushes}, and {began}: it may have been dropped", "", _who(facts))


def _advice(facts: Facts, kind: str) -> str:
    """Return what to do about the cause of a loss: a flush beside evictions needs the advice of both."""
    if kind != "flush":
        return ADVICE[kind]
    return f"{_who(facts)}; {ADVICE['eviction']}" if losses.evicted(facts) else _who(facts)


def _who(facts: Facts) -> str:
    """Return who has flushed the server, as far as it knows."""
    found = losses.who_flushed(facts)
    return f"{found}: the users of kvpoll acl may not do that" if found else FLUSHED


ADVICE = {
    "restart": "when and why did the server go down? See its log; what CONFIG SET and ACL SETUSER had set is gone",
    "eviction": "rooms evicted one by one stay gone: CONFIG SET maxmemory-policy noeviction, and raise maxmemory",
    "": "who deletes keys, or did another server take over? See its log",
}


def refused(facts: Facts) -> Observation:
    """How many writes were refused during the look."""
    table, before = facts.table, facts.before.table if facts.before else None
    if table is None:
        return not_read(facts)
    now = table.refused
    if not now.total:
        return well("none")
    since = (
        f"{now.total:,} since {when(now.since, table.now)}" if now.since else f"{now.total:,} since the counts began"
    )
    if now.last is not None:
        since += f"; the last at {when(now.last.at, table.now)}: {now.last.outcome}"
        since += f", room {now.last.room}" if now.last.room is not None else ""
        since += f", from {now.last.owner}" if now.last.owner else ", from a process without a lease"
    if before is None:
        return unknown(f"whether there are more was not looked at; {since}")
    risen = {name: count - before.refused.counts.get(name, 0) for name, count in now.counts.items()}
    risen = {name: count for name, count in risen.items() if count > 0}
    if not risen:
        return well(f"none during the look; {since}")
    seconds = max(table.now - before.now, 0.001)
    shown = ", ".join(f"{name} {count:,}" for name, count in risen.items())
    what = f"{shown} refused in {seconds:.1f} s ({sum(risen.values()) / seconds:,.1f}/s); {since}"
    most = max(risen, key=lambda name: risen[name])
    evicted = losses.evicted(facts)
    likely = f"rooms and leases that were evicted under their owners ({evicted}), or at " if evicted else ""
    advice = f"no room was changed. It points at {likely}{SENDERS[most]}: kvpoll stats -n {facts.namespace} --watch"
    is_flood = sum(risen.values()) > FEW_REFUSED and sum(risen.values()) / seconds >= MANY_REFUSED
    return warning(what, "few", advice) if is_flood else note(what, "few", advice)
