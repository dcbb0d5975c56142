"""The checks of leases and of SGLang's instances."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from itertools import pairwise

from redis_kvpoll.doctor.facts import Facts, TableFacts, deployment
from redis_kvpoll.doctor.findings import Observation, note, plural, problem, unknown, warning, well
from redis_kvpoll.doctor.node_view import when
from redis_kvpoll.doctor.replica import replica_of
from redis_kvpoll.doctor.table_checks import not_read
from redis_kvpoll.model import Owner
from redis_kvpoll.protocol.durations import human
from redis_kvpoll.protocol.lease_commands import MIN_HEARTBEATS

UNNOTICED_HEARTBEATS = 3
TURNS, TURN_SECONDS = 3, 60.0
"""So many leases of one name, each taken within so many seconds of the one before."""
TURNS_RECENT = 600.0
"""After which the turns of a name no longer matter."""
RANK = re.compile(r"/(?:tp|cp|pp)\d+(?![^/@])")
"""In the name of a process that is one rank of several."""


def leases(facts: Facts) -> Observation:
    table = facts.table
    if table is None:
        return not_read(facts)
    for found in (
        _unnoticed(facts, table),
        _suspected(table.owners),
        _turns(table),
        _contested(table),
        _lost(facts, table),
        _of_other_role(facts, table),
    ):
        if found is not None:
            return found
    alive = sum(owner.state == "alive" for owner in table.owners)
    return well(f"{alive:,} alive" if table.owners else "nobody holds a lease")


def _unnoticed(facts: Facts, table: TableFacts) -> Observation | None:
    """An expired lease that no sweep has noticed: nobody looks."""
    now = table.now
    late = [
        owner
        for owner in table.owners
        if owner.state == "expired"
        and now - owner.last_heartbeat_at - owner.ttl > UNNOTICED_HEARTBEATS * owner.heartbeat
    ]
    if not late:
        return None
    silent = max(now - owner.last_heartbeat_at for owner in late)
    where = "" if replica_of(facts) is None else " at the primary"
    processes = sorted({owner.process for owner in late if owner.process})
    who = ", ".join(processes[:4]) or "its process"
    ttls = [owner.ttl for owner in table.owners if owner.state == "alive"]
    sweeper = "no lease is held"
    if ttls:
        sweeper = f"an owner is alive: it sweeps within {human(max(ttls) / MIN_HEARTBEATS)}, or it hangs"
    advice = (
        f"{sweeper}. See whether {who} runs, and SGLang's agent beside it: one that lives goes on by itself. "
        f"If it is dead, kvpoll reap -n {facts.namespace}{where} fails its rooms, also those that are still served "
        "(run it twice)"
    )
    return problem(
        f"{named(late)} without a heartbeat for {human(silent)}, and no process has noticed",
        "a sweep within three heartbeats",
        advice,
    )


def _suspected(owners: Iterable[Owner]) -> Observation | None:
    found = [owner for owner in owners if owner.state == "suspected"]
    if not found:
        return None
    advice = "check its host and its log: without a heartbeat its rooms fail in a moment"
    return warning(f"{named(found)} suspected: no heartbeat within the lease", "heartbeats", advice)


def _turns(table: TableFacts) -> Observation | None:
    """Several leases of one name in turn, the last lately: two processes use it."""
    taken: dict[str, list[Owner]] = defaultdict(list)
    for owner in table.owners:
        taken[owner.name].append(owner)
    for name, leases in taken.items():
        leases.sort(key=lambda owner: owner.since)
        gaps = [later.since - earlier.since for earlier, later in pairwise(leases[-TURNS:])]
        last = leases[-1]
        if len(gaps) < TURNS - 1 or max(gaps) >= TURN_SECONDS or table.now - last.since > TURNS_RECENT:
            continue
        turns = _run_of(leases)
        what = f"{name} took its lease {len(turns)} times since {when(turns[0].since, table.now)}, the last {TURNS} "
        what += f"within {human(sum(gaps))}; the last at {when(last.since, table.now)}, and "
        what += "it is held now" if last.state == "alive" else "nobody holds it now"
        what += f"; {plural(sum(owner.failed for owner in turns), 'room')} failed"
        lately = [owner for owner in turns if not owner.lost_at or last.since - owner.lost_at < TURN_SECONDS]
        processes = sorted({owner.process for owner in lately if owner.process})
        where = f"{', '.join(processes[:4])}. " if processes else ""
        advice = f"{where}Processes of one host and port end each other's leases: stop all but one, or rename them"
        return warning(what, "one process a name", advice)
    return None


def _run_of(leases: list[Owner]) -> list[Owner]:
    """Return the last leases of a name that were each taken soon after the one before."""
    first = len(leases) - 1
    while first and leases[first].since - leases[first - 1].since < TURN_SECONDS:
        first -= 1
    return leases[first:]


def _contested(table: TableFacts) -> Observation | None:
    """A lease of which the holder lived when another process took its name, lately."""
    found = [owner for owner in table.owners if table.now - owner.contested_at < TURNS_RECENT]
    if not found:
        return None
    one = max(found, key=lambda owner: owner.contested_at)
    later = [owner for owner in table.owners if owner.name == one.name and owner.since > one.since]
    taker = min(later, key=lambda owner: owner.since, default=None)
    first, second = one.process or "a process", (taker.process if taker else "") or "another one"
    what = f"two processes use the name {one.name}: {second} took its lease"
    what += f" at {when(taker.since, table.now)}" if taker else ""
    what += f", while {first} lived; {plural(one.failed, 'room')} failed"
    more = len({owner.name for owner in found} - {one.name})
    what += f"; and {plural(more, 'other name')}" if more else ""
    advice = f"stop one of the two, or rename it; then restart {first}: it writes nothing more under the lease it lost"
    return warning(what, "one process a name", advice)


def _lost(facts: Facts, table: TableFacts) -> Observation | None:
    lost = [owner for owner in table.owners if owner.state == "lost"]
    with_rooms = [owner for owner in lost if owner.rooms]
    if with_rooms:
        rooms = sum(owner.rooms for owner in with_rooms)
        what = f"{named(with_rooms)} lost, and {plural(rooms, 'live room')} left"
        advice = f"kvpoll reap -n {facts.namespace} fails them, if no process with a lease is left"
        return warning(what, "no live room", advice)
    return _lost_with_failures(facts, table, [owner for owner in lost if owner.failed])


def _of_other_role(facts: Facts, table: TableFacts) -> Observation | None:
    """Lost owners of the deployment's other table: their loss ends requests of this one."""
    for namespace, owners in (facts.instances or {}).items():
        back = {instance(owner) for owner in owners if owner.state == "alive"}
        lost = [owner for owner in owners if owner.lost_at and owner.failed and instance(owner) not in back]
        if namespace == facts.namespace or not lost:
            continue
        last = max(owner.lost_at for owner in lost)
        verb = "were lost, the last" if len({owner.name for owner in lost}) > 1 else "was lost"
        what = f"in {namespace} {names(lost)} {verb} at {when(last, table.now)}"
        return note(what, "", f"kvpoll doctor -n {namespace} says what to do")
    return None


