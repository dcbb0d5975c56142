"""The checks of a namespace: its settings, its neighbours, its feed, its user, its cluster."""

from __future__ import annotations

from redis_kvpoll.doctor import losses, traces
from redis_kvpoll.doctor.facts import Facts, FeedFacts, TableFacts, deployment
from redis_kvpoll.doctor.findings import Observation, note, problem, unknown, warning, well
from redis_kvpoll.protocol import keys
from redis_kvpoll.protocol.durations import human
from redis_kvpoll.protocol.feed_ids import seconds_of
from redis_kvpoll.protocol.settings import NAMES, SCHEMA

SLOTS = 16384
QUIET_SECONDS = 3600.0
MIN_SPAN_SECONDS = 300.0
MAX_LAG_SECONDS = 2.0
NO_SETTINGS = "not known: the settings are gone"
AGAIN = "start its processes again, and restart those that run and log `lost its lease`"
UNREADABLE_FEED = "not known: a feed has another type, so it cannot be read"


def not_read(facts: Facts) -> Observation:
    """Return that the table is not known, and why."""
    if facts.settings == {}:
        return unknown(f"namespace {facts.namespace!r} does not exist")
    if facts.table_error and facts.wrong_types:
        return unknown("the table was not read: a key has another type, as the check corrupt says")
    return unknown(f"the table was not read: {facts.table_error}" if facts.table_error else "the table was not read")


def settings(facts: Facts) -> Observation:
    is_told = facts.is_denied or bool(facts.wrong_types)  # by the checks acl and corrupt
    if facts.table_error and not is_told and (facts.settings or {}).get("schema", SCHEMA) == SCHEMA:
        return problem(f"the table cannot be read: {facts.table_error}", "an answer", "the text says what to do")
    if facts.settings is None:
        return not_read(facts)
    if not facts.settings:
        return absent(facts) if facts.table is None else gone(facts, facts.table)
    wrong = [
        (name, value, facts.settings.get(name, "none"))
        for name, value in facts.expected.settings.items()
        if facts.settings.get(name) != value
    ]
    if wrong:
        name, wanted, found = wrong[0]
        advice = "which of the two is wrong? The processes of a namespace must agree; to change it, use another one"
        return problem(f"{name} is {found}, not {wanted} as expected", f"{name}={wanted}", advice)
    return well(", ".join(f"{name} {facts.settings[name]}" for name in NAMES if name in facts.settings))


def absent(facts: Facts) -> Observation:
    """Return that the namespace is not there: it may never have been, or all of it is gone."""
    own = deployment(facts.namespace)
    roles = [name for name in own if name in (facts.namespaces or ())]
    advice = " or ".join(f"-n {name}" for name in roles) or "check -n; kvpoll namespaces lists what this server has"
    found = f"namespace {facts.namespace!r} not found on {facts.server}: "
    if roles and facts.namespace == own[0]:  # its processes use those: who watches this name would wait for good
        return problem(f"{found}SGLang's plugin appends the role to KVPOLL_NAMESPACE", "a namespace in use", advice)
    if not roles and losses.may_be_gone(facts):
        what = f"{found}{losses.why_absent(facts)}"
        more = f"nobody has restored it: {AGAIN}; their former rooms do not come back"
        if evicted := losses.evicted(facts):
            more = f"first CONFIG SET maxmemory-policy noeviction, and raise maxmemory ({evicted}); then, if {more}"
        return problem(what, "a namespace in use", f"{advice}; {more}")
    why = "nobody has used it yet"
    if elsewhere := losses.wrong_number(facts):
        return warning(found + elsewhere, "a namespace in use", f"check the number in --redis; {advice}")
    if not roles:
        why += f", or its data is gone: {losses.why_absent(facts) or losses.no_loss_known(facts)}"
        advice += f"; if it was in use: {AGAIN}"
    return warning(found + why, "a namespace in use", advice)


