"""How long a release's own queue holds pages: the hook on it changes the limit of an entry, and nothing else."""

from __future__ import annotations

import ast
import os
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from redis_kvpoll.integrations.sglang import holds
from redis_kvpoll.integrations.sglang.pages import release_time
from tests.sglang.releases.conftest import FILES

HOLD, WAITING = 30.0, 300.0


@pytest.fixture
def defer_release() -> Callable[..., Any]:
    """The method of the release's source that begins to hold pages; the module imports a whole scheduler."""
    source = (Path(os.environ[FILES]) / "sglang/srt/disaggregation/decode.py").read_text()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef) and node.name == "_defer_release":
            found: dict[str, Any] = {"time": time, "DecodeRequest": object}
            exec(compile(ast.Module([node], []), "decode.py", "exec"), found)  # noqa: S102 - SGLang's own
            method: Callable[..., Any] = found["_defer_release"]
            return method
    pytest.skip("it holds no pages")


def test_limit_alone_is_changed(defer_release: Callable[..., Any]) -> None:
    queue = SimpleNamespace(
        deferred_kv_release_timeout=HOLD,
        enable_host_receive=False,
        _deferred_releases=[],
        _is_host_destination=lambda _: False,
    )
    failures = SimpleNamespace(can_hold=True, mark_prolonged=lambda _: True)
    receiver = SimpleNamespace(
        kv_mgr=SimpleNamespace(kvpoll_failures=failures, waiting_timeout=WAITING),
        bootstrap_infos=[{}, {}],
        abort_notified=True,
        init_time=time.time(),
        kvpoll_failed_at=time.monotonic(),
    )
    request = SimpleNamespace(kv_receiver=receiver, metadata_buffer_index=3, host_staged=False)
    defer_release(queue, request)
    holds.around_defer(defer_release, queue, request)
    before, after = queue._deferred_releases
    assert failures.can_hold
    assert (after[0], *after[holds.LIMIT + 1 :]) == (request, 3, 2)
    assert before[holds.LIMIT] <= time.monotonic() + HOLD < after[holds.LIMIT] <= release_time(None, WAITING, HOLD)
    assert len(before) == len(after)
