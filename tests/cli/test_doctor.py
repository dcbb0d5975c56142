"""kvpoll doctor: its report, its JSON and its exit statuses."""

from __future__ import annotations

import json
import math

import pytest
from click.testing import CliRunner

from redis_kvpoll.cli.app import kvpoll
from redis_kvpoll.cli.commands import doctor
from redis_kvpoll.doctor import examination, findings, node_checks
from redis_kvpoll.doctor.findings import Finding, Level
from redis_kvpoll.doctor.registry import CHECKS
from tests.support import real, schema
from tests.support.examining import HEALTHY, be_patient, live_table

SCHEMA = schema.load("doctor")
FOUND = [
    Finding("eviction", Level.PROBLEM, "maxmemory-policy is allkeys-lru " * 5, "noeviction", "CONFIG SET x y"),
    Finding("latency", Level.WARNING, "slow", "fast", "move"),
    Finding("feed", Level.NOTE, "short"),
    Finding("acl", Level.UNKNOWN, "not known"),
    Finding("reach", Level.WELL, "it answers"),
    Finding("busy", Level.WELL, "no"),
]


@pytest.fixture(autouse=True)
def no_watch(monkeypatch):
    monkeypatch.setattr(examination, "WATCH_SECONDS", 0.0)
    be_patient(monkeypatch)
    monkeypatch.setattr(node_checks, "TOO_SLOW", math.inf)  # the round trips of a busy machine are no problem here


@pytest.fixture
def server():
    with real.World("sync") as world:
        server = world.serve(*HEALTHY)
        with live_table(server):
            yield server


def run(server, *args):
    return CliRunner().invoke(kvpoll, ["doctor", "--redis", server.tcp, *args], catch_exceptions=False)


def is_well(result):
    """Whether nothing is to be seen to; on a busy machine the round trips are slow."""
    levels = {finding["check"]: finding["level"] for finding in json.loads(result.stdout)["findings"]}
    levels.pop("latency")
    return not {"warning", "problem"} & set(levels.values())


class TestExitStatus:
    def test_statuses_follow_the_worst_finding(self):
        assert findings.exit_status(FOUND[2:]) == 0
        assert findings.exit_status(FOUND[1:]) == 3
        assert findings.exit_status(FOUND) == 4
        assert findings.exit_status([Finding("reach", Level.PROBLEM, ""), FOUND[3]]) == 1

    def test_problem_is_4_and_absent_namespace_3(self, server):
        with server.client() as client:
            assert is_well(run(server, "--json"))
            client.config_set("maxmemory-policy", "allkeys-lru")
            result = run(server)
            client.config_set("maxmemory-policy", "noeviction")
        assert result.exit_code == 4
        assert "1 problem" in result.stdout
        assert run(server, "-n", "nobody").exit_code == 3

    def test_server_that_is_away_is_1(self):
        result = CliRunner().invoke(kvpoll, ["doctor", "--redis", f"redis://:secret@127.0.0.1:{real.free_port()}"])
        assert result.exit_code == 1
        assert " gives no answer: " in result.stdout
        assert result.stdout.endswith("Nothing else is known.\n")
        assert "secret" not in result.output

    @pytest.mark.parametrize("text", ["prefill", "prefill=some", "color=red", "policy=", "=4"])
    def test_expectation_that_makes_no_sense_is_2(self, server, text):
        result = run(server, "--expect", text)
        assert result.exit_code == 2
        assert "NAME=VALUE" in result.output


class TestJSON:
    def test_output_follows_its_schema(self, server):
        printed = json.loads(run(server, "--json", "--expect", "prefill=4").stdout)
        assert schema.faults(printed, SCHEMA) == []
        assert {finding["check"] for finding in printed["findings"]} == set(CHECKS)
        (instances,) = [finding for finding in printed["findings"] if finding["check"] == "instances"]
        assert (instances["level"], instances["wanted"]) == ("problem", "4 prefill")

    def test_schema_knows_the_checks_and_levels(self):
        finding = SCHEMA["properties"]["findings"]["items"]["properties"]
        assert finding["check"]["enum"] == list(CHECKS)
        assert finding["level"]["enum"] == [level.name.lower() for level in Level]


class TestReport:
    def lines(self, verbose, width=79):
        return [doctor.click.unstyle(line) for line in doctor.lines(FOUND, verbose, width)]

    @pytest.mark.parametrize("width", [60, 79, 120])
    def test_report_fits_into_its_width(self, width):
        lines = self.lines(True, width)
        assert max(map(len, lines)) <= width
        assert {len(line) - len(line.lstrip()) for line in lines if line.startswith(" ")} == {2 + len("eviction") + 2}

    def test_worst_comes_first_and_the_rest_is_counted(self):
        assert [line.split()[1] for line in self.lines(False) if line[0] != " "] == [
            "eviction",
            "latency",
            "feed",
            "1",
            "2",
        ]
        assert self.lines(False)[-1].startswith("✓ 2 others")

    @pytest.mark.parametrize("width", [24, 39])
    def test_narrow_report_has_the_names_above_the_texts(self, width):
        """Else the terminal breaks lines of 60 within their words."""
        lines = self.lines(True, width)
        assert lines[:2] == ["✗ eviction", "  maxmemory-policy is"] if width == 24 else lines[0] == "✗ eviction"
        assert max(map(len, lines)) <= width
        assert " ".join("  ".join(lines).split()).count("maxmemory-policy is allkeys-lru") == 5

    def test_verbose_lists_everything_with_what_is_wanted(self):
        listed = self.lines(True)
        assert {line.split()[1] for line in listed if line[0] != " "} == {finding.check for finding in FOUND}
        assert any(line.strip() == "wanted: noeviction" for line in listed)

    def test_symbols_are_ascii_where_the_encoding_is(self, monkeypatch):
        class Ascii:
            encoding = "ascii"

        monkeypatch.setattr(doctor.sys, "stdout", Ascii())
        "".join(self.lines(True)).encode("ascii")

    @pytest.mark.parametrize(("value", "is_coloured"), [("", True), ("1", False)])
    def test_no_color_is_heeded(self, server, value, is_coloured):
        words = ["doctor", "--redis", server.tcp]
        result = CliRunner(env={"NO_COLOR": value}).invoke(kvpoll, words, color=True)
        assert ("\x1b[" in result.stdout) is is_coloured

    def test_summary_counts_what_is_to_be_seen_to(self):
        assert doctor.summary(FOUND, 4) == "1 problem and 1 warning to see to."
        assert doctor.summary(FOUND[:1] * 2, 4) == "2 problems to see to."
        assert doctor.summary(FOUND[2:], 0) == "All is well; 1 note."
        assert doctor.summary(FOUND[3:], 0) == "All is well."