def gone(facts: Facts, table: TableFacts) -> Observation:
    """Return that the settings alone are gone: the table lives."""
    alive = [owner for owner in table.owners if owner.state == "alive"]
    evicted = losses.evicted(facts)
    back, more = traces.when_back(alive), f"other keys may be gone, too: kvpoll owners -n {facts.namespace}"
    if evicted:
        first = f"first CONFIG SET maxmemory-policy noeviction, and raise maxmemory ({evicted}; else they go again)"
        advice = f"{first}; then {back}; {more}"
    else:
        advice = f"{back}; who deletes single keys? {more[0].upper()}{more[1:]}"
    return problem(traces.described(facts.namespace, alive), "settings", advice)


def library(facts: Facts) -> Observation:
    if not facts.settings and facts.table is not None:
        return unknown(NO_SETTINGS)
    if not facts.settings:
        return not_read(facts)
    schema = facts.settings.get("schema", "none")
    if schema == SCHEMA:
        return well(f"schema {schema}, as this version")
    newer = schema.isdecimal() and int(schema) > int(SCHEMA)
    found = f"the table has schema {schema}, this version has {SCHEMA}"
    if newer:
        return problem(found, f"schema {SCHEMA}", "upgrade redis-kvpoll here: the processes that write are newer")
    return problem(
        found, f"schema {SCHEMA}", "an older version has made it: let its processes end, then delete its keys"
    )


def namespaces(facts: Facts) -> Observation:
    if facts.namespaces is None:
        return unknown("not known: this user may not call SCAN")
    own = deployment(facts.namespace)
    base = own[0]
    if set(own) <= set(facts.namespaces):
        what = f"{base}, {base}-prefill and {base}-decode exist at once: somebody uses {base} itself"
        return warning(what, "the last two", f"SGLang's plugin appends the role to KVPOLL_NAMESPACE: who uses {base}?")
    others = [name for name in facts.namespaces if name not in own]
    if others:
        shown = ", ".join(others[:3]) + (f" and {len(others) - 3:,} more" if len(others) > 3 else "")
        return note(f"the server has other namespaces: {shown}", "", "they share its CPU and its memory")
    return well("no other deployment on this server")


def feed(facts: Facts) -> Observation:
    table = facts.table
    if table is None:
        return not_read(facts)
    if (facts.settings or {}).get("feed_length") == "0":
        what = "the namespace keeps no feed: no mirrors, no wait, no tail, no history, no rates"
        return note(what, "a feed", "use another namespace, opened with a feed_length")
    if not facts.settings:
        return unknown(NO_SETTINGS)
    if len(table.feeds) < table.shards:
        return unknown(UNREADABLE_FEED)
    live = bool(table.sample and any(room.is_live for room in table.sample.rooms))
    lasts = [seconds_of(found.last) for found in table.feeds.values() if found.last]
    if live and lasts and table.now - max(lasts) > QUIET_SECONDS:
        quiet = human(table.now - max(lasts))
        advice = "its workers are gone or hang: see kvpoll owners"
        return warning(f"no change for {quiet}, with live rooms", "changes", advice)
    limit = int((facts.settings or {}).get("feed_length", "0"))
    full = [found for found in table.feeds.values() if found.length is not None and found.length >= limit]
    spans = [span(found) for found in full]
    if spans and min(spans) < MIN_SPAN_SECONDS:
        what = f"it keeps {limit:,} entries a shard, which is {human(min(spans))} at this rate"
        advice = (
            "raise feed_length (KVPOLL_FEED_LENGTH, with a new namespace): readers that pause for longer read afresh"
        )
        return warning(what, human(MIN_SPAN_SECONDS), advice)
    longest = max(map(span, table.feeds.values()), default=0.0)
    if any(found.length is None for found in table.feeds.values()) and longest < MIN_SPAN_SECONDS:
        return unknown(
            f"it reaches back {human(longest)}; whether it is full is not known: this user may not call XLEN"
        )
    return well(f"keeps {limit:,} entries a shard; the first is {human(longest)} older than the last")


def span(found: FeedFacts) -> float:
    """Return the seconds from a feed's first entry to its last."""
    return seconds_of(found.last) - seconds_of(found.first) if found.first and found.last else 0.0


