"""Managers, senders and receivers of a release, without what their constructors connect to."""

from __future__ import annotations

import importlib
import threading
from collections import defaultdict
from typing import Any

from tests.sglang.releases.imports import BACKENDS
from tests.support.standin import attributes

CLASSES = {"common": "CommonKV", "mooncake": "MooncakeKV", "nixl": "NixlKV", "mori": "MoriKV"}
assert [*CLASSES] == ["common", *BACKENDS]


def class_of(backend: str, kind: str) -> Any:
    """Return a backend's manager, sender or receiver class."""
    module = importlib.import_module(f"sglang.srt.disaggregation.{backend}.conn")
    return getattr(module, CLASSES[backend] + kind)


def _bare(owner: Any) -> Any:
    """Return an object of a class, which may be abstract, without running its constructor."""
    concrete = type(owner.__name__, (owner,), {})
    concrete.__abstractmethods__ = frozenset()  # type: ignore[attr-defined]
    return object.__new__(concrete)


def manager(backend: str, role: str = "prefill") -> Any:
    """Return a manager with its dicts as its __init__ leaves them."""
    made = _bare(class_of(backend, "Manager"))
    vars(made).update(
        attributes(role),
        failure_lock=threading.Lock(),
        transfer_infos={},
        deferred_bootstrap=None,
        defer_decode_allocation=False,
        required_prefill_response_num_table={},
        prefill_response_tracker={},
        addr_to_rooms_tracker=defaultdict(set),
        _deferred_ack_targets={},
        _deferred_ack_fanout_snapshots={},
        _deferred_ack_poisoned_rooms=set(),
        _staging_outstanding=defaultdict(int),
        _staging_ctx=None,
    )
    return made


def receiver(manager: Any, room: int = 4711) -> Any:
    """Return a receiver of a manager's backend, as its __init__ leaves it."""
    (backend,) = (name for name in CLASSES if isinstance(manager, class_of(name, "Manager")) and name != "common")
    return _handle(class_of(backend, "Receiver"), manager, room, init_time=None, _abort_generation=None)


def clear(manager: Any, room: int) -> None:
    """Clear a room as the release's own sender or receiver does: a backend's own clear calls this one."""
    is_prefill = manager.disaggregation_mode.value == "prefill"
    cls = class_of("common", "Sender" if is_prefill else "Receiver")
    _handle(cls, manager, room, _owns_bootstrap_room=True).clear()


def _handle(cls: Any, manager: Any, room: int, **more: Any) -> Any:
    """Return a sender or receiver of a room."""
    made = _bare(cls)
    vars(made).update(
        kv_mgr=manager,
        bootstrap_room=room,
        bootstrap_addr="10.0.0.1:8998",
        bootstrap_infos=None,
        conclude_state=None,
        abort_notified=False,
        **more,
    )
    return made
