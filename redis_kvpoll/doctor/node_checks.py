"""The checks of one server: each is a function of what is known of it."""

from __future__ import annotations

import re

from redis_kvpoll.doctor.facts import Facts, NodeFacts
from redis_kvpoll.doctor.findings import Level, Observation, note, problem, unknown, warning, well
from redis_kvpoll.doctor.node_view import NodeView, number, size
from redis_kvpoll.doctor.replica import replica_in
from redis_kvpoll.protocol.durations import human
from redis_kvpoll.protocol.scripts import names

OLDEST = {"valkey_version": (7, 2), "redis_version": (6, 2)}
SLOW, TOO_SLOW = 0.005, 0.050
CLOCK_NOTE, CLOCK_WARNING = 2.0, 60.0
CLOCK_STEP = 1.0
"""Seconds by which a clock went back. Less may be our own clock's or a reading's inaccuracy."""
MAX_SCRIPTS = 500
MAX_CLIENTS, MAX_OUTPUT = 0.80, 64 * 2**20
MAX_REPLICA_LAG = 1
TELLING_ERRORS = {
    "OOM": (Level.WARNING, "writes were refused at maxmemory: the check memory has the command that raises it"),
    "READONLY": (Level.WARNING, "a process writes to a replica: check the URLs of all processes"),
    "BUSY": (Level.WARNING, "a long script kept the server busy: find who runs Lua here with SLOWLOG GET"),
    "NOSCRIPT": (Level.NOTE, "scripts are sent again and again: does somebody run SCRIPT FLUSH?"),
}
USUAL_ERRORS = {"NOSCRIPT": len(list(names()))}
"""How many are no sign of anything: a new server lacks each script once."""


def reach(facts: Facts) -> Observation:
    if facts.error:
        advice = f"{facts.remedy}; since when is in the logs of the processes, and in those of kvpoll serve"
        return _out_of_reach([NodeFacts(facts.server, facts.error, facts.is_refusal)], advice)
    away = [node for node in facts.nodes if node.error]
    if away:
        return _out_of_reach(away, away[0].remedy)
    return well(f"{len(facts.nodes)} nodes answer" if len(facts.nodes) > 1 else f"{facts.server} answers")


def _out_of_reach(away: list[NodeFacts], advice: str) -> Observation:
    """Return which servers cannot be asked: those without an answer are down or cut off, and those that refuse are up.

    The advice is about the first of them.
    """
    first = away[0]
    others = sum(node.is_refusal is first.is_refusal for node in away) - 1
    rest = len(away) - 1 - others
    who = first.address + (f" (and {others} more)" if others else "")
    if first.is_refusal:
        more = f"; of the other nodes {rest} gave no answer" if rest else ""
        return problem(f"{who} answers, but refuses: {first.error}{more}", "no refusal", advice)
    more = f"; of the other nodes {rest} refused" if rest else ""
    return problem(f"{who} gives no answer: {first.error}{more}", "an answer within 2 s", advice)


def latency(view: NodeView) -> Observation:
    if not view.node.round_trips:
        return unknown("not known: the round trips were not answered")
    trips = sorted(view.node.round_trips)
    p99 = trips[min(len(trips) - 1, int(0.99 * len(trips)))]
    found = f"p99 of {len(trips)} round trips is {1000 * p99:.2g} ms"
    if p99 <= SLOW:
        return well(found)
    advice = "put Redis into the same rack, without other tenants; see SLOWLOG GET and the load of this machine"
    return (problem if p99 > TOO_SLOW else warning)(found, f"at most {1000 * SLOW:.0f} ms", advice)


def server(view: NodeView) -> Observation:
    name = "valkey_version" if "valkey_version" in view.info else "redis_version"
    version, oldest = view.info.get(name, ""), OLDEST[name]
    up = number(view.info, "uptime_in_seconds")
    found = f"{name.partition('_')[0].capitalize()} {version}" + (f", up for {human(up)}" if up else "")
    digits = re.match(r"(\d+)\.(\d+)", version)
    if digits is None:
        return unknown("the server does not tell its version")
    if (int(digits[1]), int(digits[2])) >= oldest:
        return well(found)
    return problem(found, f"{oldest[0]}.{oldest[1]} or newer", "upgrade the server: older ones are not tested")


def role(view: NodeView) -> Observation:
    replica = replica_in(view.info)
    if replica is None or not view.node.is_primary:
        return well("a primary" if view.node.is_primary else "a replica of the cluster")
    if replica.is_linked:
        return problem(
            f"this server is a replica of {replica.primary}: it refuses writes",
            "the primary",
            f"use the primary's address ({replica.primary}), or redis+sentinel://, which follows it; since when it is "
            "a replica is in its log",
        )
    return problem(
        f"this server is a replica of {replica.primary}: it refuses writes; {replica.described}",
        "the primary",
        f"start {replica.primary} again; if it cannot come back, make this one the primary (REPLICAOF NO ONE) and give "
        "its address to all processes, or use redis+sentinel://, which does both",
    )


