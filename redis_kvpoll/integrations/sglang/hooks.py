"""Hooks on SGLang's senders, receivers and queues: which request a room is for, and which processes serve it.

They are registered at the start, for the targets that this SGLang has, and what was applied is checked when a process
joins. Each calls the original with the same arguments and passes on its result, and its exceptions.

To add a hook: a function here, in holds or in withholding, and its target in one of the tables below.
"""

from __future__ import annotations

import contextlib
import logging
import pkgutil
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from redis_kvpoll.integrations.sglang import duplicates, holds, pages, withholding
from redis_kvpoll.integrations.sglang.compat import CONN

logger = logging.getLogger("redis_kvpoll")

_PACKAGE = CONN.rpartition(".common.")[0]


class _Admission(threading.local):
    """The request that a thread is admitting, as (room, id)."""

    request: tuple[int, str] = (-1, "")


_admission = _Admission()


def around_admission(original: Callable[..., Any], queue: Any, req: Any, *args: Any, **kwargs: Any) -> Any:
    """A queue makes the sender or the receiver of a request."""
    outer = _admission.request
    room, request = getattr(req, "bootstrap_room", None), getattr(req, "rid", None)
    _admission.request = (room, str(request)) if isinstance(room, int) and request else (-1, "")
    try:
        return original(queue, req, *args, **kwargs)
    finally:
        _admission.request = outer


def around_sender(original: Callable[..., Any], sender: Any, *args: Any, **kwargs: Any) -> None:
    """A sender opens its room, or takes over one that a message of decode's has opened. A second one is refused."""
    manager, _, room = _arguments(*args, **kwargs)
    registry = _registry(manager)
    if registry is None or not isinstance(room, int):
        original(sender, *args, **kwargs)
        return
    if registry.unclaimed.dropped:  # the room's last sender, perhaps
        registry.abandon()
    if registry.awaits_claims and room in registry.lives and registry.is_claimed(room):
        duplicates.make_apart(original, sender, args, kwargs)
        duplicates.refuse(sender, room)
    else:
        admitted, request = _admission.request
        registry.claim_during(room, request if admitted == room else "", original, sender, *args, **kwargs)
        sender.kvpoll_life = life = registry.lives.get(room)
        if registry.awaits_claims and life is not None:
            registry.unclaimed.watch(sender, life)


def around_receiver(original: Callable[..., Any], receiver: Any, *args: Any, **kwargs: Any) -> None:
    """A receiver opens its room. On decode nothing else does, so an open room has a receiver, and this is a second."""
    manager, address, room = _arguments(*args, **kwargs)
    registry = _registry(manager)
    if registry is None or not isinstance(room, int):
        original(receiver, *args, **kwargs)
    elif room not in registry.lives:
        admitted, request = _admission.request
        registry.claim_during(room, request if admitted == room else "", original, receiver, *args, **kwargs)
        receiver.kvpoll_life = registry.lives.get(room)
        if (failures := getattr(receiver.kv_mgr, "kvpoll_failures", None)) is not None:
            failures.add(receiver)
    else:
        with _tracker_kept(manager, address, room):
            registry.scopes.run_apart(room, original, receiver, *args, **kwargs)
        duplicates.refuse(receiver, room)


def _arguments(
    mgr: Any = None, bootstrap_addr: Any = None, bootstrap_room: Any = None, *_: Any, **__: Any
) -> tuple[Any, Any, Any]:
    """Return what the constructor of a sender or receiver is given, as far as it is."""
    return mgr, bootstrap_addr, bootstrap_room


@contextlib.contextmanager
def _tracker_kept(manager: Any, address: Any, room: int) -> Iterator[None]:
    """Keep a second receiver's prefill from failing the first one's room when it is lost."""
    tracked = getattr(manager, "addr_to_rooms_tracker", {})
    was_there = room in tracked.get(address, ())
    yield
    if not was_there and address in tracked:
        tracked[address].discard(room)


def around_step(original: Callable[..., Any], handle: Any, *args: Any, **kwargs: Any) -> Any:
    """A step of a sender or receiver is about the life that it has opened: SGLang clears, aborts and inits by room."""
    life = getattr(handle, "kvpoll_life", None)
    registry = getattr(handle.kv_mgr.request_status, "registry", None)
    if life is None or registry is None:
        return original(handle, *args, **kwargs)
    return registry.scopes.run((life.room, life), original, handle, *args, **kwargs)


