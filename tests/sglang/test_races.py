"""Threads of one process that meet in one manager, held up between the lines of SGLang's own code."""

from __future__ import annotations

import pytest

from redis_kvpoll import StatusStore
from tests.sglang.crew import Crew, soon

TRIALS = 400
RACES = ("failed lost", "revived", "key error")


@pytest.mark.parametrize("race", RACES)
def test_on_its_own_sglang_loses_some(alone: Crew, race: str, record_property: pytest.RecordProperty) -> None:
    """How many is chance, and told at the end of the run."""
    prefill, _ = alone.pair()
    lost = prefill.race(race, 0, TRIALS)
    record_property("races", f"{race}: {lost} of {TRIALS} without the plugin")
    assert prefill.errors() == []


@pytest.mark.parametrize("race", RACES)
def test_with_the_plugin_no_race_is_lost(plugged: Crew, tables: dict[str, StatusStore], race: str) -> None:
    prefill, _ = plugged.pair()
    assert prefill.race(race, 0, TRIALS) == 0
    assert prefill.errors() == []
    left = TRIALS if race == "failed lost" else 0
    soon(lambda: sum(tables["prefill"].counts().values()), left)
