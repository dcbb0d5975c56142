"""How much hypothesis does: the same examples every time, or with HYPOTHESIS_PROFILE=long many and new ones."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, Phase, settings

LONG = os.environ.get("HYPOTHESIS_PROFILE") == "long"
_PHASES = [phase for phase in Phase if phase is not Phase.explain]
# Servers are fixtures and live longer than an example, which empties them itself.
_FINE = [HealthCheck.function_scoped_fixture, HealthCheck.differing_executors, HealthCheck.too_slow]


def examples(count):
    """Settings for ``count`` examples, fifty times as many when it may take long."""
    return settings(
        max_examples=count * 50 if LONG else count,
        derandomize=not LONG,
        database=None,
        deadline=None,
        phases=_PHASES,
        suppress_health_check=_FINE,
    )
