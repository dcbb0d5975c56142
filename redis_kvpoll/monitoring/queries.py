"""The queries that several panels share."""

from __future__ import annotations

NS = 'namespace=~"$namespace"'
"""The namespaces that are chosen on the board."""
LIVE = "Bootstrapping|WaitingForInput|Transferring"
RATE = "$__rate_interval"


def transitions(matchers: str, by: str = "", over: str = RATE) -> str:
    """Return the rate of some changes of status, over all, or by a label."""
    grouped = f"sum by ({by})" if by else "sum"
    return f"{grouped} (rate(kvpoll_transitions_total{{{NS},{matchers}}}[{over}]))"


def quantile(share: float, histogram: str, by: str) -> str:
    rates = f"rate({histogram}_bucket{{{NS}}}[{RATE}])"
    return f"histogram_quantile({share}, sum by ({by}, le) ({rates}))"
