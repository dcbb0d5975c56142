"""Owners continue to work while their server is killed with all data: in the end the table is complete."""

from __future__ import annotations

from bench import recovery
from tests.support.fuzzing import LONG


def test_table_is_complete_after_losses_under_load():
    """Counted room by room; cleared rooms stay cleared. The benchmark measures how long it takes."""
    owners, rooms = (4, 10_000) if LONG else (3, 700)
    found = recovery.recover(owners, rooms)
    assert found._replace(seconds=0, changes=0, plain_seconds=0) == recovery.Recovery(
        owners * rooms * 9 // 10, *[0] * 6
    )
    assert found.changes > 0