def around_receiver_clear(original: Callable[..., Any], receiver: Any, *args: Any, **kwargs: Any) -> Any:
    """A receiver removes its room: it is over, also for prefill.

    If the room has another receiver by now, this one has removed its own, and clears again because its pages are free.
    Besides the status, SGLang's tables by room are then of the other one: the messages to expect, the rooms of a node.
    """
    life, room = getattr(receiver, "kvpoll_life", None), receiver.bootstrap_room
    registry = _registry(receiver.kv_mgr) if life is not None else None
    if registry is not None:
        if registry.lives.get(room) not in (None, life):
            return None
        try:
            pages.tell_to_stop(receiver, registry)
        except Exception:
            logger.exception("redis_kvpoll: prefill is not told that room %r is over", room)
    return around_step(original, receiver, *args, **kwargs)


def around_receiver_init(original: Callable[..., Any], receiver: Any, *args: Any, **kwargs: Any) -> Any:
    """A receiver learns which processes of prefill serve its room."""
    try:
        return around_step(original, receiver, *args, **kwargs)
    finally:
        _learn_servers(receiver)


def _learn_servers(receiver: Any) -> None:
    """Take note of who serves a receiver's room. It raises nothing: an exception of the original's may be under way."""
    worker = getattr(getattr(receiver, "kv_mgr", None), "kvpoll_worker", None)
    infos = getattr(receiver, "bootstrap_infos", None)
    try:
        if worker is not None and infos:
            worker.learn_servers(receiver.bootstrap_room, infos)
    except Exception:
        logger.exception(
            "redis_kvpoll: SGLang names the processes of prefill in another way than expected; a failure of theirs in "
            "the table does not end this room: report this traceback"
        )


def _registry(manager: Any) -> Any:
    """Return the registry of a manager that has joined, else None."""
    return getattr(getattr(manager, "request_status", None), "registry", None)


Hooks = Mapping[str, Callable[..., Any]]

HANDLE_HOOKS: Hooks = {
    f"{CONN}.CommonKVSender.__init__": around_sender,
    f"{CONN}.CommonKVSender.abort": around_step,
    f"{CONN}.CommonKVSender.clear": around_step,
    f"{CONN}.CommonKVReceiver.__init__": around_receiver,
    f"{CONN}.CommonKVReceiver.init": around_receiver_init,
    f"{CONN}.CommonKVReceiver.abort": around_step,
    f"{CONN}.CommonKVReceiver.clear": around_receiver_clear,
}
REQUEST_HOOKS: Mapping[str, Hooks] = {
    "prefill": {
        f"{_PACKAGE}.prefill.PrefillBootstrapQueue.add": around_admission,
        f"{_PACKAGE}.prefill.PrefillBootstrapQueue.create_sender": around_admission,  # from 0.5.14 on, add calls it
    },
    "decode": {f"{_PACKAGE}.decode.DecodePreallocQueue._create_receiver_and_enqueue": around_admission},
}
"""By role. In a process without a scheduler these modules are not loaded, and so not hooked."""
HOLD_HOOKS: Hooks = {
    f"{CONN}.CommonKVManager._handle_node_failure": holds.around_node_failure,
    f"{_PACKAGE}.decode.DecodeTransferQueue._defer_release": holds.around_defer,
    f"{_PACKAGE}.decode.DecodeTransferQueue.resolve_deferred_releases": holds.around_resolve,
}
CONCLUDE_HOOKS: Hooks = {f"{CONN}.CommonKVManager.conclude_transfer": withholding.around_conclude}


def register(hook_registry: Any) -> None:
    """Register the hooks with SGLang's module of that name, where their targets exist."""
    for hooks in (HANDLE_HOOKS, *REQUEST_HOOKS.values(), HOLD_HOOKS, CONCLUDE_HOOKS):
        for target, around in hooks.items():
            if _exists(target):
                hook_registry.HookRegistry.register(target, around, hook_registry.HookType.AROUND)


def _exists(target: str) -> bool:
    """Return whether a target's module is loaded and has it."""
    module = next((name for name in _parents(target) if name in sys.modules), "")
    if module.count(".") < _PACKAGE.count(".") + 1:
        return False
    try:
        pkgutil.resolve_name(target)
    except (ImportError, AttributeError):
        return False
    return True


def _parents(target: str) -> Iterable[str]:
    while "." in target:
        target = target.rpartition(".")[0]
        yield target


def _applied() -> set[str]:
    """Return the targets that SGLang has hooked; its framework only logs what it could not apply."""
    hook_registry = sys.modules.get("sglang.srt.plugins.hook_registry")
    patched: set[str] = getattr(getattr(hook_registry, "HookRegistry", None), "_patched", set())
    return patched


def knows_handles() -> bool:
    """Return whether the hooks on senders and receivers are applied."""
    return HANDLE_HOOKS.keys() <= _applied()


def can_hold_pages() -> bool:
    """Return whether decode's queue of held pages is hooked."""
    return HOLD_HOOKS.keys() <= _applied()


def knows_requests(role: str) -> bool:
    """Return whether a hook that tells a room's request is applied."""
    return not REQUEST_HOOKS[role].keys().isdisjoint(_applied())
