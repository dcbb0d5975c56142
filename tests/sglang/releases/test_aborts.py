"""How a release's own receivers tell prefill to stop, for a request that another rank has failed."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from redis_kvpoll.agent.outbox import RoomLife
from redis_kvpoll.integrations.sglang import hooks
from redis_kvpoll.integrations.sglang.pages import knows_abort
from tests.sglang.releases.imports import BACKENDS
from tests.sglang.releases.managers import class_of, manager, receiver
from tests.support.told import ToldRegistry

ROOM, WAIT = 4711, 2


@pytest.mark.parametrize("backend", BACKENDS)
def test_prefill_is_told_and_the_room_does_not_fail_here(backend: str) -> None:
    """Where decode does not defer. In the table the room is over, by no failure of this rank's."""
    registry, sglang, sent = ToldRegistry(), manager(backend, "decode"), []
    sglang.enable_deferred_decode_kv_release = False
    sglang.request_status, sglang.failure_records = registry.statuses, registry.reasons
    sglang.update_status = registry.scoped(sglang.update_status)
    failed: Any = receiver(sglang, ROOM)
    failed.bootstrap_infos, failed.init_time = [{"rank_ip": "10.0.0.1", "rank_port": 40000}], 1.0
    failed._connect_to_bootstrap_server = lambda _: (SimpleNamespace(send_multipart=sent.append), threading.Lock())
    sglang.update_status(ROOM, WAIT)
    failed.kvpoll_life = registry.lives.get(ROOM)
    registry.told.take(ROOM)
    hooks.around_receiver_clear(class_of("common", "Receiver").clear, failed)
    assert len(sent) == knows_abort(failed)
    assert (registry.told.take(ROOM), dict(registry.reasons)) == (RoomLife(1, is_over=True), {})
