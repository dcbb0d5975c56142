"""The board of kvpoll board: Grafana's own library reads it, and Prometheus its queries."""

from __future__ import annotations

import json
import re
from itertools import combinations

import yaml
from click.testing import CliRunner
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from redis_kvpoll.cli.app import kvpoll
from redis_kvpoll.monitoring.board import COLUMNS, ROWS, board, expressions
from tests.support.prometheus import promtool

VARIABLES = {"$__rate_interval": "1m", "$namespace": ".+"}


def filled_in(expr):
    for name, value in VARIABLES.items():
        expr = expr.replace(name, value)
    assert "$" not in expr
    return expr


def test_command_prints_the_board():
    assert json.loads(CliRunner().invoke(kvpoll, ["board"]).output) == board()


def test_grafanas_library_reads_all_of_it():
    """It drops what it does not know: so all that it writes again must be the same."""
    written = json.loads(JSONEncoder().encode(Dashboard.from_json(board())))
    panels = [panel for panel in written["panels"] if panel["type"] != "row"]
    given = [panel for panel in board()["panels"] if panel["type"] != "row"]
    for panel, one in zip(panels, given, strict=True):
        assert {name: panel[name] for name in ("title", "type", "gridPos")} == {
            name: one[name] for name in ("title", "type", "gridPos")
        }
        assert [target["expr"] for target in panel["targets"]] == [target["expr"] for target in one["targets"]]
        assert panel["fieldConfig"]["defaults"]["unit"] == one["fieldConfig"]["defaults"]["unit"]
    assert [variable["name"] for variable in written["templating"]["list"]] == ["datasource", "namespace"]


def test_panels_fill_their_lines_and_do_not_overlap():
    places = [panel["gridPos"] for panel in board()["panels"]]
    assert all(place["x"] >= 0 and place["x"] + place["w"] <= COLUMNS for place in places)
    for one, other in combinations(places, 2):
        apart_x = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        apart_y = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert apart_x or apart_y
    for y in {place["y"] for place in places}:
        assert sum(place["w"] for place in places if place["y"] == y) == COLUMNS


def test_panels_have_ids_descriptions_and_titles_of_their_own():
    panels = board()["panels"]
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels)
    assert all(panel["description"].endswith(".") for panel in panels if panel["type"] != "row")
    assert [panel["title"] for panel in panels if panel["type"] == "row"] == list(ROWS)


def test_queries_are_valid(tmp_path):
    rules = [{"record": f"q{number}", "expr": filled_in(expr)} for number, expr in enumerate(expressions())]
    file = tmp_path / "queries.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "board", "rules": rules}]}), encoding="utf-8")
    assert f"{len(rules)} rules found" in promtool("check", "rules", file)


def test_queries_choose_the_namespace():
    ours = [expr for expr in expressions() if re.search(r"kvpoll_(?!link)", expr)]
    assert all(expr.count("kvpoll_") == expr.count('namespace=~"$namespace"') for expr in ours)
