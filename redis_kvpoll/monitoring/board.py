"""The Grafana board of a table, from what is going on now down to the table itself.

To add a panel: add it to a row in ``request_rows`` or ``table_rows``. A line has 24 columns; a panel that does not fit
begins the next one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from redis_kvpoll.monitoring import request_rows, table_rows
from redis_kvpoll.monitoring.panels import DATASOURCE, JSON, Panel

COLUMNS = 24
ROWS = {
    "Now": request_rows.NOW,
    "Flow": request_rows.FLOW,
    "Time": request_rows.TIME,
    "Failures": request_rows.FAILURES,
    "Owners": table_rows.OWNERS,
    "Table": table_rows.TABLE,
    "SGLang": table_rows.SGLANG,
}


def board() -> JSON:
    """Return the board as Grafana imports it."""
    return {
        "uid": "kvpoll",
        "title": "kvpoll",
        "description": "Status tables of KV transfers (redis-kvpoll)",
        "tags": ["kvpoll", "sglang"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": _variables()},
        "annotations": {"list": []},
        "links": [],
        "panels": list(_panels()),
    }


def _variables() -> list[JSON]:
    return [
        {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"},
        {
            "name": "namespace",
            "label": "Namespace",
            "type": "query",
            "datasource": DATASOURCE,
            "query": {"query": "label_values(kvpoll_build_info, namespace)", "refId": "namespaces"},
            "refresh": 2,
            "sort": 1,
            "multi": True,
            "includeAll": True,
            "allValue": ".+",
            "current": {"text": ["All"], "value": ["$__all"]},
        },
    ]


def _panels() -> Iterator[JSON]:
    number = y = 0
    for title, panels in ROWS.items():
        number += 1
        yield {
            "id": number,
            "type": "row",
            "title": title,
            "collapsed": False,
            "gridPos": {"h": 1, "w": COLUMNS, "x": 0, "y": y},
            "panels": [],
        }
        y += 1
        for line in _lines(panels):
            x = 0
            for panel in line:
                number += 1
                yield panel.at(number, x, y)
                x += panel.width
            y += max(panel.height for panel in line)


def _lines(panels: Sequence[Panel]) -> Iterator[list[Panel]]:
    """Yield the panels line by line."""
    line: list[Panel] = []
    for panel in panels:
        if sum(other.width for other in line) + panel.width > COLUMNS:
            yield line
            line = []
        line.append(panel)
    yield line


def expressions() -> list[str]:
    """Return every query of the board."""
    return [query.expr for panels in ROWS.values() for panel in panels for query in panel.queries]
