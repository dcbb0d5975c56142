"""python -OO strips docstrings and asserts: nothing relies on them at run time."""

from __future__ import annotations

import subprocess
import sys

import pytest

IMPORT_ALL = """
import importlib, pkgutil, redis_kvpoll
for module in pkgutil.walk_packages(redis_kvpoll.__path__, "redis_kvpoll."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
[getattr(redis_kvpoll, name) for name in redis_kvpoll.__all__]
"""
USE = """
import asyncio
from redis_kvpoll import AsyncStatusStore, InvalidInputError, StatusStore
with StatusStore.from_url("embedded://", shards=2) as store:
    with store.open(1) as room, store.mirror() as mirror, store.lease("me"):
        room.update(3)
        assert_ = mirror.wait(1, 3), store.wait(1, 3), store.owners(), store.history(1), store.counts()
    try:
        store.update_status("x", 1)
    except InvalidInputError as error:
        print(error)
async def use():
    async with AsyncStatusStore.from_url("embedded://") as store:
        async with store.mirror() as mirror:
            await store.update_status(1, 1)
            print(mirror.get(1))
asyncio.run(use())
"""


def optimized(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-OO", *arguments], capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.parametrize(("code", "printed"), [(IMPORT_ALL, ""), (USE, "update_status: a room is an int")])
def test_package_works_without_docstrings_and_asserts(code, printed):
    done = optimized("-c", code)
    assert (done.returncode, done.stderr) == (0, "")
    assert printed in done.stdout


@pytest.mark.parametrize(
    "command", ["", *["abort", "acl", "clear", "history", "ls", "owners", "reap", "replay", "show", "tail"]]
)
def test_help_is_there_without_docstrings(command):
    """The short help, at least: click takes the long one from the docstring."""
    done = optimized("-m", "redis_kvpoll.cli", *command.split(), "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage: kvpoll" in done.stdout
