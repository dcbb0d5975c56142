"""Requests from beginning to end, some at a time, as SGLang's schedulers run them."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Any

from tests.sglang.managers import PAGES, KVPoll, Receiver, Sender
from tests.sglang.outcomes import BROKEN, breaks, is_aborted

STEP = 0.002
"""Seconds of a scheduler's round."""


class Serving:
    """A scheduler's loop over one side of all requests, in a thread."""

    def __init__(self, manager: Any, address: str, is_prefill: bool, rooms: list[int], window: int) -> None:
        self._manager = manager
        self._address = address
        self._is_prefill = is_prefill
        self._waiting = deque(rooms)
        self._window = window
        self._open: dict[int, Any] = {}
        self._sent: set[int] = set()
        self.ended: dict[int, tuple[int, str | None]] = {}
        """By room: how it ended, and why."""
        self.errors: list[str] = []
        """Exceptions that SGLang does not raise on its own dicts."""
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        while self._waiting or self._open:
            try:
                while self._waiting and len(self._open) < self._window:
                    self._admit(self._waiting.popleft())
                for room, handle in list(self._open.items()):
                    (self._step_prefill if self._is_prefill else self._step_decode)(room, handle)
            except Exception as error:
                self.errors.append(repr(error))
                return
            time.sleep(STEP)

    def _admit(self, room: int) -> None:
        if self._is_prefill:
            self._open[room] = Sender(self._manager, self._address, room)
            self._open[room].init(len(PAGES), 0)
            return
        receiver = self._open[room] = Receiver(self._manager, self._address, room)
        receiver.init(0)
        # SGLang's router gives prefill a request before decode: messages for a room that is not open are lost.

    def _step_prefill(self, room: int, sender: Any) -> None:
        status = sender.poll()
        if status == KVPoll.WaitingForInput and room not in self._sent:
            self._sent.add(room)
            if sender.pop_decode_prefix_len() != room % 7:
                self.errors.append(f"the prefix length of {room} was lost")
            if breaks(room):
                self._manager.conclude_failure(bootstrap_room=room, failure_reason=BROKEN)
            elif not is_aborted(room):
                sender.send(PAGES)
        self._end(room, sender, status)

    def _step_decode(self, room: int, receiver: Any) -> None:
        status = receiver.poll()
        if status == KVPoll.WaitingForInput and room not in self._sent:
            self._sent.add(room)
            receiver.send_metadata(PAGES, aux_index=0, decode_prefix_len=room % 7)
            if is_aborted(room):
                receiver.abort()
                status = receiver.poll()
        self._end(room, receiver, status)

    def _end(self, room: int, handle: Any, status: int) -> None:
        if status not in (KVPoll.Success, KVPoll.Failed):
            return
        reason = None
        if status == KVPoll.Failed:
            try:
                handle.failure_exception()
            except Exception as error:  # SGLang's own way to tell why
                reason = getattr(error, "failure_reason", repr(error))
        else:
            handle.clear()
        del self._open[room]
        self.ended[room] = (status, reason)
