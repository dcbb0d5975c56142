"""The ring alone, over memory of this process: what is written is read, in order, whatever happens in between."""

from __future__ import annotations

import os
import threading
from collections import deque
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redis_kvpoll.agent import frames, ring, shared_memory
from redis_kvpoll.agent.ring import HEAD_BYTES, RING_BYTES, SIZE, SLEEP_WORD, TAIL_WORD, RingReader, RingWriter
from redis_kvpoll.agent.server import sealed_memory
from tests.support.interrupts import Interrupted, every_place, interrupted_at

WHERE = ("redis_kvpoll/agent/ring",)
PAYLOADS = st.integers(0, frames.PIECE) | st.integers(0, 100)


class Memory:
    """Both ends of a ring."""

    def __init__(self):
        self.bytes = bytearray(RING_BYTES)
        self.page = memoryview(bytearray(4096)).cast("Q")
        self.lock, self.unsent = threading.Lock(), deque()
        self.on_wake = lambda: None
        view = memoryview(self.bytes)
        self.head = view[:8].cast("Q")
        self.writer = RingWriter(view, self.page, self.lock, self.unsent, lambda: self.on_wake())
        self.reader = RingReader(view, self.page)

    def read(self, most=None):
        """The packets that are there, or some of them."""
        head, found = self.reader.published(), []
        while len(found) != most and (packet := self.reader.take(head)) is not None:
            found.append(packet)
        return found


@pytest.fixture
def memory():
    return Memory()


def payload(number, size):
    return (b"%d " % number * size)[:size]


@given(
    st.lists(
        st.tuples(st.just("write"), st.integers(0, 255), PAYLOADS)
        | st.tuples(st.just("put"), st.integers(0, 255), PAYLOADS)
        | st.tuples(st.just("read"), st.integers(0, 40), st.none()),
        max_size=60,
    )
)
def test_what_is_written_is_read_in_order(actions):
    """By writes and reads in any order, around the ring's end, and while it is full."""
    memory, written = Memory(), deque()
    for number, (action, value, size) in enumerate(actions):
        if action == "read":
            assert memory.read(value) == [written.popleft() for _ in range(min(value, len(written)))]
            continue
        packet = bytes([value, 0]) + payload(number, size)
        is_written = memory.writer.write(value, packet[2:]) if action == "write" else memory.writer.put(packet)
        assert is_written or not memory.writer.has_room
        written.extend([packet] if is_written else [])
    assert memory.read() == list(written)
    assert memory.writer.has_room


@pytest.mark.parametrize("size", [0, 5, 60, 1000, frames.PIECE])
def test_full_ring_refuses_until_it_is_read(memory, size):
    """Also many rounds later."""
    for _ in range(5):
        count = 0
        while count <= SIZE // 8 and memory.writer.write(7, bytes(size)):
            count += 1
        assert SIZE - 2 * (size + 12) < count * (size + 12) <= SIZE + 8 * count
        assert not memory.writer.has_room
        assert memory.read() == [bytes([7, 0]) + bytes(size)] * count
        assert memory.writer.has_room
        assert memory.writer.write(1, b"shifts the next round")
        assert len(memory.read()) == 1


