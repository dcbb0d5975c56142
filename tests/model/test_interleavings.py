"""Every interleaving of a few processes on one room, over the real Lua: all invariants hold after every step.

The short form is 3 processes x 2 operations; HYPOTHESIS_PROFILE=long makes it 3 x 3. That the explorer would find what
it looks for is shown by putting faults into the scripts.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.fuzzing import LONG
from tests.model import settings
from tests.model.explorer import Explorer

EACH = 3 if LONG else 2
SETTINGS = {
    "plain": settings.plain,
    "fenced": settings.fenced,
    "loss": lambda policy, each: settings.lossy(policy, each, lost=int(LONG)),
    "loss, the clock behind": lambda policy, each: settings.lossy(policy, each, is_behind=True),
    "2 ranks": settings.ranked,
    "2 ranks and an operator": lambda policy, each: settings.ranked(policy, each, third=2),
    "2 ranks, loss": settings.ranked_lossy,
}


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("policy", ["compat", "strict"])
def test_nothing_that_can_happen_breaks_a_promise(name, policy, record_property):
    report = Explorer(SETTINGS[name](policy, EACH)).explore()
    print(f"{name}, {policy}: {report}")
    record_property("states", report.states)
    assert report.violation is None, str(report)
    # Fewer would mean that the processes could no longer do what they are to be tried with.
    assert report.states > 10_000
