"""The checks of a sample of the table's keys."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from redis_kvpoll.doctor import losses
from redis_kvpoll.doctor.facts import Facts, RoomFacts, SampleFacts, deployment
from redis_kvpoll.doctor.findings import Observation, note, problem, unknown, warning, well
from redis_kvpoll.doctor.node_view import Check
from redis_kvpoll.doctor.table_checks import not_read
from redis_kvpoll.engine.store_options import DEFAULT_TTL
from redis_kvpoll.protocol.durations import human

MAX_LEAKED = 0.01
STUCK, STUCK_LONG = 60.0, 300.0
ORPHANED = DEFAULT_TTL / 2
SHOWN_OWNERS = 3


def of_sample(check: Callable[[SampleFacts, Facts], Observation]) -> Check:
    """Return a check of the sample, if there is one."""

    def check_sample(facts: Facts) -> Observation:
        if facts.table is None or facts.table.sample is None:
            return not_read(facts)
        if facts.namespaces is None:
            return unknown("not known: this user may not call SCAN")
        return check(facts.table.sample, facts)

    return check_sample


def ttls(sample: SampleFacts, facts: Facts) -> Observation:
    if not sample.without_ttl:
        return well(f"each of {sample.keys:,} sampled keys has one")
    first = sample.without_ttl[0]
    found = f"{len(sample.without_ttl):,} of {sample.keys:,} sampled keys have no TTL: {first}"
    return warning(
        found, "a TTL on each", "was PERSIST called by hand? They stay for ever: EXPIRE them, or kvpoll clear ROOM"
    )


def leaks(sample: SampleFacts, facts: Facts) -> Observation:
    ttl = shown_ttl(sample)
    old = [prefix for prefix in sample.prefixes if not prefix.has_room and ttl - prefix.ttl > ttl / 2]
    among = len(sample.rooms) + len(sample.prefixes)
    if old and len(old) > MAX_LEAKED * among:
        found = f"{len(old):,} of {among:,} sampled rooms have a prefix length and do not exist"
        return warning(found, f"at most {MAX_LEAKED:.0%}", "do all processes run the same version? Please report it")
    if sample.owned_without_room > MAX_LEAKED * sample.owned:
        found = f"{sample.owned_without_room:,} of {sample.owned:,} sampled entries of the owners' lists have no room"
        advice = (
            "nothing, if they are fewer in a third of the rooms' TTL (5 min by default): until its owner's next touch, "
            "a room that ended and expired without a clear leaves its entry, as one does that was evicted or removed "
            "by hand. If they grow: do all processes run the same version? Please report it"
        )
        more = f" ({evicted})" if (evicted := losses.evicted(facts)) else ""
        return note(f"{found}{more}", f"at most {MAX_LEAKED:.0%}", advice)
    return well("none")


def shown_ttl(sample: SampleFacts) -> float:
    """Return the TTL with which rooms and prefixes are written, as far as the sample shows: it may be longer."""
    rooms = (room.ttl for room in sample.rooms if room.is_live)
    return max((*rooms, *(prefix.ttl for prefix in sample.prefixes)), default=0.0)


def corrupt(sample: SampleFacts, facts: Facts) -> Observation:
    found = [room for room in sample.rooms if room.corrupt]
    if not found:
        return well(f"none of {len(sample.rooms):,} sampled rooms")
    more = f", and {len(found) - 1:,} more" if len(found) > 1 else ""
    return warning(
        f"room {found[0].room} holds what this library never writes: {found[0].corrupt}{more}",
        "fields and statuses of a room",
        f"kvpoll clear {found[0].room} -n {facts.namespace}; who writes to these keys?",
    )


def orphans(sample: SampleFacts, facts: Facts) -> Observation:
    found = [room for room in sample.rooms if room.is_live and not room.has_owner and room.age > ORPHANED]
    if not found:
        return well(f"none of {len(sample.rooms):,} sampled rooms")
    oldest = max(found, key=lambda room: room.age)
    verb = "lives" if len(found) == 1 else "live"
    what = f"{shown(found, sample)} {verb} without an owner; room {oldest.room} for {human(oldest.age)}"
    return warning(what, f"no longer than {human(ORPHANED)}", "find who opens rooms without a lease: nobody fails them")


def stuck(sample: SampleFacts, facts: Facts) -> Observation:
    found = [room for room in sample.rooms if room.is_live and room.idle > STUCK]
    if not found:
        what = f"none of {len(sample.rooms):,} sampled rooms is live and without a write for {human(STUCK)}"
        if not facts.is_sampled:
            return well(what)
        return note(f"{what}; there are more rooms", "", f"kvpoll ls -n {facts.namespace} --stuck reads them all")
    oldest = max(found, key=lambda room: room.idle)
    status = oldest.status.name if oldest.status is not None else ""
    verb = "is" if len(found) == 1 else "are"
    what = f"{shown(found, sample)} {verb} without a write for {human(STUCK)}; room {oldest.room} at {status}, written "
    what += f"{human(oldest.idle)} ago, {owners_of(found)}"
    level = problem if oldest.idle > STUCK_LONG else warning
    name = facts.namespace
    advice = f"{causes_of(found, name)}: kvpoll ls -n {name} --stuck lists them; kvpoll show {oldest.room} -n {name} "
    advice += f"has both sides; to end one: {end_command(oldest.room, name)}"
    return level(what, f"at most {human(STUCK)} without one", advice)


def causes_of(rooms: list[RoomFacts], namespace: str) -> str:
    """Return what holds rooms up at their statuses; how many are at each if they are at several."""
    causes = CAUSES | (ON_DECODE if namespace.endswith("-decode") else {})
    counts = Counter(room.status.name for room in rooms if room.status is not None).most_common()
    if len(counts) == 1:
        return causes[counts[0][0]]
    return ", ".join(f"{count:,} at {name} ({causes[name]})" for name, count in counts)


def owners_of(rooms: list[RoomFacts]) -> str:
    """Return whose rooms they are, in words."""
    counts = Counter(room.owner or "no owner" for room in rooms).most_common()
    if len(counts) == 1:
        return f"{'all ' if len(rooms) > 1 else ''}of {counts[0][0]}"
    shown = ", ".join(f"{name} {count:,}" for name, count in counts[:SHOWN_OWNERS])
    more = f", {len(counts) - SHOWN_OWNERS:,} more" if len(counts) > SHOWN_OWNERS else ""
    return f"of {rooms_owner(rooms)} (by owner: {shown}{more})"


def rooms_owner(rooms: list[RoomFacts]) -> str:
    """Return the owner of the oldest room."""
    return max(rooms, key=lambda room: room.idle).owner or "no owner"


def end_command(room: int, namespace: str) -> str:
    """Return the command that ends a room on both sides: in SGLang, decode's table decides if it has the room."""
    base, _, decode = deployment(namespace)
    if namespace in (base, decode):
        return f"kvpoll abort {room} -n {namespace}"
    return f"kvpoll abort {room} -n {decode} (if it is not live there: -n {namespace})"


CAUSES = {
    "Bootstrapping": "decode has not asked for it",
    "WaitingForInput": "it waits in prefill's queue",
    "Transferring": "the network, or a peer that hangs",
}
ON_DECODE = {
    "Bootstrapping": "it waits for prefill's bootstrap server",
    "WaitingForInput": "it waits for decode's memory, for prefill, or for its transfer",
}
"""What differs in decode's table: SGLang's decode is at WaitingForInput from a room's opening until Success."""


def shown(found: list[RoomFacts], sample: SampleFacts) -> str:
    return f"{len(found):,} of {len(sample.rooms):,} sampled rooms"
