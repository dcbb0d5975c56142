"""The parts of a Grafana board: panels as Grafana's own JSON has them, from the little that differs between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

JSON: TypeAlias = dict[str, Any]

COLORS = {
    "Failed": "red",
    "Bootstrapping": "#8F98A8",
    "WaitingForInput": "yellow",
    "Transferring": "blue",
    "Success": "green",
    "alive": "green",
    "expired": "yellow",
    "suspected": "orange",
    "lost": "red",
}
"""Of series with these names, on every panel alike."""
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


class Query(NamedTuple):
    """One query of a panel."""

    expr: str
    legend: str = ""
    instant: bool = False
    format: str = "time_series"


class Panel(NamedTuple):
    """One panel, without its place."""

    kind: str
    title: str
    description: str
    queries: Sequence[Query]
    width: int
    height: int
    unit: str = "short"
    options: Mapping[str, Any] = {}
    custom: Mapping[str, Any] = {}
    """How series are drawn."""
    defaults: Mapping[str, Any] = {}
    """Of the fields: thresholds, mappings, decimals."""
    transformations: Sequence[JSON] = ()

    def at(self, number: int, x: int, y: int) -> JSON:
        """Return the panel at a place of the board's 24 columns."""
        return {
            "id": number,
            "type": self.kind,
            "title": self.title,
            "description": self.description,
            "datasource": DATASOURCE,
            "gridPos": {"h": self.height, "w": self.width, "x": x, "y": y},
            "targets": [_target(at, query) for at, query in enumerate(self.queries)],
            "fieldConfig": {
                "defaults": {"unit": self.unit, "custom": dict(self.custom), **self.defaults},
                "overrides": [_color(*color) for color in COLORS.items()] if self.kind == "timeseries" else [],
            },
            "options": dict(self.options),
            "transformations": list(self.transformations),
        }


def _target(number: int, query: Query) -> JSON:
    return {
        "refId": chr(ord("A") + number),
        "datasource": DATASOURCE,
        "expr": query.expr,
        "legendFormat": query.legend or "__auto",
        "instant": query.instant,
        "range": not query.instant,
        "format": query.format,
    }


def _color(name: str, color: str) -> JSON:
    return {
        "matcher": {"id": "byName", "options": name},
        "properties": [{"id": "color", "value": {"mode": "fixed", "fixedColor": color}}],
    }


def steps(*found: tuple[float | None, str]) -> JSON:
    """Return thresholds: each a colour from a value on; the first from None."""
    return {"thresholds": {"mode": "absolute", "steps": [{"value": value, "color": color} for value, color in found]}}


def stat(title: str, description: str, query: str, width: int, unit: str = "short", **defaults: Any) -> Panel:
    """Return a panel with one large number."""
    options = {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "colorMode": "value",
        "graphMode": "area",
        "textMode": "value",
        "justifyMode": "center",
    }
    plain = {**steps((None, "text")), **defaults}
    return Panel("stat", title, description, [Query(query)], width, 4, unit, options, {}, plain)


def series(
    title: str,
    description: str,
    queries: Sequence[Query],
    width: int,
    unit: str = "short",
    stacked: bool = False,
    **defaults: Any,
) -> Panel:
    """Return a panel with lines over time, or with areas upon each other."""
    options = {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    custom = {
        "drawStyle": "line",
        "lineWidth": 1,
        "fillOpacity": 40 if stacked else 8,
        "showPoints": "never",
        "spanNulls": False,
        "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
    }
    return Panel("timeseries", title, description, queries, width, 8, unit, options, custom, {"min": 0, **defaults})


def timeline(title: str, description: str, queries: Sequence[Query], width: int, unit: str, **defaults: Any) -> Panel:
    """Return a panel with a bar of states for each series."""
    options = {
        "showValue": "never",
        "mergeValues": True,
        "rowHeight": 0.85,
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
        "tooltip": {"mode": "single", "sort": "none"},
    }
    custom = {"fillOpacity": 70, "lineWidth": 0}
    colored = {"color": {"mode": "thresholds"}, **defaults}
    return Panel("state-timeline", title, description, queries, width, 8, unit, options, custom, colored)


def heatmap(title: str, description: str, query: str, width: int) -> Panel:
    """Return a panel of a histogram over time."""
    options = {
        "calculate": False,
        "color": {"mode": "scheme", "scheme": "Blues", "steps": 64},
        "yAxis": {"unit": "s", "axisPlacement": "left"},
        "cellGap": 1,
        "filterValues": {"le": 1e-9},
        "rowsFrame": {"layout": "auto"},
        "legend": {"show": True},
        "tooltip": {"mode": "single", "yHistogram": True},
    }
    return Panel("heatmap", title, description, [Query(query, "{{le}}", format="heatmap")], width, 8, "s", options)


def matrix(title: str, description: str, query: str, width: int, row: str, column: str) -> Panel:
    """Return a panel with one number for each pair of two labels, now, shaded by its size."""
    options = {
        "showHeader": True,
        "cellHeight": "sm",
        "footer": {"show": False, "reducer": ["sum"], "countRows": False},
    }
    custom = {"cellOptions": {"type": "color-background", "mode": "gradient"}, "align": "auto"}
    shades = steps((None, "transparent"), (1e-9, "light-blue"), (1, "blue"), (100, "dark-blue"))
    by = {"id": "groupingToMatrix", "options": {"rowField": row, "columnField": column, "valueField": "Value"}}
    queries = [Query(query, instant=True, format="table")]
    return Panel(
        "table", title, description, queries, width, 8, "reqps", options, custom, {**shades, "decimals": 2}, [by]
    )
