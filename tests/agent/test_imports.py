"""What a client's part imports: it runs inside an engine's process, which must not pay for a Redis client."""

from __future__ import annotations

import subprocess
import sys

import pytest

CLIENT_MODULES = (
    *("frames", "link", "rendezvous", "ring", "shared_memory"),
    *("client.channel", "client.failures", "client.launch", "client.patience", "client.source", "client.waiter"),
)
LOAD = "import sys; import redis_kvpoll.agent.{}; print(*sorted(sys.modules))"


@pytest.mark.parametrize("module", CLIENT_MODULES)
def test_a_client_imports_next_to_nothing(module):
    """Neither asyncio nor redis, and of the package the client's modules alone."""
    found = subprocess.run(
        [sys.executable, "-I", "-c", LOAD.format(module)], capture_output=True, text=True, check=True
    )
    loaded = set(found.stdout.split())
    assert not loaded & {"asyncio", "redis", "hiredis", "ssl", "concurrent", "multiprocessing", "click", "rich"}
    ours = {name for name in loaded if name.startswith("redis_kvpoll.")}
    allowed = {f"redis_kvpoll.agent.{name}" for name in CLIENT_MODULES}
    assert ours <= {"redis_kvpoll._fork", "redis_kvpoll.agent", "redis_kvpoll.agent.client", *allowed}
    assert len(loaded) < 130


def test_an_agent_leaves_its_client_before_it_imports_much():
    """Its client waits for that."""
    found = subprocess.run(
        [sys.executable, "-I", "-c", LOAD.format("__main__")], capture_output=True, text=True, check=True
    )
    assert not set(found.stdout.split()) & {"asyncio", "redis", "logging", "socket"}
