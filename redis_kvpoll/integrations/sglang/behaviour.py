"""Checks by behaviour, not by version, that SGLang does with the maps what it does with its dicts.

How SGLang reads and writes ``request_status`` differs between releases and backends. So its own ``update_status`` is
run on the real manager through the lives of a room that no request uses, on a dict and on the map: the results must be
equal. How a sender and a receiver remove their room is checked by the source, because neither can be made here.
``check_status`` is checked when SGLang first uses it.

To support another step of SGLang's: add it to LIFE.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable
from typing import Any

from redis_kvpoll.integrations.sglang.compat import IncompatibleSGLangError
from redis_kvpoll.integrations.sglang.registry import RoomRegistry
from redis_kvpoll.model import KVPoll

PROBE = -(2**62)
"""A room of no request: SGLang's rooms are not negative."""
CLEAR = "clear"
LIFE: tuple[KVPoll | str, ...] = (
    *(KVPoll.Failed, KVPoll.Bootstrapping, KVPoll.WaitingForInput, KVPoll.Bootstrapping, KVPoll.Transferring),
    *(KVPoll.Success, CLEAR, KVPoll.Failed, KVPoll.WaitingForInput, KVPoll.Bootstrapping, KVPoll.Failed),
    *(KVPoll.Failed, CLEAR, KVPoll.Failed, KVPoll.Bootstrapping, KVPoll.Failed, CLEAR, CLEAR),
)
"""Opened, advanced, too low a status, cleared, failed late, used again from either opening status, failed, cleared
twice. Steps in which the map is stricter than older releases' dicts are not here: see merge.CREATING."""
MAX_MISMATCHES = 3
"""Another thread may change a status between two reads; more than a few times in a row it does not."""


def check_update_status(manager: Any) -> None:
    """Raise IncompatibleSGLangError unless a manager's ``update_status`` does with the map what it does with a dict."""
    replaced, update = manager.request_status, manager.update_status
    registry = RoomRegistry()
    try:
        on_a_dict = _live(manager, update, {})
        on_the_map = _live(manager, registry.scoped(update), registry.statuses)
    except IncompatibleSGLangError:
        raise
    except Exception as error:
        raise IncompatibleSGLangError(f"update_status raised {type(error).__name__}: {error}") from error
    finally:
        manager.request_status = replaced
    for number, (wanted, found) in enumerate(zip(on_a_dict, on_the_map, strict=True)):
        if found != wanted:
            steps = ", ".join(getattr(step, "name", CLEAR) for step in LIFE[: number + 1])
            raise IncompatibleSGLangError(
                f"update_status after {steps} gives {found} with the map, {wanted} with a dict"
            )


def _live(manager: Any, update: Callable[..., Any], statuses: Any) -> list[Any]:
    """Return the status after each step; None where the room is absent."""
    manager.request_status = statuses
    found = []
    for step in LIFE:
        if step == CLEAR:
            statuses.pop(PROBE, None)
        else:
            update(PROBE, int(step))
        if manager.request_status is not statuses:
            raise IncompatibleSGLangError("update_status replaces request_status")
        is_there = PROBE in statuses
        found.append((statuses.get(PROBE), is_there, statuses[PROBE] if is_there else None))
    return found


def check_clear(module: Any) -> None:
    """Raise IncompatibleSGLangError unless senders and receivers of ``common.conn`` remove their room from the map."""
    for name in ("CommonKVSender", "CommonKVReceiver"):
        owner = getattr(module, name, None)
        if owner is None or not callable(getattr(owner, "clear", None)):
            raise IncompatibleSGLangError(f"{name} has no clear")
        try:
            removes = _removes_room(owner, "clear")
        except (OSError, TypeError, SyntaxError) as error:
            raise IncompatibleSGLangError(f"the source of {name}.clear cannot be read: {error}") from error
        if not removes:
            raise IncompatibleSGLangError(f"{name}.clear does not remove its room from request_status")


def _removes_room(owner: Any, method: str) -> bool:
    """Return whether a method, or one that it calls on ``self``, has ``….request_status.pop(…)`` or ``del`` of it."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(getattr(owner, method)))))
    for node in ast.walk(tree):
        if isinstance(node, ast.Delete) and any(_is_status_item(target) for target in node.targets):
            return True
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        on = node.func.value
        if node.func.attr == "pop" and _is_status_map(on):
            return True
        is_own = isinstance(on, ast.Name) and on.id == "self" and node.func.attr != method
        if is_own and hasattr(owner, node.func.attr) and _removes_room(owner, node.func.attr):
            return True
    return False


def _is_status_map(node: ast.expr) -> bool:
    return isinstance(node, ast.Attribute) and node.attr == "request_status"


def _is_status_item(node: ast.expr) -> bool:
    return isinstance(node, ast.Subscript) and _is_status_map(node.value)


def check_first_status(manager: Any, statuses: Any, on_mismatch: Callable[[str], object]) -> None:
    """Compare the first ``check_status`` of an open room with the map; then leave ``check_status`` alone.

    ``on_mismatch`` is called with what is wrong, from SGLang's thread.
    """
    check_status = manager.check_status
    mismatches = 0

    def checked(bootstrap_room: int) -> Any:
        nonlocal mismatches
        before = statuses.get(bootstrap_room)
        found = check_status(bootstrap_room)
        after = statuses.get(bootstrap_room)
        if before is not None and after is not None:
            mismatches = mismatches + 1 if found not in (before, after) else 0
            if mismatches in (0, MAX_MISMATCHES):
                vars(manager).pop("check_status", None)
            if mismatches == MAX_MISMATCHES:
                on_mismatch(f"check_status gives {found} for a room that is at {after}")
        return found

    manager.check_status = checked
