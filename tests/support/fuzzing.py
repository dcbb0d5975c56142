"""Junk, and how much of it: the same examples every time, or with HYPOTHESIS_PROFILE=long many and new ones."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from redis_kvpoll import KVPoll

LONG = os.environ.get("HYPOTHESIS_PROFILE") == "long"
_PHASES = [phase for phase in Phase if phase is not Phase.explain]
# Servers are fixtures and outlive an example, which empties them itself.
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


HUGE = 10**5000
"""More digits than Python prints."""


class Index:
    """Like numpy's integers: no int, but it has __index__."""

    def __init__(self, value):
        self.value = value

    def __index__(self):
        return self.value


class Hostile:
    def __index__(self):
        raise ValueError("no")

    def __repr__(self):
        raise RuntimeError("no")


class NoDimensions:
    """A numpy array of spec (): it has __iter__, which raises."""

    def __iter__(self):
        raise TypeError("iteration over a 0-d array")


class NoTruth:
    """Like a numpy array: what it is compared with gives no truth value."""

    def __eq__(self, other):
        return self

    def __hash__(self):
        return 0

    def __bool__(self):
        raise ValueError("the truth value of an array is ambiguous")


ODD = {"many digits": 10**400, "index": Index(1), "bad index": Index(-1), "hostile": Hostile(), "0-d": NoDimensions()}
ODD |= {"status": KVPoll.Failed, "class": object, "policy": "compat"}
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(2**62, 2**65),
    st.floats(),
    st.text(max_size=8),
    st.binary(max_size=8),
    st.sampled_from(sorted(ODD)).map(lambda name: ODD[name]),  # by name, since hypothesis prints what it chooses from
)
junk = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.integers(-1, 5) | st.text(max_size=2), inner, max_size=3)
    ),
    max_leaves=4,
)
