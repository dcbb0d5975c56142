"""Replaces the dicts of SGLang's manager by the table's maps.

A process replaces all of its dicts or none, and so do the stages of a pipeline together. A failure to join, or to
replace them, is logged in one line and not raised into SGLang. Only a failed broadcast between stages is raised: then
the pipeline is broken.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from redis_kvpoll.agent.client.client import RefusedError
from redis_kvpoll.errors import InvalidInputError
from redis_kvpoll.integrations.sglang import hooks
from redis_kvpoll.integrations.sglang.background import Background
from redis_kvpoll.integrations.sglang.behaviour import check_clear, check_first_status, check_update_status
from redis_kvpoll.integrations.sglang.compat import (
    CONN,
    IncompatibleSGLangError,
    all_stages_joined,
    has_consensus_store,
    identify,
)
from redis_kvpoll.integrations.sglang.failed_by_table import FailedByTable
from redis_kvpoll.integrations.sglang.maps import ConsensusMap
from redis_kvpoll.integrations.sglang.orphans import Orphans
from redis_kvpoll.integrations.sglang.pages import DecodeFailures, leave_abort_to_sglang, leave_to_sglang
from redis_kvpoll.integrations.sglang.peers import receivers_of
from redis_kvpoll.integrations.sglang.settings import PARSERS, PREFIX, read
from redis_kvpoll.integrations.sglang.startup import log_disabled, log_incompatible
from redis_kvpoll.integrations.sglang.withholding import around_update
from redis_kvpoll.integrations.sglang.worker import RoleHooks, TableWorker
from redis_kvpoll.transport.password_file import named, with_password

logger = logging.getLogger("redis_kvpoll")
WAITING_TIMEOUT = "SGLANG_DISAGGREGATION_WAITING_TIMEOUT"
MAPS = ("request_status", "failure_records", "req_to_decode_prefix_len")


def install(manager: Any) -> None:
    """Join the table and replace the manager's dicts; leave them alone if this process or another stage cannot join."""
    worker = _join(manager)
    if has_consensus_store(manager) and not all_stages_joined(manager, worker is not None):
        if worker is not None:
            worker.leave()
            log_disabled("another stage of this pipeline could not join (its log says why)")
        return
    if worker is not None:
        before = dict(vars(manager))
        try:
            _replace_dicts(manager, worker)
        except Exception as error:
            _undo(manager, worker, before)
            log_disabled(f"{type(error).__name__}: {error}")


def _join(manager: Any) -> TableWorker | None:
    """Return a worker that has joined; None, with one line in the log unless the plugin is not enabled, otherwise."""
    try:
        settings = read(os.environ)
        if settings is None:
            return None
        if settings.password_file:
            settings = replace(settings, url=with_password(settings.url, settings.password_file))
        identity = identify(manager)
        check_update_status(manager)
        if CONN in sys.modules:  # without it, this is a test's stand-in
            check_clear(sys.modules[CONN])
        worker = TableWorker(settings, identity)
        worker.join()
    except IncompatibleSGLangError as error:
        log_incompatible(error)
    except InvalidInputError as error:
        log_disabled(str(error))
    except RefusedError as error:
        reason = f"{error}: {_remedy(error.setting)}" if error.setting else str(error)
        log_disabled(named(reason, settings.password_file if settings else ""))
    except Exception as error:
        log_disabled(f"{type(error).__name__}: {error}")
    else:
        return worker
    return None


def _remedy(setting: str) -> str:
    """Return what to do about a namespace that has another value of a setting."""
    other = "delete that namespace's data: SGLang needs this value"
    if setting.upper() in PARSERS:
        other = f"set {PREFIX}{setting.upper()} to that value, or unset it"
    return f"set KVPOLL_NAMESPACE to another namespace, or {other}"


