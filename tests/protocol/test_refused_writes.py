"""What the key of the refused writes says, as it is read: anything may have been written there by hand."""

from __future__ import annotations

import pytest

from redis_kvpoll.protocol import refused_writes


@pytest.mark.parametrize(
    ("shown", "room"),
    [("7", 7), ("0", 0), (str(2**64 - 1), 2**64 - 1), ("007", None), (str(2**64), None), ("abc", None), ("", None)],
)
def test_last_room_is_a_room_id_or_none(shown, room):
    found = refused_writes.parse([b"last", f"1795857217 stale {shown} prefill-0".encode()]).last
    assert (found.room, found.owner) == (room, "prefill-0")


def test_last_without_a_time_is_none():
    assert refused_writes.parse([b"last", b"now stale 7 prefill-0"]).last is None
