"""What Prometheus and Grafana are given: alerts and a board, made from data (``kvpoll rules``, ``kvpoll board``).

Invariant: both use only metrics of ``kvpoll serve``, of SGLang's plugin and of SGLang; tests compare them with a real
scrape. To add an alert: an entry in ``alerts``, a paragraph in docs/runbook.md, and two cases in tests/monitoring.
"""
