"""kvpoll doctor of a server that is away, hangs or refuses."""

from __future__ import annotations

import pytest

from chaos.proxy import Proxy
from redis_kvpoll.doctor import node_checks
from redis_kvpoll.doctor.facts import Facts, NodeFacts
from redis_kvpoll.doctor.findings import Level, exit_status
from tests.support import real
from tests.support.examining import by_check, doctor_of, live_table, raised

PROBLEM = Level.PROBLEM


@pytest.fixture
def server(server):
    """One with a live table."""
    with live_table(server):
        yield server


def test_server_that_is_away_is_out_of_reach():
    url = f"redis://127.0.0.1:{real.free_port()}"
    findings = doctor_of(url).examine()
    assert (findings[0].check, findings[0].level, exit_status(findings)) == ("reach", PROBLEM, 1)
    assert "check that the server is up" in findings[0].advice
    assert {finding.level for finding in findings[1:]} == {Level.UNKNOWN}


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda url: url.replace("//", "//eyes:wrong@"), "WRONGPASS"),
        (lambda url: f"{url}/99", "DB index is out of range"),
        (lambda url: url.replace("redis:", "redis+cluster:"), "cluster support disabled"),
    ],
    ids=["password", "database", "cluster"],
)
def test_server_that_refuses_does_answer(server, change, code):
    """Who reads that it gives no answer looks at the network, where nothing is wrong."""
    findings = doctor_of(change(server.tcp)).examine()
    assert (findings[0].check, findings[0].level, exit_status(findings)) == ("reach", PROBLEM, 1)
    assert " answers, but refuses: " in findings[0].found
    assert code in findings[0].found
    assert "no answer" not in "".join(finding.found for finding in findings)


def test_nodes_that_refuse_are_told_from_those_away():
    def reach(*nodes):
        return node_checks.reach(Facts("prod", "cluster", "redis+cluster://a", nodes=nodes)).found

    silent, other = NodeFacts("a:1", "timed out"), NodeFacts("b:2", "timed out")
    refusing = NodeFacts("c:3", "NOAUTH", is_refusal=True)
    assert reach(silent, NodeFacts("d:4")) == "a:1 gives no answer: timed out"
    assert reach(silent, other, refusing) == "a:1 (and 1 more) gives no answer: timed out; of the other nodes 1 refused"
    assert reach(refusing, silent, other) == "c:3 answers, but refuses: NOAUTH; of the other nodes 2 gave no answer"
    assert reach(refusing, refusing) == "c:3 (and 1 more) answers, but refuses: NOAUTH"


def test_server_that_hangs_is_out_of_reach(server, monkeypatch):
    monkeypatch.setattr("redis_kvpoll.doctor.node_look.REACH_SECONDS", 0.2)
    with Proxy(server.port) as proxy:
        proxy.stalled = True
        assert exit_status(doctor_of(proxy.url).examine()) == 1


def test_doctor_goes_on_after_the_server_was_away(server):
    with Proxy(server.port) as proxy:
        doctor = doctor_of(proxy.url)
        assert raised(by_check(doctor.examine())) == set()
        proxy.refusing = True
        assert exit_status(doctor.examine()) == 1
        proxy.refusing = False
        assert raised(by_check(doctor.examine())) == set()
