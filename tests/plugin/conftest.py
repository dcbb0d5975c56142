"""What several tests of the plugin use."""

from __future__ import annotations

import pytest

from redis_kvpoll.integrations.sglang.registry import RoomRegistry


@pytest.fixture
def now():
    """The registry's clock, in seconds: a test sets its only item."""
    return [0.0]


@pytest.fixture
def registry(now):
    """The registry of a prefill worker, whose rooms wait for their senders."""
    registry = RoomRegistry(lambda: None, clock=lambda: now[0])
    registry.awaits_claims = True
    return registry
