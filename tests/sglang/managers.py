"""Real SGLang managers in this process, without a model or a GPU: only the transfer of bytes is left out.

Needs SGLang (``make test-sglang``). Nothing here imports the plugin, which SGLang finds by itself::

    settings = Settings("prefill", port)
    CommonKVBootstrapServer(HOST, port)
    manager = PrefillManager(settings)
    sender = Sender(manager, f"127.0.0.1:{port}", room)
"""

from __future__ import annotations

import queue
import threading
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy
from sglang.srt.disaggregation.base.conn import KVArgs, KVPoll
from sglang.srt.disaggregation.common.conn import (
    CommonKVBootstrapServer,
    CommonKVManager,
    CommonKVReceiver,
    CommonKVSender,
)
from sglang.srt.disaggregation.nixl.conn import NixlKVManager
from sglang.srt.disaggregation.utils import DisaggregationMode
from sglang.srt.runtime_context import SpawnRanks, get_parallel, publish
from sglang.srt.server_args import ServerArgs

HOST = "127.0.0.1"
PAGES = numpy.arange(2, dtype=numpy.int32)
"""The pages of each request."""

__all__ = [
    "HOST",
    "PAGES",
    "CommonKVBootstrapServer",
    "DecodeManager",
    "KVPoll",
    "PrefillManager",
    "Receiver",
    "Sender",
    "Settings",
]


@dataclass(frozen=True)
class Settings:
    """One process of an instance, as SGLang's arguments describe it."""

    role: str
    bootstrap_port: int
    port: int = 30000
    tp_size: int = 1
    tp_rank: int = 0
    pp_size: int = 1
    pp_rank: int = 0
    pp_port: int = 0
    """Where pipeline rank 0 waits for the others; for ``pp_size`` above 1."""

    def publish(self) -> ServerArgs:
        """Make this the process's configuration, as SGLang's launcher does; then its manager can be made.

        A process has one: of two managers in one process, each is made right after its own has been published.
        """
        server_args = ServerArgs(
            model_path="dummy",
            host=HOST,
            port=self.port,
            tp_size=self.tp_size,
            pp_size=self.pp_size,
            page_size=1,
            disaggregation_mode=self.role,
            disaggregation_bootstrap_port=self.bootstrap_port,
        )
        get_parallel().clear_stamp()
        publish(server_args, role="scheduler", ranks=SpawnRanks(world_rank=self.pp_rank * self.tp_size + self.tp_rank))
        get_parallel().override_permanently(pp_group=self._pp_group())
        return server_args

    def _pp_group(self) -> Any:
        """SGLang's own group, over gloo; only its ``broadcast_object`` is used."""
        if self.pp_size == 1:
            return None
        from sglang.srt.distributed.parallel_state import GroupCoordinator, init_distributed_environment

        init_distributed_environment(
            world_size=self.pp_size,
            rank=self.pp_rank,
            distributed_init_method=f"tcp://{HOST}:{self.pp_port}",
            local_rank=0,
            backend="gloo",
            timeout=600,
        )
        return GroupCoordinator(
            group_ranks=[list(range(self.pp_size))],
            local_rank=0,
            torch_distributed_backend="gloo",
            use_pynccl=False,
            use_mscclpp=False,
            use_custom_allreduce=False,
            use_torch_symm_mem_all_reduce=False,
            use_hpu_communicator=False,
            use_xpu_communicator=False,
            group_name="pp",
        )

    def kv_args(self) -> KVArgs:
        """The description of a cache of no layers."""
        args = KVArgs()
        for name in ("kv_data_ptrs", "kv_data_lens", "kv_item_lens", "kv_layer_ids", "aux_data_ptrs", "aux_data_lens"):
            setattr(args, name, [])
        for name in ("aux_item_lens", "state_types", "state_data_ptrs", "state_data_lens", "state_item_lens"):
            setattr(args, name, [])
        args.engine_rank = self.tp_rank
        args.kv_cache_dtype_str = "bfloat16"
        args.is_hybrid_mla_backend = False
        args.page_size = 1
        args.system_dp_rank = 0
        args.pp_rank = self.pp_rank
        args.prefill_start_layer = 0
        return args


class _Backend(CommonKVManager):
    """The threads of a backend. An exception ends a thread of SGLang's for good; here it is also recorded."""

    kv_status_msg_carries_reason = True
    supports_deferred_decode_kv_release = True

    def __init__(self, settings: Settings) -> None:
        self.errors: list[str] = []
        super().__init__(settings.kv_args(), DisaggregationMode(settings.role), settings.publish())

    def _start(self, loop: Any) -> None:
        def run() -> None:
            try:
                loop()
            except Exception as error:
                self.errors.append(f"{loop.__name__}: {error!r}")
                raise

        threading.Thread(target=run, daemon=True).start()


class PrefillManager(_Backend):
    """Receives decode's messages and transfers nothing, in threads like mooncake's. It handles an abort as nixl's."""

    _handle_deferred_abort_ack = NixlKVManager._handle_deferred_abort_ack

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.aborts: list[int] = []
        """The rooms that decode has aborted."""
        self.queue: queue.Queue[int] = queue.Queue()
        self._start(self._bootstrap_thread)
        self._start(self._transfer_worker)

    def _bootstrap_thread(self) -> None:
        receive = self._make_worker_recv(self.server_socket)
        while True:
            message = receive()
            if NixlKVManager._handle_abort_notification(self, message):
                self.aborts.append(int(message[1]))
            elif message[0] != b"None":
                room, endpoint, port, prefix = int(message[0]), message[1].decode(), int(message[2]), int(message[3])
                info = SimpleNamespace(endpoint=endpoint, dst_port=port, is_dummy=False)
                self.transfer_infos[room] = {f"{endpoint}:{port}": info}
                self.req_to_decode_prefix_len[room] = prefix
                self.update_status(room, KVPoll.WaitingForInput)

    def _transfer_worker(self) -> None:
        while True:
            room = self.queue.get()
            if room not in self.request_status or self.check_status(room) == KVPoll.Failed:
                continue
            self.update_status(room, KVPoll.Transferring)
            self.conclude_transfer(bootstrap_room=room, status=KVPoll.Success)

    def add_transfer_request(self, bootstrap_room: int, *_: Any, **__: Any) -> None:
        """Called by ``sender.send``."""
        if bootstrap_room not in self.request_status or self.check_status(bootstrap_room) == KVPoll.Failed:
            return
        if bootstrap_room in self.transfer_infos:
            self.queue.put(bootstrap_room)


class DecodeManager(_Backend):
    """Receives prefill's messages, in a thread like mooncake's."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._start(self._decode_thread)

    def _decode_thread(self) -> None:
        receive = self._make_worker_recv(self.server_socket)
        while True:
            message = receive()
            if self.handle_abort_ack_message(message):
                continue
            parsed = self.parse_kv_status_message(message)
            if parsed is not None:
                room, status, rank, reason = parsed
                self.apply_prefill_status(bootstrap_room=room, status=status, prefill_rank=rank, failure_reason=reason)

    def build_receiver_registration_message(self) -> list[bytes]:
        return [b"None"]

    def build_receiver_metadata_message(self, **words: Any) -> list[bytes]:
        prefix = words["decode_prefix_len"] or 0
        return [str(word).encode() for word in (words["bootstrap_room"], self.local_ip, self.rank_port, prefix)]


class Sender(CommonKVSender):
    """Prefill's side of a request."""


class Receiver(CommonKVReceiver):
    """Decode's side of a request."""
