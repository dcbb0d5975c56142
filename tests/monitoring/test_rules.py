"""The alerts of kvpoll rules: each fires when it should, and not just below; promtool runs them."""

from __future__ import annotations

import json
import re

import pytest
import yaml
from click.testing import CliRunner

from redis_kvpoll.cli.app import kvpoll, load
from redis_kvpoll.integrations.sglang.peer_failures import for_people
from redis_kvpoll.integrations.sglang.startup import log_disabled
from redis_kvpoll.monitoring.alerts import ALERTS, RECORDINGS, rules_file
from redis_kvpoll.statistics.reasons import kind_of
from tests.monitoring.cases import CASES
from tests.support.documents import anchors, text_of
from tests.support.prometheus import promtool

BY_NAME = {alert.name: alert for alert in ALERTS}
RUNBOOK = "docs/runbook.md"


def shown(text, labels, value):
    """A text as Prometheus fills it in."""
    text = re.sub(r"\{\{ \$labels\.(\w+) \}\}", lambda found: labels[found[1]], text)
    return re.sub(r"\{\{ \$value[^}]*\}\}", value, text)


def test_every_alert_has_cases():
    assert list(CASES) == [alert.name for alert in ALERTS]
    assert len(ALERTS) == 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rules")
    (folder / "kvpoll.rules.yml").write_text(rules_file("https://example.org/runbook.md"), encoding="utf-8")
    return folder


def test_rules_are_valid(folder):
    assert f"{len(ALERTS) + len(RECORDINGS)} rules found" in promtool("check", "rules", folder / "kvpoll.rules.yml")


@pytest.mark.parametrize("name", BY_NAME)
def test_alert_fires_when_it_should_and_only_then(folder, name):
    alert, case = BY_NAME[name], CASES[name]
    annotations = {
        "summary": shown(alert.summary, case.labels, case.value),
        "description": shown(alert.description, case.labels, case.value),
        "runbook_url": f"https://example.org/runbook.md#{alert.anchor}",
    }
    firing = {"exp_labels": {**case.labels, "severity": alert.severity}, "exp_annotations": annotations}
    tests = [
        {
            "interval": "1m",
            "input_series": [{"series": name, "values": values} for name, values in given.items()],
            "alert_rule_test": [{"eval_time": "20m", "alertname": alert.name, "exp_alerts": expected}],
        }
        for given, expected in ((case.fires, [firing]), (case.quiet, []))
    ]
    file = folder / f"{name}.test.yml"
    written = {"rule_files": ["kvpoll.rules.yml"], "evaluation_interval": "1m", "tests": tests}
    file.write_text(json.dumps(written), encoding="utf-8")
    promtool("test", "rules", file)


def test_file_has_what_was_declared():
    groups = yaml.safe_load(rules_file())["groups"]
    recorded, alerts = (group["rules"] for group in groups)
    assert {rule["record"]: rule["expr"] for rule in recorded} == RECORDINGS
    assert [(rule["alert"], rule["expr"], rule.get("for", "")) for rule in alerts] == [
        (alert.name, alert.expr, alert.hold) for alert in ALERTS
    ]
    assert not any("runbook_url" in rule["annotations"] for rule in alerts)


def test_command_prints_the_file():
    result = CliRunner().invoke(kvpoll, ["rules", "--runbook-base", "https://x/runbook.md"])
    assert result.output == rules_file("https://x/runbook.md")


def test_advice_names_commands_and_options_that_exist():
    for alert in ALERTS:
        for name, rest in re.findall(r"kvpoll (\w+)([^.;:]*)", f"{alert.summary} {alert.description}"):
            options = {option for parameter in load(name).params for option in parameter.opts}
            assert {word.rstrip(",") for word in rest.split() if re.match("--?[a-z]", word)} <= options, alert.name


def paragraph(heading):
    """A paragraph of the runbook, without the ends of its lines."""
    text = text_of(RUNBOOK).partition(f"### {heading}\n")[2].partition("\n### ")[0]
    return re.sub(r"(?<!\n)\n(?!\n)", " ", text)


@pytest.mark.parametrize(
    ("name", "check", "drills"),
    [
        ("KVPollFeedGap", "data_loss", ["Redis restarted empty", "Somebody's FLUSHALL"]),
        ("KVPollRoomsExpire", "evicted", ["allkeys-lru set"]),
    ],
)
def test_alert_names_the_check_of_its_other_cause(name, check, drills):
    """A loss of data makes gaps, too, and rooms that were evicted count as expired."""
    assert f"check {check}" in BY_NAME[name].description
    assert f"check `{check}`" in paragraph(name)
    assert [drill for drill in drills if name not in paragraph(drill)] == []


def test_owner_that_a_table_does_not_list_is_in_the_other():
    """Decode's rooms fail with the reason of prefill's loss, which counts as owner_lost."""
    assert kind_of(for_people("owner prefill/10.0.0.1:8998 lost")) == "owner_lost"
    for text in (BY_NAME["KVPollOwnerLost"].description, paragraph("KVPollOwnerLost")):
        assert "lists none as lost, the other role's table does" in text


def test_process_that_never_joined_is_to_be_restarted(caplog):
    """Its gauge stays 0, although Redis and the agent are well."""
    log_disabled("why")
    (record,) = caplog.records
    words = record.getMessage().removeprefix("redis_kvpoll: ").partition(": why")[0]
    assert f"- `{words}`:" in paragraph("KVPollLinkDown")


class TestRunbook:
    def test_each_alert_has_a_paragraph_where_its_link_leads(self):
        assert [alert.anchor for alert in ALERTS if alert.anchor not in anchors(RUNBOOK)] == []

    def test_headings_of_alerts_are_alerts(self):
        assert set(re.findall(r"^### (KVPoll\w+)$", text_of(RUNBOOK), re.MULTILINE)) == set(BY_NAME)

    def test_it_says_when_each_alert_fires(self):
        for alert in ALERTS:
            assert f"({alert.severity})" in paragraph(alert.name).strip().split("\n\n")[0], alert.name
