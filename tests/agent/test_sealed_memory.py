"""The memory that an agent shares with each process; also where Python, or the host, has none."""

from __future__ import annotations

import contextlib
import ctypes
import os

import pytest

from redis_kvpoll.agent.server.sealed_memory import sealed_memory
from tests.agent.application import ECHO
from tests.support.real import until

SIZE = 4096


@pytest.fixture(params=["in Python", "older glibc"])
def memory(request, monkeypatch):
    if request.param == "older glibc":  # with which Python was built
        monkeypatch.delattr(os, "memfd_create", raising=False)
    descriptor = sealed_memory(SIZE)
    yield descriptor
    os.close(descriptor)


def test_nobody_can_change_its_size(memory):
    for size in (0, 2 * SIZE):
        with pytest.raises(PermissionError):
            os.ftruncate(memory, size)
    assert os.fstat(memory).st_size == SIZE


def test_no_other_program_inherits_it(memory):
    assert not os.get_inheritable(memory)


def test_without_any_it_is_an_oserror(monkeypatch):
    """The agent goes on without it, so nothing else may be raised."""
    monkeypatch.delattr(os, "memfd_create", raising=False)
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: object())
    with pytest.raises(OSError, match="memfd_create"):
        sealed_memory(SIZE)


@pytest.mark.parametrize("function", ["make_without_memfd_in_python", "make_without_memfd"])
def test_a_process_is_served_without_it(engine, function):
    here = engine.channel(source=engine.launcher(function))
    here.send(ECHO, b"x")
    until(lambda: here.messages() == [b"x"], "the echo")
    with contextlib.closing(here.channel):
        assert here.channel.is_connected
