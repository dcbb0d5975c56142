"""A replay's report for tests: without violations, except for what they change."""

from __future__ import annotations

from redis_kvpoll.replay.report import Latency, Report


def report(**changes):
    none = Latency.of([])
    fields = {
        "policy": "strict", "requests": 1, "prefill": 1, "decode": 1, "speed": 1.0, "carried_speed": 1.0,
        "seed": 1, "seconds": 1.0,
        "input_tokens": 1, "output_tokens": 1, "results": {"success": 1}, "rooms_updated": 0, "rooms_polled": 0,
        "rooms_mirrored": 0,
        "updates": none, "polls": none, "mirror_polls": none, "mirror_behind": 0, "mirror_unsynced": 0,
        "outcomes": {}, "late": {}, "reused": 0, "crashes": 0, "unfinished": 0, "timed_out_for_nothing": 0,
        "orphaned": 3,
        "orphans_past_ttl": 0, "lease": None, "orphans_past_lease": 0, "oldest_orphan": 0.0,
        "leaked": {}, "cross_contaminated": 5, "cross_contamination": {},
    }  # fmt: skip
    return Report(**(fields | changes))
