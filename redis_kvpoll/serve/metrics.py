"""``/metrics``: the aggregates of all namespaces in Prometheus' text, computed when it is asked for.

Invariants:

- No label holds a room, a request, a reason or a process: the number of series does not grow with traffic. Owners are
  capped by ``--max-owners``, and those that were lost leave after five minutes.
- A gauge that is not known is absent, while the table could not be read for STALE_AFTER seconds; counters go on.
- What is meant to be looks like no fault. A namespace that does not exist has no ``synced`` and no lag; if this process
  has never seen it, the doctor's warning that it is absent is left out, too. A table without a feed, which is read once
  a minute, has no lag.

To add a metric: add it to the function of its kind here, and to docs/operations.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from redis_kvpoll.doctor.findings import Level
from redis_kvpoll.model import KVPoll, Owner
from redis_kvpoll.serve.watch import Watch
from redis_kvpoll.statistics.model import ABSENT, BOUNDS, CLEARED, EXPIRED, LIVE, Histogram, Snapshot

STALE_AFTER, STALE_WITHOUT_FEED = 15.0, 150.0
"""Seconds after which a table that is not synced has no gauges. Without a feed it is read once a minute."""
LOST_SECONDS = 300.0
"""For how long a lost owner has series of its own."""
OTHER_OWNERS = "other"
TRANSITIONS = tuple(
    (before, after)
    for before in (ABSENT, *KVPoll.__members__)
    for after in (*KVPoll.__members__, CLEARED, EXPIRED)
    if before != after and not (before == ABSENT and after in (CLEARED, EXPIRED))
)
OWNER_STATES = ("alive", "expired", "suspected", "lost")


class TableCollector(Collector):
    """Makes the metrics of all watched namespaces."""

    def __init__(self, watches: Mapping[str, Watch], max_owners: int, version: str) -> None:
        self._watches = watches
        self._max_owners = max_owners
        self._version = version

    def collect(self) -> Iterator[Metric]:
        """Yield each metric once, with the series of every namespace."""
        families = [*_gauges(), *_counters(), *_histograms(), *_owner_gauges(), *_exporter()]
        by_name = {family.name: family for family in families}
        for name, watch in self._watches.items():
            snapshot = watch.snapshot
            stale_after = STALE_AFTER if snapshot.has_feed else STALE_WITHOUT_FEED
            if snapshot.synced or snapshot.lag_seconds <= stale_after:
                _add_gauges(by_name, name, snapshot)
                _add_owners(by_name, name, snapshot, self._max_owners)
            _add_counters(by_name, name, snapshot)
            _add_histograms(by_name, name, snapshot, watch)
            _add_exporter(by_name, name, watch, self._version)
        yield from families

    def describe(self) -> Iterable[Metric]:
        """Nothing: the registry must not collect when this is registered."""
        return ()


def _gauges() -> list[Metric]:
    return [
        GaugeMetricFamily(
            "kvpoll_rooms", "Rooms, by the status that all their ranks agree on.", labels=["namespace", "status"]
        ),
        GaugeMetricFamily(
            "kvpoll_oldest_room_age_seconds",
            "Since the last change of status of the room that is at this live status for the longest; 0 without one.",
            labels=["namespace", "status"],
        ),
        GaugeMetricFamily(
            "kvpoll_stuck_rooms",
            "Rooms at this live status for longer than --stuck-after.",
            labels=["namespace", "status"],
        ),
        GaugeMetricFamily("kvpoll_expiring_rooms", "Live rooms whose TTL ends within 60 s.", labels=["namespace"]),
        GaugeMetricFamily("kvpoll_feed_entries", "Entries in the change feed.", labels=["namespace", "shard"]),
        GaugeMetricFamily(
            "kvpoll_feed_span_seconds", "How far the change feed reaches back.", labels=["namespace", "shard"]
        ),
    ]


def _counters() -> list[Metric]:
    return [
        CounterMetricFamily(
            "kvpoll_transitions",
            "Changes of a room's status, over all rooms. from: absent for a new room; to: cleared, expired.",
            labels=["namespace", "from", "to"],
        ),
        CounterMetricFamily(
            "kvpoll_failures", "Rooms that failed, by the kind of their first reason.", labels=["namespace", "reason"]
        ),
        CounterMetricFamily(
            "kvpoll_refused_writes", "Writes that the table refused, by outcome.", labels=["namespace", "outcome"]
        ),
        CounterMetricFamily(
            "kvpoll_feed_gaps", "How often changes were trimmed or lost before they were read.", labels=["namespace"]
        ),
        CounterMetricFamily(
            "kvpoll_exporter_resyncs",
            "How often the whole table was read anew: after a gap, a loss of data, a failover.",
            labels=["namespace"],
        ),
    ]


def _histograms() -> list[Metric]:
    return [
        HistogramMetricFamily(
            "kvpoll_status_duration_seconds",
            "How long rooms stay at a live status, over all rooms whose change to it was seen.",
            labels=["namespace", "status"],
        ),
        HistogramMetricFamily(
            "kvpoll_room_duration_seconds",
            "From a room's opening to its end, over all rooms whose opening was seen.",
            labels=["namespace", "end"],
        ),
        HistogramMetricFamily(
            "kvpoll_redis_call_seconds",
            "The round trip of this process's smallest call to Redis, once a second.",
            labels=["namespace"],
        ),
    ]


def _owner_gauges() -> list[Metric]:
    return [
        GaugeMetricFamily("kvpoll_owners", "Leases by state; lost ones for an hour.", labels=["namespace", "state"]),
        GaugeMetricFamily("kvpoll_owner_rooms", "Live rooms created under a lease.", labels=["namespace", "owner"]),
        GaugeMetricFamily(
            "kvpoll_owner_heartbeat_age_seconds",
            "Since the last heartbeat of a lease, or since it was lost; of 'other', the longest.",
            labels=["namespace", "owner"],
        ),
    ]


def _exporter() -> list[Metric]:
    return [
        GaugeMetricFamily(
            "kvpoll_exporter_synced",
            "1 while every room is known and the feed is read; absent for a namespace that does not exist yet.",
            labels=["namespace"],
        ),
        GaugeMetricFamily(
            "kvpoll_exporter_lag_seconds",
            "Since the feed was last read to its end; absent for a namespace without a feed.",
            labels=["namespace"],
        ),
        GaugeMetricFamily(
            "kvpoll_doctor_check",
            "Result of each check: 0 well, 1 note, 2 warning, 3 problem; what is not known is absent.",
            labels=["namespace", "check"],
        ),
        InfoMetricFamily("kvpoll_build", "This process, and the table that it shows.", labels=["namespace"]),
    ]


def _add_gauges(families: Mapping[str, Any], name: str, snapshot: Snapshot) -> None:
    for status in KVPoll:
        families["kvpoll_rooms"].add_metric([name, status.name], snapshot.counts.get(status, 0))
    for status in LIVE:
        families["kvpoll_oldest_room_age_seconds"].add_metric([name, status.name], snapshot.oldest.get(status) or 0.0)
        families["kvpoll_stuck_rooms"].add_metric([name, status.name], snapshot.stuck.get(status, 0))
    families["kvpoll_expiring_rooms"].add_metric([name], snapshot.expiring)
    for feed in snapshot.feeds:
        families["kvpoll_feed_entries"].add_metric([name, feed.shard], feed.entries)
        families["kvpoll_feed_span_seconds"].add_metric([name, feed.shard], feed.span_seconds)


def _add_counters(families: Mapping[str, Any], name: str, snapshot: Snapshot) -> None:
    # With a series that begins at its first event, increase() would miss that event.
    for before, after in TRANSITIONS:
        families["kvpoll_transitions"].add_metric([name, before, after], snapshot.transitions.get((before, after), 0))
    for reason, number in snapshot.failures.items():
        families["kvpoll_failures"].add_metric([name, reason], number)
    # From the start of this process on, as the others: the server's own counts begin anew at other times.
    for outcome, number in snapshot.refusals_seen.items():
        families["kvpoll_refused_writes"].add_metric([name, outcome], number)
    families["kvpoll_feed_gaps"].add_metric([name], snapshot.gaps)
    families["kvpoll_exporter_resyncs"].add_metric([name], snapshot.resyncs)


def _add_histograms(families: Mapping[str, Any], name: str, snapshot: Snapshot, watch: Watch) -> None:
    for status, histogram in snapshot.status_durations.items():
        _add_histogram(families["kvpoll_status_duration_seconds"], [name, status.name], histogram)
    for end, histogram in snapshot.room_durations.items():
        _add_histogram(families["kvpoll_room_duration_seconds"], [name, end.name], histogram)
    _add_histogram(families["kvpoll_redis_call_seconds"], [name], watch.round_trips())


def _add_histogram(family: HistogramMetricFamily, labels: list[str], histogram: Histogram) -> None:
    bounds = [*map(str, BOUNDS), "+Inf"]
    family.add_metric(labels, list(zip(bounds, histogram.cumulative(), strict=True)), histogram.sum)


def _add_owners(families: Mapping[str, Any], name: str, snapshot: Snapshot, most: int) -> None:
    for state in OWNER_STATES:
        number = sum(owner.state == state for owner in snapshot.owners)
        families["kvpoll_owners"].add_metric([name, state], number)
    shown, rest = _split(snapshot.owners, snapshot.at, most)
    for owner in shown:
        families["kvpoll_owner_rooms"].add_metric([name, owner.name], owner.rooms)
        families["kvpoll_owner_heartbeat_age_seconds"].add_metric([name, owner.name], _age(owner, snapshot.at))
    if rest:
        rooms = sum(owner.rooms for owner in rest)
        families["kvpoll_owner_rooms"].add_metric([name, OTHER_OWNERS], rooms)
        oldest = max(_age(owner, snapshot.at) for owner in rest)
        families["kvpoll_owner_heartbeat_age_seconds"].add_metric([name, OTHER_OWNERS], oldest)


def _split(owners: Iterable[Owner], now: float, most: int) -> tuple[list[Owner], list[Owner]]:
    """The owners with series of their own, and the rest. A name that was taken again counts by its newest lease."""
    newest: dict[str, Owner] = {}
    for owner in owners:
        is_gone = owner.state == "lost" and _age(owner, now) > LOST_SECONDS
        if not is_gone and (owner.name not in newest or owner.incarnation > newest[owner.name].incarnation):
            newest[owner.name] = owner
    by_rooms = sorted(newest.values(), key=lambda owner: (-owner.rooms, owner.name))
    return by_rooms[:most], by_rooms[most:]


def _age(owner: Owner, now: float) -> float:
    """Since the last heartbeat; of a lost owner since its end, for the table keeps no heartbeat of it."""
    return max(0.0, now - (owner.lost_at if owner.state == "lost" else owner.last_heartbeat_at))


def _add_exporter(families: Mapping[str, Any], name: str, watch: Watch, version: str) -> None:
    snapshot, is_absent = watch.snapshot, watch.state.word == "absent"
    if not is_absent:
        families["kvpoll_exporter_synced"].add_metric([name], int(snapshot.synced))
        if snapshot.has_feed:
            families["kvpoll_exporter_lag_seconds"].add_metric([name], snapshot.lag_seconds)
    for finding in watch.examination.findings:
        # One that was seen here is gone.
        is_yet_to_come = is_absent and watch.settings is None
        is_of_absence = is_yet_to_come and finding.check == "settings" and finding.level is Level.WARNING
        if finding.level >= 0 and not is_of_absence:
            families["kvpoll_doctor_check"].add_metric([name, finding.check], int(finding.level))
    families["kvpoll_build"].add_metric([name], {"version": version, **watch.described()})