def feed_lag(facts: Facts) -> Observation:
    lag = facts.table.lag if facts.table else None
    if lag is None:
        return not_read(facts)
    if facts.table and (facts.settings or {}).get("feed_length") != "0" and len(facts.table.feeds) < facts.table.shards:
        return unknown(UNREADABLE_FEED)
    if lag <= MAX_LAG_SECONDS:
        return well("a reader of the feed keeps up" if not lag else f"a reader of the feed is {lag:.1f} s behind")
    what = f"a reader of the feed is {lag:.1f} s behind"
    advice = "its host, or the network to Redis, is too slow for this many changes: see latency; use more shards"
    return warning(what, f"at most {MAX_LAG_SECONDS:.0f} s", advice)


def acl(facts: Facts) -> Observation:
    found = facts.permissions
    if found is None:
        return unknown("not known: the calls were not answered")
    if found.lacks_keys:
        return _denied_keys(facts)
    if found.reads:
        return _denied(facts, found.reads, "--read-only ")
    if found.writes and len(found.writes) < found.asked_writes:
        return _denied(facts, found.writes, "")
    return well("this user may look, and not write" if found.writes else "this user may do all that is needed")


def _denied_keys(facts: Facts) -> Observation:
    """Return that the user has no right to the namespace, which may be mistyped: SCAN shows the names of all keys."""
    name, found = facts.namespace, f"this user is denied the keys of {facts.namespace}"
    patterns = " ".join(f"~{pattern}" for pattern in keys.patterns([name]))
    advice = f"ACL SETUSER NAME {patterns} (the whole rule: kvpoll acl {_for_acl(name)})"
    if facts.namespaces and name not in facts.namespaces:
        roles = [one for one in deployment(name) if one in facts.namespaces]
        there = " or ".join(f"-n {one}" for one in roles) or "check -n; kvpoll namespaces lists what this server has"
        found, advice = f"{found}, and the server has no such namespace", f"{there}; if {name} is right: {advice}"
    return problem(found, "the rule of kvpoll acl", advice)


def _for_acl(namespace: str) -> str:
    """Return the options of kvpoll acl for a user of this table. A rule replaces the former one, so it names both."""
    base = deployment(namespace)[0]
    return f"-n {namespace}" if base == namespace else f"-n {base} --roles"


def _denied(facts: Facts, commands: tuple[str, ...], option: str) -> Observation:
    shown = ", ".join(command.upper() for command in commands)
    more = " ".join(f"+{command}" for command in commands)
    return problem(
        f"this user is denied {shown}",
        "the rule of kvpoll acl",
        f"ACL SETUSER NAME {more} (the whole rule, with its keys: kvpoll acl {option}{_for_acl(facts.namespace)})",
    )


def cluster(facts: Facts) -> Observation:
    clustered = [node for node in facts.nodes if (node.info or {}).get("cluster_enabled") == "1"]
    if facts.kind != "cluster":
        if clustered:
            what = "this server is a node of a cluster, and the URL is of a single server"
            return problem(what, "redis+cluster://", "use redis+cluster://HOST:PORT: the other nodes are found")
        return well("no cluster")
    states = {node.address: (node.cluster or {}).get("cluster_state") for node in facts.nodes if node.cluster}
    down = [address for address, state in states.items() if state != "ok"]
    if down:
        return problem(f"{down[0]} says that the cluster is down", "cluster_state ok", "CLUSTER INFO, CLUSTER NODES")
    served = min((node.slots for node in facts.nodes if node.slots is not None), default=SLOTS)
    if served < SLOTS:
        what = f"{SLOTS - served:,} of {SLOTS:,} slots have no node"
        return problem(what, "all slots served", "redis-cli --cluster fix HOST:PORT")
    foreign = [node for node in facts.nodes if node.foreign_keys]
    if foreign:
        what = f"{foreign[0].address} has keys of this table whose slot another node serves"
        return warning(what, "each shard on one node", "a slot is being moved, or its move was cut short: let it end")
    primaries = sum(node.is_primary for node in facts.nodes)
    if facts.settings and facts.settings.get("shards") == "1" and primaries > 1:
        what = f"shards is 1: one of {primaries} nodes has the whole table"
        return note(what, "2 to 4 a node", "open another namespace with shards= (KVPOLL_SHARDS)")
    known = "" if states else "; cluster_state is not known: this user may not call CLUSTER INFO"
    return well(f"{primaries} nodes serve all slots{known}")
