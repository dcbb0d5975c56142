"""The board's rows about the table: its owners, its feed and server, SGLang's links to it."""

from __future__ import annotations

from typing import Any

from redis_kvpoll.monitoring.panels import Panel, Query, series, steps, timeline
from redis_kvpoll.monitoring.queries import LIVE, NS, RATE, quantile, transitions

LEVELS = [("0", "well", "green"), ("1", "note", "blue"), ("2", "warning", "orange"), ("3", "problem", "red")]
DOCTOR: dict[str, Any] = {
    "mappings": [
        {"type": "value", "options": {value: {"text": text, "color": color} for value, text, color in LEVELS}}
    ],
    **steps((None, "green"), (1, "blue"), (2, "orange"), (3, "red")),
}

OWNERS: tuple[Panel, ...] = (
    series(
        "Owners by state",
        "Leases; lost ones are counted for an hour.",
        [Query(f"sum by (state) (kvpoll_owners{{{NS}}})", "{{state}}")],
        8,
        stacked=True,
    ),
    timeline(
        "Heartbeats",
        "Each owner: in time, late, or missing.",
        [Query(f"max by (owner) (kvpoll_owner_heartbeat_age_seconds{{{NS}}})", "{{owner}}")],
        8,
        "s",
        **steps((None, "green"), (3, "yellow"), (5, "red")),
    ),
    series(
        "Live rooms of an owner",
        "The twenty with the most.",
        [Query(f"topk(20, sum by (owner) (kvpoll_owner_rooms{{{NS}}}))", "{{owner}}")],
        8,
    ),
)
TABLE: tuple[Panel, ...] = (
    series(
        "Feed: reaches back",
        "How long a reader may stand still without reading the table anew.",
        [Query(f"min by (namespace, shard) (kvpoll_feed_span_seconds{{{NS}}})", "{{shard}}")],
        6,
        "s",
    ),
    series(
        "Feed: entries",
        "It is trimmed at feed_length.",
        [Query(f"sum by (namespace, shard) (kvpoll_feed_entries{{{NS}}})", "{{shard}}")],
        6,
    ),
    series(
        "Gaps and resyncs",
        "Changes that were dropped or lost before they were read, and full reads of the table.",
        [
            Query(f"sum(increase(kvpoll_feed_gaps_total{{{NS}}}[{RATE}]))", "gaps"),
            Query(f"sum(increase(kvpoll_exporter_resyncs_total{{{NS}}}[{RATE}]))", "resyncs"),
        ],
        6,
    ),
    series(
        "Live rooms that expire",
        "Nobody renews them: a process works without a lease.",
        [
            Query(f"sum(kvpoll_expiring_rooms{{{NS}}})", "within 60 s"),
            Query(transitions(f'from=~"{LIVE}",to="expired"'), "expired, per second"),
        ],
        6,
    ),
    timeline(
        "kvpoll doctor",
        "Each check: well, note, warning, problem.",
        [Query(f"max by (check) (kvpoll_doctor_check{{{NS}}})", "{{check}}")],
        12,
        "short",
        **DOCTOR,
    )._replace(height=14),
    series(
        "Redis: round trip, p50 and p99",
        "Of kvpoll serve's own smallest call.",
        [
            Query(quantile(share, "kvpoll_redis_call_seconds", "namespace"), f"{{{{namespace}}}} p{name}")
            for share, name in ((0.5, "50"), (0.99, "99"))
        ],
        12,
        "s",
    )._replace(height=14),
)
SGLANG: tuple[Panel, ...] = (
    timeline(
        "SGLang's processes reach the table",
        "The plugin's link. KVPollLinkDown fires after 2 min.",
        [Query("min by (role, owner) (kvpoll_link_up)", "{{owner}}")],
        8,
        "short",
        **steps((None, "red"), (1, "green")),
    ),
    series(
        "Not yet in the table",
        "Rooms with changes that wait for Redis; rooms that never reached it; rooms that nobody served.",
        [
            Query("sum(kvpoll_link_pending_rooms)", "pending"),
            Query(f"sum(increase(kvpoll_link_dropped_rooms_total[{RATE}]))", "dropped"),
            Query(f"sum(increase(kvpoll_link_orphaned_rooms_total[{RATE}]))", "orphaned"),
        ],
        8,
    ),
    series(
        "SGLang: KV transfer, p99",
        "SGLang's own measurement (empty if it is not scraped).",
        [
            Query(
                f"histogram_quantile(0.99, sum by (le) (rate(sglang:kv_transfer_latency_ms_bucket[{RATE}])))",
                "latency",
            )
        ],
        4,
        "ms",
    ),
    series(
        "SGLang: KV transfer speed, median",
        "SGLang's own measurement (empty if it is not scraped).",
        [Query(f"histogram_quantile(0.5, sum by (le) (rate(sglang:kv_transfer_speed_gb_s_bucket[{RATE}])))", "speed")],
        4,
        "GBs",
    ),
)