def clock(view: NodeView) -> Observation:
    now, before = view.node.clock, view.before
    if now is None:
        return unknown("not known: TIME was not answered")
    run_ids = [(looked.info or {}).get("run_id") for looked in (view.node, before) if looked is not None]
    if before is not None and before.clock is not None and len(set(run_ids)) == 1:
        passed = now.after_monotonic - before.clock.before_monotonic  # at least
        back = passed - (now.server - before.clock.server)
        if back > CLOCK_STEP:
            what = f"the server's clock went back by {back:.1f} s between two looks"
            return problem(
                what, "a clock that never goes back", "see chrony or ntpd on the server's host: slew, never step"
            )
    ahead = max(0.0, now.server - now.before, now.after - now.server)
    which = "ahead of" if now.server > now.before else "behind"
    if ahead <= CLOCK_NOTE:
        return well(f"within {CLOCK_NOTE:.0f} s of this machine's")
    found = f"the server's clock is {ahead:.1f} s {which} this machine's"
    level = warning if ahead > CLOCK_WARNING else note
    return level(found, f"at most {CLOCK_NOTE:.0f} s", "run chrony on both hosts; which of the two is right?")


def errors(view: NodeView) -> Observation:
    if view.before is None or view.before.info is None:
        return unknown("not known: there was no earlier look")
    if view.info.get("run_id") != view.before.info.get("run_id"):
        return well("the server has started since the last look")
    risen = {code: view.node.errors.get(code, 0) - view.before.errors_at_end.get(code, 0) for code in TELLING_ERRORS}
    found = {code: count for code, count in risen.items() if count > USUAL_ERRORS.get(code, 0)}
    if not found:
        return well("none that matters during the look")
    worst = max(found, key=lambda code: TELLING_ERRORS[code][0])
    level, advice = TELLING_ERRORS[worst]
    shown = ", ".join(f"{count:,} {code}" for code, count in found.items())
    return Observation(level, f"the server counted errors during the look: {shown}", "none", advice)


def busy(view: NodeView) -> Observation:
    if not view.node.is_busy:
        return well("no script keeps the server busy")
    return problem(
        "a script keeps the server busy: it answers BUSY to every call",
        "none",
        "SCRIPT KILL ends one that has written nothing; who else runs Lua here?",
    )


def scripts(view: NodeView) -> Observation:
    count = number(view.info, "number_of_cached_scripts")
    if count > MAX_SCRIPTS:
        what = f"the server caches {count:,.0f} scripts: somebody generates them"
        return warning(
            what, f"at most {MAX_SCRIPTS}", "find who sends EVAL with values inside the source; SCRIPT FLUSH"
        )
    if view.facts.table is not None and view.facts.table.script_missing:
        what = "a script that the last look had loaded is gone (NOSCRIPT)"
        return note(
            what, "scripts stay", "somebody calls SCRIPT FLUSH, or the server drops scripts: each is sent again"
        )
    return well(f"{count:,.0f} cached")


def replicas(view: NodeView) -> Observation:
    if "min_slaves_good_slaves" in view.info:
        return warning(
            "min-replicas-to-write is set: writes are refused while a replica is away",
            "0",
            view.server_wide("CONFIG SET min-replicas-to-write 0")
            + ": for kvpoll a refused write is worse than a lost one",
        )
    listed = [view.info[name] for name in sorted(view.info) if re.fullmatch(r"slave\d+", name)]
    found = [dict(pair.split("=", 1) for pair in text.split(",") if "=" in pair) for text in listed]
    late = [one for one in found if one.get("state") == "online" and number(one, "lag") > MAX_REPLICA_LAG]
    if late:
        one = late[0]
        where = f"{one.get('ip', '?')}:{one.get('port', '?')}"
        what = f"replica {where} is {number(one, 'lag'):.0f} s behind"
        return warning(
            what, f"at most {MAX_REPLICA_LAG} s", "check its host and the network: a failover now would lose as much"
        )
    if not found and view.facts.kind != "single" and view.node.is_primary and view.info.get("role") == "master":
        return note("no replica: nothing takes over if this server is lost", "one", "add a replica, or use redis://")
    return well(f"{len(found)} in step" if found else "none, and none is needed")


def clients(view: NodeView) -> Observation:
    count, limit = number(view.info, "connected_clients"), number(view.info, "maxclients")
    if limit and count > MAX_CLIENTS * limit:
        found = f"{count:,.0f} connections of maxclients {limit:,.0f}"
        return warning(
            found, f"at most {MAX_CLIENTS:.0%}", "CONFIG SET maxclients, or find who leaks them: CLIENT LIST"
        )
    output = number(view.info, "client_recent_max_output_buffer")
    if output > MAX_OUTPUT:
        found = f"a client lets {size(output)} of replies wait"
        return warning(
            found, f"at most {size(MAX_OUTPUT)}", "CLIENT LIST: the one with the largest omem reads too slowly"
        )
    return well(f"{count:,.0f} connections")