def _lost_with_failures(facts: Facts, table: TableFacts, with_failed: list[Owner]) -> Observation | None:
    """Owners whose rooms have been failed: a warning until each is back."""
    if not with_failed:
        return None
    back = {instance(owner) for owner in table.owners if owner.state == "alive"}
    missing = [owner for owner in with_failed if instance(owner) not in back]
    found = missing or with_failed
    last = max(found, key=lambda owner: owner.lost_at)
    others = {owner.name for owner in found} - {last.name}
    if others:
        what = f"{last.name} and {len(others):,} more were lost, this one"
    else:
        what = f"{last.name} was lost" + (f" {len(found):,} times, the last" if len(found) > 1 else "")
    if last.lost_at:
        what += f" at {when(last.lost_at, table.now)}"
    what += f"; {plural(sum(owner.failed for owner in found), 'room')} failed"
    if not missing:
        listed = f"kvpoll owners -n {facts.namespace} lists them"
        now = {owner.process for owner in table.owners if owner.state == "alive" and owner.name == last.name}
        what += "; they are back" if others else f"; it is back, as {min(now)}" if all(now) and now else "; it is back"
        if last.process in now:
            return note(what, "", f"{listed}; it is the same process: it stood still, or its agent or its network did")
        refused = table.refused.last
        is_recent = refused is not None and last.lost_at <= refused.at + 1.0 and table.now - refused.at < TURNS_RECENT
        if refused is not None and is_recent and (refused.outcome, refused.owner) == ("lease", last.name):
            what += f"; the former process still wrote at {when(refused.at, table.now)}: two processes use the name"
            return warning(what, "one process a name", f"stop one of the two, or rename it; {listed}")
        return note(what, "", f"{listed}; if you did not start it again, two processes share the name")
    where = f"the log of {last.process}" if last.process else "the log of its host"
    again = "restart its whole instance" if RANK.search(last.name) else "start it again"
    return warning(what, "no lost owner", f"see {where}, and {again}; kvpoll owners -n {facts.namespace} lists all")


def instances(facts: Facts) -> Observation:
    if not facts.expected.instances:
        return well("none were expected (--expect prefill=N, --expect decode=N)")
    found = facts.instances or {}
    unread = [name for name in deployment(facts.namespace)[1:] if name not in found]
    if any(name.rpartition("-")[2] in facts.expected.instances for name in unread):
        return unknown(f"the owners of {' and '.join(unread)} could not be read")
    owners = [owner for listed in found.values() for owner in listed]
    missing, found_all, lacking = [], [], 0
    for role, wanted in facts.expected.instances.items():
        alive = sorted({instance(owner) for owner in owners if is_of(owner, role) and owner.state == "alive"})
        found_all.append(f"{len(alive)} of {wanted} {role}")
        if len(alive) < wanted:
            lacking += wanted - len(alive)
            gone = sorted({instance(owner) for owner in owners if is_of(owner, role)} - set(alive))
            known = f"missing: {', '.join(gone)}; " if gone else ""
            missing.append(f"{len(alive)} of {wanted} {role} ({known}there: {', '.join(alive) or 'none'})")
    expected = ", ".join(f"{count} {role}" for role, count in facts.expected.instances.items())
    if not missing:
        return well(", ".join(found_all))
    them, their, runs = ("it", "its log", "it runs") if lacking == 1 else ("them", "their logs", "they run")
    advice = f"start {them}, or see {their} for lines of redis_kvpoll; without KVPOLL_URL {runs} without the table"
    return problem("; ".join(missing), expected, advice)


def is_of(owner: Owner, role: str) -> bool:
    return owner.name.startswith(f"{role}/")


def instance(owner: Owner) -> str:
    """Return the instance of a process: its ranks differ in what follows the @."""
    return owner.name.partition("@")[0]


def named(owners: list[Owner]) -> str:
    """Return the names of owners, and the verb for them."""
    return f"{names(owners)} {'are' if len({owner.name for owner in owners}) > 1 else 'is'}"


def names(owners: list[Owner]) -> str:
    """Return the names of owners, the first in full."""
    first, *more = sorted({owner.name for owner in owners})
    return first + (f" and {len(more):,} more" if more else "")
