"""The entry point: what it loads, since SGLang imports it in every one of its processes."""

from __future__ import annotations

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

from redis_kvpoll.integrations.sglang import plugin
from tests.support import pace
from tests.support.standin import manager

MAX_OWN_MODULES = 17
"""The package, its errors, model and rule of statuses, and the plugin's entry point, checks, hooks and their parts."""
LIST_MODULES = """
import json, sys
{statement}
print(json.dumps(sorted(sys.modules)))
"""


def modules_loaded_by(statement: str) -> set[str]:
    """Return the modules of a fresh interpreter after a statement, without those that it starts with."""
    loaded = []
    for code in ("", statement):
        command = [sys.executable, "-c", LIST_MODULES.format(statement=code)]
        done = subprocess.run(command, capture_output=True, check=True, timeout=pace.seconds(60))
        loaded.append(set(json.loads(done.stdout)))
    return loaded[1] - loaded[0]


@pytest.mark.parametrize(
    "statement",
    [
        "from redis_kvpoll.integrations.sglang import register",
        "from redis_kvpoll.integrations.sglang import register; register()",
    ],
    ids=["imported", "called without KVPOLL_URL"],
)
def test_entry_point_loads_no_redis_and_no_asyncio(monkeypatch, statement):
    monkeypatch.delenv("KVPOLL_URL", raising=False)
    loaded = modules_loaded_by(statement)
    assert not loaded & {"redis", "asyncio", "fakeredis"}
    own = {name for name in loaded if name.partition(".")[0] == "redis_kvpoll"}
    assert len(own) <= MAX_OWN_MODULES, own


def test_process_on_the_table_loads_no_redis_and_no_asyncio():
    """The agent has them. This is what SGLang's process imports when it joins."""
    loaded = modules_loaded_by("import redis_kvpoll.integrations.sglang.install")
    assert not loaded & {"redis", "asyncio", "fakeredis", "hiredis", "ssl", "concurrent"}
    assert not {name for name in loaded if name.startswith(("redis_kvpoll.aio", "redis_kvpoll.sync"))}


def test_hook_in_incomplete_installation_logs_one_error(monkeypatch, caplog):
    """The import that fails there must not fail SGLang's start."""
    monkeypatch.setitem(sys.modules, "redis_kvpoll.integrations.sglang.install", None)
    sglang = manager()
    plugin.after_init(None, sglang)
    assert type(sglang.request_status) is dict
    (line,) = caplog.records
    assert "install redis-kvpoll again" in line.getMessage()


def test_stage_in_incomplete_installation_answers_the_others(monkeypatch):
    """Each stage of a pipeline waits for all, and would wait for ever."""
    monkeypatch.setitem(sys.modules, "redis_kvpoll.integrations.sglang.install", None)
    answers = {}
    group = SimpleNamespace(broadcast_object=lambda value, src: answers.setdefault(src, value))
    store = SimpleNamespace(collect=lambda room: [])
    plugin.after_init(None, manager(pp_size=3, pp_rank=1, pp_group=group, request_status=store))
    assert answers == {0: None, 1: False, 2: None}
