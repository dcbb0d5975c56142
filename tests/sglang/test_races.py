"""Races of threads in one manager, with random pauses between the lines of SGLang's own code."""

from __future__ import annotations

import pytest

from redis_kvpoll import StatusStore
from tests.sglang.deployment import Deployment, until

TRIALS = 400
RACES = ("failed lost", "revived", "key error")


@pytest.mark.parametrize("race", RACES)
def test_races_without_plugin_are_counted(
    without_plugin: Deployment, race: str, record_property: pytest.RecordProperty
) -> None:
    """How many are lost is chance, and reported at the end of the run."""
    prefill, _ = without_plugin.pair()
    lost = prefill.race(race, 0, TRIALS)
    record_property("races", f"{race}: {lost} of {TRIALS} without the plugin")
    assert prefill.errors() == []


@pytest.mark.parametrize("race", RACES)
def test_races_with_plugin_are_never_lost(with_plugin: Deployment, tables: dict[str, StatusStore], race: str) -> None:
    prefill, _ = with_plugin.pair()
    assert prefill.race(race, 0, TRIALS) == 0
    assert prefill.errors() == []
    left = TRIALS if race == "failed lost" else 0
    until(lambda: sum(tables["prefill"].counts().values()), left)
