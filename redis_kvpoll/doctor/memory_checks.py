"""The checks of one server's memory, and of what it writes to disk."""

from __future__ import annotations

import math

from redis_kvpoll.doctor.findings import Observation, note, plural, problem, unknown, warning, well
from redis_kvpoll.doctor.losses import RECENT_SECONDS
from redis_kvpoll.doctor.node_view import NodeView, number, size, when

NEARLY_FULL, FULL = 0.80, 0.95
FRAGMENTED, FRAGMENTED_FROM = 1.8, 100 * 2**20
FORK_SECONDS = 0.2
ENDED = "--status failed --status success --older-than 30s --limit 1000000 --yes"
"""The options that select what has ended. 30 s is well below terminal_ttl, after which the server drops it anyway."""
STILL_SECONDS = 30.0
"""A heartbeat that found no memory so lately has found what still is."""
RDB_STATUS, AOF_STATUSES = "rdb_last_bgsave_status", ("aof_last_write_status", "aof_last_bgrewrite_status")
"""Fields of INFO: whether the last attempt to save succeeded. A failed one stays when saving is switched off."""
SWITCH_OFF = 'CONFIG SET save "" and CONFIG SET appendonly no'


def eviction(view: NodeView) -> Observation:
    policy, limit = view.info.get("maxmemory_policy", "noeviction"), number(view.info, "maxmemory")
    if not limit or policy == "noeviction":
        return well(f"maxmemory-policy is {policy}" + ("" if limit else ", without a maxmemory"))
    return problem(
        f"maxmemory-policy is {policy} with maxmemory {size(limit)}: live rooms may be dropped",
        "noeviction",
        view.server_wide("CONFIG SET maxmemory-policy noeviction"),
    )


def memory(view: NodeView) -> Observation:
    used, limit = number(view.info, "used_memory"), number(view.info, "maxmemory")
    if not limit:
        advice = view.server_wide(f"CONFIG SET maxmemory {max(1024, math.ceil(2 * used / 2**20))}mb")
        return note(
            f"maxmemory is 0: {size(used)} used, without a limit",
            "a limit",
            f"{advice}: 0.6 KB a room, 0.9 KB with 8 ranks, and 5 to 40 MB for each shard's feed",
        )
    share, found = used / limit, f"{size(used)} of maxmemory {size(limit)} used ({used / limit:.0%})"
    if share > NEARLY_FULL:
        level = problem if share > FULL else warning
        return level(
            found + _whose(view) + _since(view), f"at most {NEARLY_FULL:.0%}", _more_memory(view, max(used, limit))
        )
    fragmentation = number(view.info, "mem_fragmentation_ratio")
    if fragmentation > FRAGMENTED and number(view.info, "used_memory_rss") > FRAGMENTED_FROM:
        what = f"memory is fragmented: the process has {fragmentation:.1f} times what is used"
        return note(what, f"at most {FRAGMENTED}", "CONFIG SET activedefrag yes, or a restart in a quiet hour")
    full = view.facts.table.full if view.facts.table else None
    if full is not None and view.facts.table and view.facts.table.now - full.last < RECENT_SECONDS:
        return note(found + _since(view, is_over=True), "", "what grew then? kvpoll stats, redis-cli --memkeys")
    return well(found)


def _since(view: NodeView, is_over: bool = False) -> str:
    """Return since when nothing can be created, as far as it is known."""
    table = view.facts.table
    if table is not None and table.full is not None and table.now - table.full.last < RECENT_SECONDS:
        since, last = (when(at, table.now) for at in table.full)
        if is_over or table.now - table.full.last > STILL_SECONDS:
            return f"; it was full from {since} to {last}"
        return f"; new rooms and leases are refused since {since}"
    total = view.node.errors.get("OOM", 0)
    if not total:
        return ""
    return f"; {plural(total, 'call')} got OOM since the server's start; since when is in the logs of the processes"


