"""Of each alert: series for which it fires, and the nearest for which it does not."""

from __future__ import annotations

from typing import NamedTuple


class Case(NamedTuple):
    """Series in promtool's notation, a value a minute; the alert is looked at after 20 minutes."""

    fires: dict[str, str]
    quiet: dict[str, str]
    labels: dict[str, str]
    """Of the alert that fires, besides severity."""
    value: str = ""
    """How the summary shows the value."""


def series(name, values, **labels):
    found = {"namespace": "prod"} | {label.rstrip("_"): value for label, value in labels.items()}
    inside = ",".join(f'{label}="{value}"' for label, value in found.items() if value is not None)
    return {f"{name}{{{inside}}}": values}


def moved(from_, to, values):
    return series("kvpoll_transitions_total", values, from_=from_, to=to)


PROD = {"namespace": "prod"}
STEADY = moved("Transferring", "Success", "0+60x30")
CASES = {
    "KVPollExporterBlind": Case(
        series("kvpoll_exporter_synced", "1x10 0x20") | series("kvpoll_exporter_lag_seconds", "1x30"),
        series("kvpoll_exporter_synced", "1x30") | series("kvpoll_exporter_lag_seconds", "1x10 14x20"),
        PROD,
    ),
    "KVPollExporterDown": Case({}, series("kvpoll_build_info", "1x30", version="0.1.0"), {}),
    "KVPollOwnerLost": Case(
        series("kvpoll_failures_total", "0x18 3x10", reason="owner_lost")
        | series("kvpoll_owners", "0x30", state="lost"),
        series("kvpoll_failures_total", "0x5 3x25", reason="owner_lost")
        | series("kvpoll_failures_total", "0+5x30", reason="timeout")
        | series("kvpoll_owners", "0x30", state="lost")
        | series("kvpoll_owners", "3x30", state="alive"),
        PROD,
    ),
    "KVPollFailureRatioHigh": Case(
        STEADY | moved("Transferring", "Failed", "0+12x30"),
        STEADY | moved("Transferring", "Failed", "0+2x30") | moved("Success", "Failed", "0+600x30"),
        PROD,
        "16.67%",
    ),
    "KVPollRoomsStuck": Case(
        series("kvpoll_stuck_rooms", "0x10 3x20", status="Transferring"),
        series("kvpoll_stuck_rooms", "0x16 3x14", status="Transferring"),
        {**PROD, "status": "Transferring"},
        "3",
    ),
    "KVPollTransferSlow": Case(
        series("kvpoll_status_duration_seconds_bucket", "0+90x30", status="Transferring", le="5.0")
        | series("kvpoll_status_duration_seconds_bucket", "0+100x30", status="Transferring", le="10.0")
        | series("kvpoll_status_duration_seconds_bucket", "0+100x30", status="Transferring", le="+Inf"),
        series("kvpoll_status_duration_seconds_bucket", "0+100x30", status="Transferring", le="5.0")
        | series("kvpoll_status_duration_seconds_bucket", "0+100x30", status="Transferring", le="+Inf")
        | series("kvpoll_status_duration_seconds_bucket", "0+1x30", status="Bootstrapping", le="5.0")
        | series("kvpoll_status_duration_seconds_bucket", "0+100x30", status="Bootstrapping", le="+Inf"),
        PROD,
        "9.5s",
    ),
    "KVPollRoomsExpire": Case(
        moved("Transferring", "expired", "0x15 2x15"),
        moved("Transferring", "expired", "0x30") | moved("Success", "expired", "0+5x30"),
        PROD,
    ),
    "KVPollCameBack": Case(
        moved("Failed", "Transferring", "0x15 1x15"),
        moved("Failed", "Transferring", "0x30")
        | moved("Failed", "cleared", "0+9x30")
        | moved("Failed", "expired", "0+9x30"),
        PROD,
    ),
    "KVPollRefusedMany": Case(
        STEADY | series("kvpoll_refused_writes_total", "0+20x30", outcome="stale"),
        STEADY | series("kvpoll_refused_writes_total", "0+10x30", outcome="stale"),
        PROD,
    ),
    "KVPollLinkDown": Case(
        series("kvpoll_link_up", "1x10 0x20", namespace=None, role="prefill", owner="prefill/h:1", rank="0")
        | series("kvpoll_link_up", "1x30", namespace=None, role="prefill", owner="prefill/h:1", rank="1"),
        series("kvpoll_link_up", "1x19 0x1 1x10", namespace=None, role="prefill", owner="prefill/h:1"),
        {"role": "prefill", "owner": "prefill/h:1"},
    ),
    "KVPollDoctor": Case(
        series("kvpoll_doctor_check", "0x5 2x25", check="eviction"),
        series("kvpoll_doctor_check", "1x30", check="eviction"),
        {**PROD, "check": "eviction"},
    ),
    "KVPollFeedGap": Case(
        series("kvpoll_feed_gaps_total", "0x15 1x15"), series("kvpoll_feed_gaps_total", "1x30"), PROD
    ),
}
