"""The suite has teeth: faults that were put into the scripts and the client on purpose, each caught by some test."""

from __future__ import annotations

import pytest

from tests import faulty

FAULTS = [
    ("update.lua", "redis.call('PEXPIRE', room, ttl_ms)", "", "test_table.py::TestUpdate::test_plain_ints_are_statuses[sync-fakeredis]"),
]


@pytest.mark.parametrize(("where", "good", "bad", "test"), FAULTS)
def test_a_fault_is_caught(where, good, bad, test):
    twice = faulty.run_twice(f"tests/{test}", where, good, bad)
    assert twice.ran == 1, "no such test, or several"
    assert not twice.sound, "it fails without the fault, too:\n" + "\n".join(twice.sound)
    assert twice.errors, "nothing was noticed"
    assert isinstance(twice.errors[0], AssertionError | pytest.fail.Exception), repr(twice.errors[0])
