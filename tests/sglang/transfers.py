"""Decode's own queue of transfers, which holds and releases pages, without the pages: a list has what was released."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest import mock

from torch import distributed

from tests.sglang.admission import decode


class Transfers:
    """The requests of one decode manager that have asked prefill for their pages, as its scheduler has them."""

    def __init__(self) -> None:
        self.released: list[int] = []
        distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
        decode.release_kv_cache = lambda req, *_, **__: self.released.append(req.bootstrap_room)
        decode.prepare_abort = _ignore  # tells the client
        variables = decode.envs
        queue = self._queue = object.__new__(decode.DecodeTransferQueue)
        vars(queue).update(
            queue=[],
            gloo_group=distributed.group.WORLD,
            enable_staging=False,
            enable_host_receive=False,
            tp_rank=0,
            tree_cache=None,
            _deferred_releases=[],
            enable_deferred_kv_release=variables.SGLANG_DISAGGREGATION_DEFERRED_DECODE_KV_RELEASE.get(),
            deferred_kv_release_timeout=variables.SGLANG_DISAGGREGATION_DEFERRED_DECODE_KV_RELEASE_TIMEOUT.get(),
            metadata_buffers=SimpleNamespace(clear_slot=_ignore),
            req_to_metadata_buffer_idx_allocator=SimpleNamespace(free=_ignore),
            _clean_hicache_prefetch_resources=_ignore,
            scheduler=SimpleNamespace(
                enable_decode_hicache=False,
                enable_hisparse=False,
                metrics_reporter=SimpleNamespace(enable_metrics=False),
                output_streamer=SimpleNamespace(stream_output=_ignore),
            ),
        )

    def add(self, room: int, receiver: Any) -> None:
        """Add a request, as the scheduler does once it has asked prefill for the pages."""
        req = SimpleNamespace(
            rid=str(room), bootstrap_room=room, bootstrap_host="h", return_logprob=False, finished_reason=None
        )
        self._queue.queue.append(
            SimpleNamespace(
                req=req,
                kv_receiver=receiver,
                metadata_buffer_index=room,
                hicache_restore_status=None,
                host_staged=False,
            )
        )

    def iterate(self, failed_elsewhere: tuple[int, ...]) -> dict[str, Any]:
        """Do one iteration of the scheduler; return which requests go on, which are held, and which were released.

        SGLang takes the minimum of what all ranks poll. Here another rank polls Failed for some rooms.
        """
        poll = decode.DecodeTransferQueue._poll_with_metadata_gate

        def poll_with_another_rank(queue: Any) -> list[int]:
            polls = zip(queue.queue, poll(queue), strict=True)
            return [0 if item.req.bootstrap_room in failed_elsewhere else status for item, status in polls]

        self._queue.resolve_deferred_releases()
        with mock.patch.object(decode.DecodeTransferQueue, "_poll_with_metadata_gate", poll_with_another_rank):
            self._queue.pop_transferred()
        held = {item.req.bootstrap_room: limit - begun for item, begun, limit, *_ in self._queue._deferred_releases}
        return {
            "on": [item.req.bootstrap_room for item in self._queue.queue],
            "held": {str(room): round(seconds) for room, seconds in held.items()},
            "released": self.released,
        }


def _ignore(*_: Any, **__: Any) -> None:
    pass