def _whose(view: NodeView) -> str:
    """Return whose keys are in the memory."""
    share = view.node.kvpoll_share
    return "" if share is None else f"; {share:.0%} of its keys are kvpoll's"


def _more_memory(view: NodeView, needed: float) -> str:
    new = f"CONFIG SET maxmemory {math.ceil(2 * needed / 2**20)}mb"
    raised = f"{new} if its host or pod has that much, also in the server's file"
    if view.is_others:
        return f"{raised}; most keys are others': redis-cli --memkeys shows the largest"
    if view.facts.table is None:
        return raised
    return f"{raised}; to free some at once: kvpoll clear -n {view.facts.namespace} {ENDED}"


def evicted(view: NodeView) -> Observation:
    count = int(number(view.info, "evicted_keys"))
    if not count:
        return well("nothing was evicted")
    table = view.facts.table
    first = ""
    if table is not None and table.refused.since and table.refused.counts.get("stale"):
        first = f"writes to rooms that were gone (first at {when(table.refused.since, table.now)}), "
    return warning(
        f"{plural(count, 'key')} evicted since the server's start or CONFIG RESETSTAT: rooms may be among them; the "
        f"server does not know since when: {first}the logs of processes (EvictionWarning, `lost its lease`) and the "
        "metrics of kvpoll serve may tell",
        "0",
        view.server_wide("raise maxmemory and set maxmemory-policy noeviction")
        + "; CONFIG RESETSTAT when all owners are back",
    )


def persistence(view: NodeView) -> Observation:
    has_rdb, has_aof = _may_save(view)
    statuses = (RDB_STATUS,) * has_rdb + AOF_STATUSES * has_aof  # others failed before they were off
    failed = next((name for name in statuses if view.info.get(name, "ok") != "ok"), "")
    if failed:
        advice = f"see its log (is the disk full?), or switch it off: {view.server_wide(SWITCH_OFF)}"
        if failed == RDB_STATUS and view.node.save is None:
            advice += "; it stays err until a BGSAVE succeeds or the server restarts"
        what = f"the server cannot save ({failed} is {view.info[failed]}): it may refuse all writes"
        return problem(what, "ok", advice)
    on = []
    if view.node.save or (view.node.save is None and number(view.info, "rdb_saves")):
        on.append("RDB snapshots are on" + (f" (save {view.node.save})" if view.node.save else ""))
    if has_aof:
        on.append("the AOF is on")
    if on:
        what = f"{' and '.join(on)}: not needed, and each fork stops the server"
        return note(what, "off", view.server_wide(SWITCH_OFF))
    if view.node.save is None:
        return unknown("the AOF is off; whether snapshots are on is not known: this user may not call CONFIG GET")
    if view.info.get(RDB_STATUS, "ok") != "ok":
        return note(f"off; {RDB_STATUS} is {view.info[RDB_STATUS]} from before, and no write is refused for that")
    return well("off")


def fork(view: NodeView) -> Observation:
    seconds = number(view.info, "latest_fork_usec") / 1e6
    found = f"the last fork stopped the server for {1000 * seconds:.0f} ms" if seconds else "no fork"
    if seconds <= FORK_SECONDS:
        return well(found)
    advice = view.server_wide(SWITCH_OFF)
    if not any(_may_save(view)):
        if not number(view.info, "connected_slaves"):
            return well(f"{found}; persistence is off since, and there is no replica to fork for")
        advice = "each full synchronization of a replica forks"
    advice += "; CONFIG RESETSTAT clears the number, and also the counts of evicted keys and of flushes"
    return warning(found, f"at most {1000 * FORK_SECONDS:.0f} ms", advice)


def _may_save(view: NodeView) -> tuple[bool, bool]:
    """Return whether the server may save snapshots, and an AOF. What is off refuses no write and does not fork."""
    return view.node.save != "", view.info.get("aof_enabled") == "1"
