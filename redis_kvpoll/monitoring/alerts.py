"""The alerts on a table, and the file of Prometheus rules that has them.

An alert's name is also the heading of its paragraph in docs/runbook.md, to which ``runbook_url`` leads.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Literal, NamedTuple

ENDED = "namespace:kvpoll_ended:rate5m"
FAILED_RATIO = "namespace:kvpoll_failed:ratio_rate5m"

RECORDINGS = {
    ENDED: 'sum by (namespace) (rate(kvpoll_transitions_total{from!~"Success|Failed",to=~"Success|Failed"}[5m]))',
    FAILED_RATIO: 'sum by (namespace) (rate(kvpoll_transitions_total{from!~"Success|Failed",to="Failed"}[5m]))'
    f" / ({ENDED} > 0)",
}
"""Rooms that end, per second; and the share of them that fails. A room that ended before counts no more."""


class Alert(NamedTuple):
    """One alert."""

    name: str
    expr: str
    hold: str
    """For how long the expression must hold; empty for at once."""
    severity: Literal["critical", "warning", "info"]
    summary: str
    """What has happened, with the labels' values: the line that a person is woken by."""
    description: str
    """What to do first."""

    @property
    def anchor(self) -> str:
        """The anchor of its paragraph in the runbook."""
        return self.name.lower()


_IN = "{{ $labels.namespace }}"
ALERTS = (
    Alert(
        "KVPollExporterBlind",
        "kvpoll_exporter_synced == 0 or kvpoll_exporter_lag_seconds > 15",
        "1m",
        "critical",
        f"kvpoll serve cannot see the table {_IN}",
        f"Is Redis up? kvpoll doctor -n {_IN}. SGLang goes on without the table; aborts and other ranks' reasons wait.",
    ),
    Alert(
        "KVPollExporterDown",
        "absent(kvpoll_build_info)",
        "2m",
        "critical",
        "No kvpoll serve is scraped",
        "Check the pod of kvpoll serve, and Prometheus' targets: no other alert of a table can fire.",
    ),
    Alert(
        "KVPollOwnerLost",
        'sum by (namespace) (increase(kvpoll_failures_total{reason="owner_lost"}[5m])) > 0'
        ' or sum by (namespace) (kvpoll_owners{state="lost"}) > 0',
        "",
        "critical",
        f"A process that serves rooms of {_IN} died",
        f"kvpoll owners -n {_IN} names it; if it lists none as lost, the other role's table does. See that host's log."
        " The table has failed its rooms already.",
    ),
    Alert(
        "KVPollFailureRatioHigh",
        f"{FAILED_RATIO} > 0.05 and {ENDED} > 0.1",
        "5m",
        "warning",
        f"{{{{ $value | humanizePercentage }}}} of the requests in {_IN} fail",
        f"kvpoll stats -n {_IN} has the top reasons; kvpoll ls -n {_IN} --status failed the rooms.",
    ),
    Alert(
        "KVPollRoomsStuck",
        "kvpoll_stuck_rooms > 0",
        "5m",
        "warning",
        f"{{{{ $value }}}} rooms of {_IN} stand still at {{{{ $labels.status }}}}",
        f"kvpoll ls -n {_IN} --stuck. On prefill, Bootstrapping: decode has not asked; WaitingForInput: prefill's"
        " queue; Transferring: the network, or a peer that hangs. On decode, Bootstrapping: prefill's bootstrap"
        " server; WaitingForInput lasts until Success: kvpoll show has prefill's room.",
    ),
    Alert(
        "KVPollTransferSlow",
        "histogram_quantile(0.99, sum by (namespace, le)"
        ' (rate(kvpoll_status_duration_seconds_bucket{status="Transferring"}[10m]))) > 5',
        "10m",
        "warning",
        f"One transfer in a hundred of {_IN} takes longer than {{{{ $value | humanizeDuration }}}}",
        "Compare with sglang:kv_transfer_speed_gb_s: is it the network? Is it one owner's?",
    ),
    Alert(
        "KVPollRoomsExpire",
        "sum by (namespace) (increase(kvpoll_transitions_total"
        '{from=~"Bootstrapping|WaitingForInput|Transferring",to="expired"}[15m])) > 0',
        "",
        "warning",
        f"Live rooms of {_IN} are gone: their TTL ended, or they were evicted or deleted",
        f"kvpoll doctor -n {_IN}: does its check evicted find keys? Else a process works without a lease, or its lease"
        " is not renewed.",
    ),
    Alert(
        "KVPollCameBack",
        'sum by (namespace) (increase(kvpoll_transitions_total{from="Failed",to!~"cleared|expired"}[15m])) > 0',
        "",
        "warning",
        f"Failed rooms of {_IN} came back",
        "Policy compat lets a late message revive a room: write through handles, or use policy strict.",
    ),
    Alert(
        "KVPollRefusedMany",
        "sum by (namespace) (rate(kvpoll_refused_writes_total[10m]))"
        " > 0.2 * sum by (namespace) (rate(kvpoll_transitions_total[10m]))",
        "10m",
        "info",
        f"{_IN} refuses more than one write for each five changes",
        f"kvpoll stats -n {_IN} counts them by outcome. Stale and skipped: late messages. Busy: a room id in use.",
    ),
    Alert(
        "KVPollLinkDown",
        "min by (role, owner) (kvpoll_link_up) == 0",
        "2m",
        "warning",
        "{{ $labels.owner }} does not reach the table",
        "Check that host's network to Redis, and the lines of its log that begin with redis_kvpoll:",
    ),
    Alert(
        "KVPollDoctor",
        "kvpoll_doctor_check >= 2",
        "10m",
        "warning",
        f"kvpoll doctor finds something in {{{{ $labels.check }}}} of {_IN}",
        f"kvpoll doctor -n {_IN} says what, and what to do.",
    ),
    Alert(
        "KVPollFeedGap",
        "increase(kvpoll_feed_gaps_total[15m]) > 0",
        "",
        "info",
        f"Changes of {_IN} were dropped or lost before they were read",
        "The rates of that time are too low. If Redis lost its data (check data_loss) or failed over, do"
        " nothing. Else check why kvpoll serve stood still, or use a longer feed_length.",
    ),
)


def rules_file(runbook: str = "") -> str:
    """Return the file for Prometheus' ``rule_files``. ``runbook`` is the address of docs/runbook.md, if it has one."""
    return "\n".join([*_lines(runbook), ""])


def _lines(runbook: str) -> Iterator[str]:
    yield "# Made by: kvpoll rules"
    yield "groups:"
    yield "  - name: kvpoll.recording"
    yield "    rules:"
    for name, expr in RECORDINGS.items():
        yield f"      - record: {name}"
        yield f"        expr: |-\n          {expr}"
    yield "  - name: kvpoll.alerts"
    yield "    rules:"
    for alert in ALERTS:
        yield f"      - alert: {alert.name}"
        yield f"        expr: |-\n          {alert.expr}"
        if alert.hold:
            yield f"        for: {alert.hold}"
        yield f"        labels: {{severity: {alert.severity}}}"
        yield "        annotations:"
        yield f"          summary: {_text(alert.summary)}"
        yield f"          description: {_text(alert.description)}"
        if runbook:
            yield f"          runbook_url: {_text(f'{runbook}#{alert.anchor}')}"


def _text(value: str) -> str:
    """Return a text in quotes, as YAML and JSON write it alike."""
    return json.dumps(value, ensure_ascii=False)
