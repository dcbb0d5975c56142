"""Requests through SGLang's own queues, which make their senders and receivers.

The modules of the queues import the whole scheduler, of which the queues need nothing here.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest import mock

from tests.sglang.managers import Receiver, Sender
from tests.sglang.releases import imports

with imports.alone("sglang.srt.disaggregation.decode", "sglang.srt.disaggregation.prefill"):
    from sglang.srt.disaggregation import decode, prefill


def prefill_queue(manager: Any) -> Any:
    """Return prefill's queue of requests to be bootstrapped, without its scheduler."""
    queue = object.__new__(prefill.PrefillBootstrapQueue)
    vars(queue).update(kv_manager=manager, queue=[], transfer_backend=None, bootstrap_port=manager.bootstrap_port)
    queue._check_if_req_exceed_kv_capacity = lambda _: False
    queue._process_req = lambda _: None
    return queue


def decode_queue(manager: Any) -> Any:
    """Return decode's queue of requests that wait for memory, without its scheduler."""
    queue = object.__new__(decode.DecodePreallocQueue)
    vars(queue).update(kv_manager=manager, queue=[], transfer_backend=None)
    return queue


def admit(queue: Any, room: int, request: str, address: str) -> Any:
    """Admit a request; return its sender or receiver."""
    host, port = address.split(":")
    req = SimpleNamespace(
        rid=request,
        bootstrap_room=room,
        bootstrap_host=host,
        bootstrap_port=int(port),
        disagg_prefill_dp_rank=None,
        to_finish=None,
    )
    if isinstance(queue, prefill.PrefillBootstrapQueue):
        # The transfer engine's class and the check of a rejected request are all that is replaced.
        with (
            mock.patch.object(prefill, "get_kv_class", return_value=Sender),
            mock.patch.object(prefill, "is_unadmitted_reject", return_value=False),
        ):
            queue.add(req, 1)
        return req.disagg_kv_sender
    with mock.patch.object(decode, "get_kv_class", return_value=Receiver):
        receiver = queue._create_receiver_and_enqueue(req).kv_receiver
    receiver.init(0)
    return receiver
