"""What is logged of an outage, and where: the client's log has its beginning and end, the agent's own its causes."""

from __future__ import annotations

import logging

import pytest

from redis_kvpoll.agent.session import outage
from redis_kvpoll.agent.session.outage import MAX_CAUSES, Outage
from redis_kvpoll.errors import StoreUnavailableError


@pytest.fixture
def told():
    """What the client is told."""
    return []


@pytest.fixture
def found(told, monkeypatch, caplog):
    """An outage that begins at the second look."""
    monkeypatch.setattr(outage, "OUTAGE_SECONDS", -1.0)
    caplog.set_level(logging.INFO, "redis_kvpoll")
    return Outage("decode/h:1", lambda level, text: told.append(text))


def test_cause_is_logged_once_in_each_outage(found, told, caplog):
    for _ in range(2):
        for trouble in ("closed", "closed", "refused", "closed", "refused"):
            found.note(False, trouble)
        found.note(True)
    causes = [record.getMessage() for record in caplog.records]
    assert causes == 2 * [f"redis_kvpoll: decode/h:1 has no contact with Redis: {why}" for why in ("closed", "refused")]
    assert [text.partition(": ")[2].partition(";")[0].partition(" after")[0] for text in told] == 2 * [
        "Redis is unreachable",
        "Redis is reachable again",
    ]


def test_cause_that_is_known_late_is_logged(found, told, caplog):
    """A server that hangs gives no error at first."""
    for trouble in ("", "", "no answer"):
        found.note(False, trouble)
    assert (len(told), [record.getMessage().rpartition(": ")[2] for record in caplog.records]) == (1, ["no answer"])


def test_cause_with_a_number_does_not_fill_the_log(found, caplog):
    """As each try to join again has: how often it has called."""
    for number in range(100):
        found.cannot_join(StoreUnavailableError(f"no answer ({number} tries)"))
    assert len(caplog.records) == MAX_CAUSES
