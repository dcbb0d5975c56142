"""One worker: a process of a prefill or decode instance, with SGLang's own manager, commanded by lines of JSON.

A command is the name of a method here and its arguments; the answer is ``{"answer": ...}``, or ``{"error": ...}`` for
what SGLang raised.
"""

from __future__ import annotations

import collections
import json
import logging
import os
import socket
import sys
import time
from typing import Any, NoReturn

from sglang.srt.disaggregation.common import conn
from sglang.srt.plugins import load_plugins

from tests.sglang import admission, races
from tests.sglang.managers import (
    HOST,
    PAGES,
    CommonKVBootstrapServer,
    DecodeManager,
    PrefillManager,
    Receiver,
    Sender,
    Settings,
)
from tests.sglang.paging import PageCommands
from tests.sglang.serving import Serving
from tests.support import internals

STARTING_SECONDS = 600.0
"""No machine is so slow."""


class Log(logging.Handler):
    """Records what the plugin logs, and every warning of any logger."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[str, str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING or record.name.startswith("redis_kvpoll"):
            self.lines.append((record.name, record.levelname, record.getMessage()))


class Worker(PageCommands):
    """Its methods without an underscore are the commands."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self._log = Log()
        logging.basicConfig(level=logging.INFO, handlers=[logging.StreamHandler(sys.stderr), self._log])
        logging.getLogger("redis_kvpoll").setLevel(logging.DEBUG)
        _make_incompatible(plan["incompatibility"])
        load_plugins()
        settings = Settings(**plan["settings"])
        self._address = f"{HOST}:{settings.bootstrap_port}"
        self._is_prefill = settings.role == "prefill"
        if plan["bootstraps"]:
            CommonKVBootstrapServer(HOST, settings.bootstrap_port)
            _await_port(settings.bootstrap_port)
        super().__init__((PrefillManager if self._is_prefill else DecodeManager)(settings))
        self._serving: Serving | None = None

    def kinds(self) -> dict[str, str]:
        """Return the types of the maps."""
        names = ("request_status", "failure_records", "req_to_decode_prefix_len")
        return {name: type(getattr(self._manager, name)).__name__ for name in names if hasattr(self._manager, name)}

    def lines(self) -> list[tuple[str, str, str]]:
        """Return what was logged: logger, level and text."""
        return self._log.lines

    def errors(self) -> list[str]:
        """Return the exceptions that ended threads of SGLang's."""
        return self._manager.errors

    def learn(self) -> bool:
        """Decode: get prefill's address from the bootstrap server."""
        return self._manager.try_ensure_parallel_info(self._address)

    def open(self, *rooms: int) -> None:
        """Make the sender or the receiver of each room."""
        for room in rooms:
            handle = (Sender if self._is_prefill else Receiver)(self._manager, self._address, room)
            handle.init(*((len(PAGES), 0) if self._is_prefill else (0,)))
            self._handles[room] = handle

    def admit(self, room: int, request: str) -> str:
        """Admit a request as the scheduler does, through its queue; return what is then in the queue."""
        queue = (admission.prefill_queue if self._is_prefill else admission.decode_queue)(self._manager)
        self._handles[room] = admission.admit(queue, room, request, self._address)
        return str(queue.queue[0].req.rid if hasattr(queue.queue[0], "req") else queue.queue[0].rid)

    def reopen(self, room: int, address: str = "") -> None:
        """Make another receiver, or sender, of a room; the one before is then under the negative number."""
        self._handles[-room] = self._handles[room]
        self._handles[room] = (Sender if self._is_prefill else Receiver)(self._manager, address or self._address, room)
        self._handles[room].init(*((len(PAGES), 0) if self._is_prefill else (0,)))

    def port(self) -> int:
        """Return the port of prefill's bootstrap server."""
        return int(self._manager.bootstrap_port)

    def init(self, room: int) -> None:
        """Decode: what follows once prefill's address is known."""
        self._handles[room].init(0)

    def age_rooms(self, seconds: float) -> None:
        """Prefill: let so many seconds go by for the rooms without a sender."""
        internals.age_rooms(self._manager.kvpoll_worker.registry, seconds)

    def has(self, room: int) -> bool:
        """Return whether the room was opened here."""
        return room in self._handles

    def ask(self, room: int) -> None:
        """Decode: send prefill where the pages go."""
        self._handles[room].send_metadata(PAGES, aux_index=0, decode_prefix_len=room % 7)

    def send(self, room: int) -> None:
        """Prefill: send the pages."""
        self._handles[room].send(PAGES)

    def has_transfer_info(self, room: int) -> bool:
        """Prefill: return whether decode has sent where the pages go."""
        return room in self._manager.transfer_infos

    def prefix(self, room: int) -> int:
        return self._handles[room].pop_decode_prefix_len()

    def poll(self, *rooms: int) -> list[int]:
        return [self._handles[room].poll() for room in rooms]

    def consensus(self, room: int) -> int:
        return self._handles[room].poll_pp_consensus()

    def collect(self, room: int) -> list[int | None]:
        return list(self._manager.request_status.collect(room))

    def get(self, *rooms: int) -> list[int | None]:
        """Return the statuses in the map, without a poll."""
        return [self._manager.request_status.get(room) for room in rooms]

    def update(self, room: int, status: int) -> None:
        self._manager.update_status(room, status)

    def record(self, room: int, reason: str) -> None:
        self._manager.record_failure(room, reason)

    def reason(self, room: int) -> str | None:
        return self._manager.failure_records.get(room)

    def leftovers(self) -> list[int]:
        """Return the rooms whose reason was not taken."""
        return sorted(self._manager.failure_records)

    def conclude(self, room: int, status: int, reason: str | None = None) -> None:
        self._manager.conclude_transfer(bootstrap_room=room, status=status, failure_reason=reason)

    def abort(self, room: int) -> None:
        self._handles[room].abort()

    def drop(self, room: int) -> None:
        """Prefill: abort a request in the scheduler's waiting queue, or while it runs."""
        self._handles.pop(room).abort()

    def clear(self, *rooms: int) -> None:
        for room in rooms:
            self._handles[room].clear()

    def fail(self, room: int) -> tuple[str, bool]:
        """Run failure_exception(); return the reason, and whether it is from another rank."""
        try:
            self._handles[room].failure_exception()
        except conn.KVTransferError as error:
            return error.failure_reason, error.is_from_another_rank

    def lose_prefill(self, address: str = "") -> None:
        """Decode: do what the heartbeat does when prefill is lost."""
        self._manager._handle_node_failure(address or self._address)

    def start_heartbeat(self) -> None:
        """Decode: start SGLang's own heartbeat, as a backend does."""
        self._manager._start_heartbeat_checker_thread()

    def race(self, name: str, first: int, trials: int) -> int:
        return races.run(name, self._manager, self._address, first, trials)

    def serve(self, rooms: list[int], window: int) -> None:
        """Start serving requests, in a thread."""
        self._serving = Serving(self._manager, self._address, self._is_prefill, rooms, window)

    def served(self) -> int:
        """Return how many have ended."""
        return len(self._serving.ended)

    def results(self) -> dict[str, Any]:
        """Return the results, once all have ended."""
        self._serving.thread.join(0)
        return {"ended": self._serving.ended, "errors": self._serving.errors, "on": self._serving.thread.is_alive()}


def _make_incompatible(what: str | None) -> None:
    """Turn SGLang into a version that the plugin does not support."""
    if what == "hook":
        del conn.CommonKVManager
    elif what == "type":
        make = conn.CommonKVManager.__init__

        def strange(self: Any, *args: Any, **words: Any) -> None:
            make(self, *args, **words)
            self.request_status = collections.OrderedDict()

        conn.CommonKVManager.__init__ = strange
    elif what == "rule":
        conn.CommonKVManager.update_status = lambda self, room, status: self.request_status.__setitem__(room, status)


def _await_port(port: int) -> None:
    deadline = time.monotonic() + STARTING_SECONDS
    while True:
        try:
            socket.create_connection((HOST, port), 1).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


def main(plan: dict[str, Any]) -> NoReturn:
    """Run commands until the input ends."""
    try:
        worker = Worker(plan)
        _send({"answer": worker.kinds()})
        for line in sys.stdin:
            name, *arguments = json.loads(line)
            try:
                _send({"answer": getattr(worker, name)(*arguments)})
            except Exception as error:
                logging.getLogger("tests").exception("command %s", name)
                _send({"error": f"{type(error).__name__}: {error}"})
    finally:
        sys.stderr.flush()
        os._exit(0)


def _send(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