def _replace_dicts(manager: Any, worker: TableWorker) -> None:
    """Replace the dicts. SGLang does not use them before this has returned."""
    role = worker.identity.role
    sglangs = _replace_maps(manager, worker)
    manager.kvpoll_worker = worker  # hooks._learn_servers finds it there; tests wait until it is idle
    if hasattr(manager, "teardown"):  # called when SGLang changes an instance's role; the next manager joins again
        manager.teardown = _chain(manager.teardown, worker.leave)
    worker.role_hooks = (_bind_prefill if role == "prefill" else _bind_decode)(manager, worker)
    _log_missing_hooks(manager, role)
    check_first_status(manager, worker.registry.statuses, lambda why: _restore(manager, worker, sglangs, why))
    logger.info("redis_kvpoll: joined the status table as %s", worker.identity.name)


def _replace_maps(manager: Any, worker: TableWorker) -> dict[str, Any]:
    """Give the manager the table's maps, and return its own."""
    registry, identity = worker.registry, worker.identity
    sglangs = {name: getattr(manager, name) for name in MAPS if hasattr(manager, name)}
    if has_consensus_store(manager):
        registry.statuses = ConsensusMap(
            registry, identity.rank, list(identity.stages), worker.statuses_of, manager.request_status
        )
    manager.update_status = registry.scoped(manager.update_status)
    manager.request_status = registry.statuses
    manager.failure_records = registry.reasons
    if identity.role == "prefill":
        manager.req_to_decode_prefix_len = registry.lengths
    return sglangs


def _bind_prefill(manager: Any, worker: TableWorker) -> RoleHooks:
    registry = worker.registry
    registry.awaits_claims = hooks.knows_handles()
    end_orphans = Orphans(manager, registry, os.environ.get(WAITING_TIMEOUT)).end_old
    fail_room = registry.fail_from_table
    if worker.identity.world_size > 1:  # a rank that is alone has itself ended what it writes
        manager.kvpoll_failed_by_table = failed = FailedByTable(registry)
        fail_room = failed.fail
    hooks_of_role = RoleHooks(fail_room, partial(receivers_of, manager), end_orphans)
    if getattr(manager, "deferred_bootstrap", None) is None:
        return hooks_of_role
    manager.update_status = around_update(registry, manager.update_status)  # it sends a message, which may block
    fail = Background(fail_room)
    return hooks_of_role._replace(on_failure=fail, end_background=fail.end)


def _bind_decode(manager: Any, worker: TableWorker) -> RoleHooks:
    if len(worker.identity.stages) > 1:
        return RoleHooks(leave_to_sglang, on_abort=leave_abort_to_sglang)
    manager.kvpoll_failures = failures = DecodeFailures(
        worker.registry,
        can_hold=hooks.can_hold_pages(),
        holds_long=worker.settings.long_hold,
        has_ranks=worker.identity.world_size > 1,
    )
    return RoleHooks(failures.on_failure, on_abort=failures.on_abort)


def _undo(manager: Any, worker: TableWorker, before: dict[str, Any]) -> None:
    """Give the manager back what it had, and leave the table."""
    for name in vars(manager).keys() - before.keys():
        del vars(manager)[name]
    vars(manager).update(before)
    worker.leave()


def _log_missing_hooks(manager: Any, role: str) -> None:
    """Log what the table leaves out, because this SGLang lacks what the plugin hooks for it."""
    missing = [] if hooks.knows_requests(role) else ["SGLang's request ids"]
    if not hooks.knows_handles():
        missing.append("failures in the table" if role == "decode" else "which rooms have a sender")
    if getattr(manager, "enable_deferred_decode_kv_release", False) and not hooks.can_hold_pages() and role == "decode":
        missing.append("for how long SGLang holds pages")
    if missing:
        logger.info("redis_kvpoll: not known here: %s", " and ".join(missing))


def _restore(manager: Any, worker: TableWorker, sglangs: dict[str, Any], why: str) -> None:
    """Give SGLang its own dicts back, with what is in the maps, and leave the table."""
    for name, own in sglangs.items():
        if type(own) is dict:  # SGLang's own consensus store has got every write
            own.update(getattr(manager, name))
        setattr(manager, name, own)
    for name in ("update_status", "kvpoll_failures", "kvpoll_failed_by_table"):
        vars(manager).pop(name, None)
    worker.leave()
    log_incompatible(IncompatibleSGLangError(why))


def _chain(first: Callable[[], Any], second: Callable[[], Any]) -> Callable[[], Any]:
    def both() -> Any:
        try:
            return first()
        finally:
            second()

    return both
