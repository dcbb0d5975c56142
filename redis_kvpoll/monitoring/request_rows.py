"""The board's rows about the requests: now, their flow, their times, their failures."""

from __future__ import annotations

from typing import Any

from redis_kvpoll.monitoring.panels import Panel, Query, heatmap, matrix, series, stat, steps
from redis_kvpoll.monitoring.queries import LIVE, NS, RATE, quantile, transitions

TO_END = 'from!~"Success|Failed",to=~"Success|Failed"'
TO_FAILED = 'from!~"Success|Failed",to="Failed"'
YES_NO: dict[str, Any] = {
    "mappings": [{"type": "value", "options": {"0": {"text": "no", "color": "red"}, "1": {"text": "yes"}}}]
}

NOW: tuple[Panel, ...] = (
    stat("Live rooms", "Requests whose KV cache is on its way.", f'sum(kvpoll_rooms{{{NS},status=~"{LIVE}"}})', 3),
    stat("Opened", "New rooms.", transitions('from="absent"'), 3, "reqps"),
    stat(
        "Failure ratio, 5 min",
        "Of the rooms that ended. KVPollFailureRatioHigh fires above 5 %.",
        f"{transitions(TO_FAILED, over='5m')} / ({transitions(TO_END, over='5m')} > 0)",
        4,
        "percentunit",
        **steps((None, "green"), (0.01, "yellow"), (0.05, "red")),
        decimals=1,
    ),
    stat(
        "Oldest live room",
        "Since its last change of status.",
        f"max(kvpoll_oldest_room_age_seconds{{{NS}}})",
        3,
        "s",
        **steps((None, "green"), (60, "yellow"), (300, "red")),
    ),
    stat(
        "Stuck",
        "Live rooms at one status for longer than --stuck-after. KVPollRoomsStuck fires after 5 min.",
        f"sum(kvpoll_stuck_rooms{{{NS}}})",
        3,
        **steps((None, "green"), (1, "red")),
    ),
    stat(
        "Owners lost",
        "Processes that died in the last hour. KVPollOwnerLost fires at once.",
        f'sum(kvpoll_owners{{{NS},state="lost"}})',
        3,
        **steps((None, "green"), (1, "red")),
    ),
    stat(
        "kvpoll serve is in step",
        "Whether it knows every room and follows the changes.",
        f"min(kvpoll_exporter_synced{{{NS}}})",
        3,
        **YES_NO,
    ),
    stat(
        "Behind",
        "Since it last read the changes to their end.",
        f"max(kvpoll_exporter_lag_seconds{{{NS}}})",
        2,
        "s",
        **steps((None, "green"), (3, "yellow"), (15, "red")),
    ),
)
FLOW: tuple[Panel, ...] = (
    series(
        "Rooms by status",
        "By the status that all ranks agree on.",
        [Query(f"sum by (status) (kvpoll_rooms{{{NS}}})", "{{status}}")],
        12,
        stacked=True,
    ),
    series(
        "Ends",
        "Rooms that ended, by how.",
        [Query(transitions(TO_END, "to"), "{{to}}")],
        6,
        "reqps",
    ),
    matrix(
        "Changes, from and to",
        "Now. From Failed to anything but cleared and expired: a failed room came back.",
        transitions('from=~".+"', "from, to"),
        6,
        "from",
        "to",
    ),
)
TIME: tuple[Panel, ...] = (
    series(
        "Time at a status",
        "How long rooms stay at each live status.",
        [
            Query(quantile(share, "kvpoll_status_duration_seconds", "status"), f"{{{{status}}}} p{name}")
            for share, name in ((0.5, "50"), (0.9, "90"), (0.99, "99"))
        ],
        8,
        "s",
    ),
    heatmap(
        "Transferring",
        "How long the KV cache is on its way.",
        f'sum by (le) (rate(kvpoll_status_duration_seconds_bucket{{{NS},status="Transferring"}}[{RATE}]))',
        8,
    ),
    series(
        "Opening to end, p99",
        "By how the room ended.",
        [Query(quantile(0.99, "kvpoll_room_duration_seconds", "end"), "{{end}}")],
        8,
        "s",
    ),
)
FAILURES: tuple[Panel, ...] = (
    series(
        "Failures by reason",
        "The kind of a room's first reason; kvpoll stats has the texts.",
        [Query(f"sum by (reason) (rate(kvpoll_failures_total{{{NS}}}[{RATE}]))", "{{reason}}")],
        8,
        "reqps",
        stacked=True,
    ),
    series(
        "Refused writes",
        "Late messages and others that the table did not take, by outcome.",
        [Query(f"sum by (outcome) (rate(kvpoll_refused_writes_total{{{NS}}}[{RATE}]))", "{{outcome}}")],
        8,
        "reqps",
    ),
    series(
        "Late messages that counted",
        "Only policy compat has any: a failed room came back, or a late message opened a room.",
        [
            Query(transitions('from="Failed",to!~"cleared|expired"'), "came back"),
            Query(transitions('from="absent",to=~"Transferring|Success"'), "opened late"),
        ],
        8,
        "reqps",
    ),
)