def test_room_for_any_packet_is_said_only_if_there_is(memory):
    """Wherever the ring's end is."""
    largest = bytes(frames.PIECE)
    for _ in range(2 * SIZE // 24):
        assert memory.writer.write(1, b"twenty bytes of data")
        assert len(memory.read()) == 1
        before = memory.head[0]
        while memory.writer.has_room:
            assert memory.writer.write(2, largest)
        assert memory.head[0] > before
        memory.read()


@pytest.mark.parametrize("refusal", ["another thread writes", "a message has begun", "it is too large"])
def test_write_refuses_at_once(memory, refusal):
    """``write`` is for whole messages of one packet alone; the rest of a message goes first, by ``put``."""
    size = 5
    if refusal == "another thread writes":
        memory.lock.acquire()
    elif refusal == "a message has begun":
        memory.unsent.append(b"a piece")
    else:
        size = frames.PIECE + 1
    assert not memory.writer.write(1, bytes(size))
    assert memory.read() == []
    assert memory.lock.locked() is (refusal == "another thread writes")


def test_sleeping_reader_is_woken_after_the_write(memory):
    """And outside of the lock: whoever wakes it must be able to send."""
    states = []
    memory.page[SLEEP_WORD] = 1
    memory.on_wake = lambda: states.append((memory.lock.locked(), len(memory.read())))
    assert memory.writer.write(1, b"x")
    assert states == [(False, 1)]
    memory.page[SLEEP_WORD] = 0
    assert memory.writer.write(1, b"x")
    assert len(states) == 1


class TestInterrupted:
    @pytest.mark.parametrize("before", [0, SIZE - 24], ids=["", "at the ring's end"])
    def test_exception_at_any_place_leaves_a_record_or_none(self, before):
        def interrupt(number):
            memory = shifted(before)

            def handler():
                raise Interrupted

            was_interrupted = interrupted_at(number, lambda: memory.writer.write(1, b"first" * 8), handler, WHERE)
            if memory.lock.locked():  # for ever: its connection is given up
                memory.lock.release()
            assert memory.writer.write(2, b"second")
            assert whole(memory) in ([b"\1\0" + b"first" * 8, b"\2\0second"], [b"\2\0second"])
            return was_interrupted

        every_place(interrupt, at_least=5)

    @pytest.mark.parametrize("before", [0, SIZE - 24], ids=["", "at the ring's end"])
    def test_a_fork_at_any_place_leaves_the_ring_to_the_parent(self, before):
        """The child closes its end, in the middle of a write that it has inherited, which then changes nothing."""

        def interrupt(number):
            memory, seen = shifted(before), []

            def handler():
                memory.writer.close()
                seen.append(bytes(memory.bytes))

            was_interrupted = interrupted_at(number, lambda: memory.writer.write(1, b"first" * 8), handler, WHERE)
            assert not seen or bytes(memory.bytes) == seen[0]
            memory.writer.close()
            assert not memory.writer.write(2, b"second")
            assert not memory.writer.put(b"\2\0second")
            memory.writer.wake_reader()
            return was_interrupted

        every_place(interrupt, at_least=5)

    def test_handler_that_writes_is_refused_or_written_whole(self):
        """It never waits for the thread below it."""

        def interrupt(number):
            memory, inner = Memory(), []

            def handler():
                inner.append(memory.writer.write(2, b"inner"))

            was_interrupted = interrupted_at(number, lambda: memory.writer.write(1, b"outer"), handler, WHERE)
            assert sorted(memory.read()) == [b"\1\0outer"] + [b"\2\0inner"] * sum(inner)
            return was_interrupted

        every_place(interrupt, at_least=5)


def whole(memory):
    """What is read of a ring in which no record may be in parts."""
    try:
        return memory.read()
    except frames.FrameError as error:
        pytest.fail(str(error))


def shifted(before):
    """A ring in which so many bytes were written and read."""
    memory = Memory()
    while memory.head[0] < before:
        memory.writer.write(0, bytes(min(before - memory.head[0] - 8, 4000)))
        memory.read()
    return memory


class TestHostile:
    """The reader believes nothing that the writer might have stored."""

    @pytest.mark.parametrize("head", [4, SIZE + 8, 2**63, 2**64 - 8])
    def test_head_that_cannot_be(self, memory, head):
        memory.head[0] = head
        with pytest.raises(frames.FrameError, match="the head at"):
            memory.read()

    def test_head_that_goes_back(self, memory):
        memory.writer.write(1, b"x")
        memory.read()
        memory.head[0] = 0
        assert memory.reader.has_new
        with pytest.raises(frames.FrameError):
            memory.read()

    @pytest.mark.parametrize(
        ("size", "head"),
        [(frames.PIECE + 3, SIZE), (2**16 - 1, SIZE), (7, 8), (0, 8), (0, SIZE - 8)],
        ids=["too large", "largest", "longer than what is written", "skips what is not written", "skips too much"],
    )
    def test_size_that_cannot_be(self, memory, size, head):
        memory.bytes[HEAD_BYTES : HEAD_BYTES + 2] = size.to_bytes(2, "little")
        memory.head[0] = head
        with pytest.raises(frames.FrameError, match="a record of"):
            memory.read()

    def test_record_that_crosses_the_end(self):
        memory = shifted(SIZE - 16)
        at = HEAD_BYTES + SIZE - 16
        memory.bytes[at : at + 2] = (100).to_bytes(2, "little")
        memory.head[0] = SIZE + 120
        with pytest.raises(frames.FrameError, match="a record of"):
            memory.read()

    @given(st.binary(min_size=0, max_size=200), st.integers(0, 300))
    def test_any_bytes_give_packets_or_an_error(self, data, head):
        memory = Memory()
        memory.bytes[HEAD_BYTES : HEAD_BYTES + len(data)] = data
        memory.head[0] = head
        try:
            packets = memory.read()
        except frames.FrameError:
            return
        assert sum(map(len, packets)) <= head

    def test_tail_that_the_writer_changes(self, memory):
        """It is told in memory that a process can write; the reader's own is elsewhere."""
        memory.writer.write(1, b"x")
        memory.page[TAIL_WORD] = 2**40
        assert memory.read() == [b"\1\0x"]
        assert memory.page[TAIL_WORD] == memory.head[0]


class TestMemory:
    @pytest.mark.parametrize(("machine", "has_ring"), [("x86_64", True), ("aarch64", False), ("ppc64le", False)])
    def test_ring_is_where_the_order_of_stores_is_kept(self, monkeypatch, machine, has_ring):
        """On both sides; elsewhere the memory is as large as before there were rings."""
        monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(machine=machine))
        descriptor, _, agents = sealed_memory.share()
        try:
            assert (agents is not None) is has_ring
            assert os.fstat(descriptor).st_size == 4096 + has_ring * RING_BYTES
            page, processs = shared_memory.attach(descriptor)
            assert page is not None
            assert (processs is not None) is has_ring
        finally:
            os.close(descriptor)

    def test_process_of_another_kind_uses_no_ring(self, monkeypatch):
        """A 32-bit one, whose stores of a word are two."""
        descriptor, _, _ = sealed_memory.share()
        monkeypatch.setattr(ring, "is_supported", lambda: False)
        page, found = shared_memory.attach(descriptor)
        os.close(descriptor)
        assert page is not None
        assert found is None

    def test_ring_that_cannot_be_mapped_leaves_the_page(self, monkeypatch):
        descriptor, _, _ = sealed_memory.share()
        mapped = shared_memory.mmap.mmap

        def limited(descriptor, length, *arguments, **options):
            if length > 4096:
                raise OSError("no memory")
            return mapped(descriptor, length, *arguments, **options)

        monkeypatch.setattr(shared_memory.mmap, "mmap", limited)
        page, found = shared_memory.attach(descriptor)
        os.close(descriptor)
        assert page is not None
        assert found is None

    def test_process_cannot_change_its_size_or_the_page(self):
        descriptor, agents, _ = sealed_memory.share()
        page, _ = shared_memory.attach(descriptor)
        for size in (0, 4096, 10**6):
            with pytest.raises(PermissionError):
                os.ftruncate(descriptor, size)
        os.close(descriptor)
        with pytest.raises(TypeError):
            page[0] = 1
        agents[0] = 5
        assert page[0] == 5
