"""A worker's commands on pages: writes that are under way, failures of theirs, and decode's queue of transfers."""

from __future__ import annotations

import contextlib
import threading
from typing import Any

from sglang.srt.disaggregation.common.conn import KVTransferError

from tests.sglang.managers import PAGES, KVPoll
from tests.sglang.transfers import Transfers


class PageCommands:
    """Its methods without an underscore are commands of a Worker."""

    def __init__(self, manager: Any) -> None:
        self._manager = manager
        self._handles: dict[int, Any] = {}
        """The sender or the receiver of each room."""
        self._transfers: Transfers | None = None
        self._go = threading.Event()

    def set_outstanding(self, room: int, count: int) -> None:
        """Prefill: so many writes of a room are under way, as the transfer threads count them."""
        self._manager._staging_outstanding[room] = count

    def poison(self, room: int) -> None:
        """Prefill: a write of the room may never be known to have ended."""
        self._manager.poison_deferred_ack_room(room)

    def settle(self, room: int) -> None:
        """Prefill: the last write of the room has ended."""
        self._manager._staging_outstanding[room] = 0
        self._manager._maybe_ack_drained_abort(room)

    def hold_back(self, room: int) -> None:
        """Prefill: a write has failed, and another one of the room may go on: what nixl's worker does then."""
        self._manager._staging_outstanding[room] = 1
        self._manager.record_failure(room, "held back")
        self._manager.update_status(room, KVPoll.Failed)
        self._manager.poison_deferred_ack_room(room)

    def aborts(self) -> list[int]:
        """Prefill: return the rooms that decode has aborted."""
        return sorted(self._manager.aborts)

    def conclude_slowly(self, room: int, reason: str, has_sent: bool) -> None:
        """Prefill: conclude a failure. It waits for ``go_on`` once its message to decode is sent, or before."""
        send = self._manager.send_kv_status_message

        def send_slowly(**words: Any) -> None:
            if has_sent:
                send(**words)
            self._go.wait()
            if not has_sent:
                send(**words)

        words = {"bootstrap_room": room, "failure_reason": reason}
        self._manager.send_kv_status_message = send_slowly
        threading.Thread(target=self._manager.conclude_failure, kwargs=words, daemon=True).start()

    def go_on(self) -> None:
        self._go.set()

    def time_out(self, room: int) -> None:
        """Decode: SGLang's waiting timeout of a room is over; the abort that it sends then is lost."""
        receiver = self._handles[room]
        receiver.init_time -= 2 * receiver.kv_mgr.waiting_timeout
        receiver._send_abort_notification = lambda **_: None

    def abort_at_once(self, room: int) -> None:
        """Prefill: abort a request, and end it in the same iteration of the scheduler."""
        self._handles[room].abort()
        self._end_failed(room)

    def time_out_at_once(self, room: int) -> None:
        """Decode: as ``time_out``, and the scheduler polls the room and ends the request."""
        self.time_out(room)
        if self._handles[room].poll() == KVPoll.Failed:
            self._end_failed(room)

    def _end_failed(self, room: int) -> None:
        """End a request that has polled Failed: its room is cleared."""
        with contextlib.suppress(KVTransferError):
            self._handles[room].failure_exception()

    def transfer(self, *rooms: int) -> None:
        """Decode: ask prefill for the pages of rooms, which are then in the scheduler's queue."""
        self._transfers = self._transfers or Transfers()
        for room in rooms:
            self._handles[room].send_metadata(PAGES, aux_index=0, decode_prefix_len=room % 7)
            self._transfers.add(room, self._handles[room])

    def iterate(self, *failed_elsewhere: int) -> dict[str, Any]:
        """Decode: do one iteration of the scheduler; another rank has failed some rooms."""
        return self._transfers.iterate(failed_elsewhere)
