"""Packets: whatever is sent comes out whole, and whatever is invalid is noticed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redis_kvpoll.agent import frames
from tests.support.fuzzing import examples

SIZES = st.sampled_from([0, 1, frames.PIECE - 1, frames.PIECE, frames.PIECE + 1, 2 * frames.PIECE, 100_000])


@examples(100)
@given(st.lists(st.tuples(st.integers(0, 255), SIZES.map(lambda n: bytes(n % 251 for n in range(n)))), max_size=4))
def test_messages_come_out_as_they_went_in(messages):
    assembler = frames.Assembler()
    packets = [packet for kind, payload in messages for packet in frames.packets(kind, payload)]
    assert all(0 < len(packet) <= frames.PIECE + frames.HEADER.size for packet in packets)
    assert [found for packet in packets if (found := assembler.add(packet))] == messages


@pytest.mark.parametrize(
    "packets",
    [
        [b""],
        [b"\x01"],
        [b"\x01\x02"],
        [b"\x01\x01first", b"\x02\x00another kind"],
        [b"\x01\x01" + bytes(60_000)] * (frames.MAX_MESSAGE // 60_000 + 1),
    ],
)
def test_an_invalid_packet_is_noticed(packets):
    assembler = frames.Assembler()
    with pytest.raises(frames.FrameError):
        list(map(assembler.add, packets))


def test_a_message_that_is_too_long_is_not_cut():
    with pytest.raises(frames.FrameError, match=r"4,194,305 bytes; at most 4,194,304"):
        list(frames.packets(1, bytes(frames.MAX_MESSAGE + 1)))


@examples(100)
@given(st.binary(max_size=60))
def test_any_bytes_are_a_hello_or_an_error(message):
    for kind in (frames.Hello, frames.Welcome):
        try:
            found = kind.unpack(message)
        except frames.FrameError:
            continue
        assert found.pack() == message


@pytest.mark.parametrize(
    ("theirs", "ours", "version"),
    [((1, 1), (1, 1), 1), ((1, 2), (2, 3), 2), ((2, 5), (1, 4), 4), ((1, 1), (2, 2), None), ((3, 4), (1, 2), None)],
)
def test_the_highest_common_version_is_spoken(theirs, ours, version):
    assert frames.common_version(theirs, ours) == version
