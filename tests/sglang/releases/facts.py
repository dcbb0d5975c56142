"""What a release's own source does: the row of the table in docs/sglang.md. Prints it as JSON."""

from __future__ import annotations

import ast
import importlib.util
import json
import pkgutil
import sys
from pathlib import Path
from typing import Any

from redis_kvpoll.integrations.sglang import behaviour, compat, hooks
from redis_kvpoll.integrations.sglang.pages import defers, knows_abort
from tests.sglang.releases import imports
from tests.sglang.releases.imports import BACKENDS

CONN = "sglang.srt.disaggregation.common.conn"


def facts(files: Path) -> dict[str, Any]:
    """Return what the release does, by the checks that the plugin makes at its start."""
    imports.use(files)
    from tests.sglang.releases.managers import CLASSES, manager, receiver

    module = importlib.import_module(CONN)
    compat.check_class(module)
    behaviour.check_clear(module)
    for target in hooks.HANDLE_HOOKS:
        pkgutil.resolve_name(target)
    rules = set()
    for backend in CLASSES:
        behaviour.check_update_status(manager(backend))
        late, failed = manager(backend), manager(backend)
        late.update_status(1, 4)
        for status in (1, 0, 4):
            failed.update_status(1, status)
        rules.add((backend, 1 in late.request_status, failed.request_status[1] != 0))
    receivers = {backend: receiver(manager(backend, "decode")) for backend in BACKENDS}
    for made in receivers.values():
        made.kv_mgr.enable_deferred_decode_kv_release = getattr(
            made.kv_mgr, "supports_deferred_decode_kv_release", False
        )
    deferring = sorted(backend for backend, made in receivers.items() if defers(made))
    missing = [target for target in hooks.HOLD_HOOKS if not _has_method(files, target)]
    if deferring and missing:
        raise AssertionError(f"decode defers, and there is no {', '.join(missing)}")
    return {
        "aborts": sorted(backend for backend, made in receivers.items() if knows_abort(made)),
        "defers": deferring,
        "reopens": sorted(backend for backend, reopens, _ in rules if reopens),
        "revives": sorted(backend for backend, _, revives in rules if revives),
        "requests": {
            role: any(_has_method(files, target) for target in targets) for role, targets in hooks.REQUEST_HOOKS.items()
        },
        "store": importlib.util.find_spec(f"{CONN.rpartition('.common')[0]}.pp_consensus_store").origin is not None,
    }


def _has_method(files: Path, target: str) -> bool:
    """Return whether a release's source has a hook's target; only its source, as it imports a whole scheduler."""
    module, owner, method = target.rsplit(".", 2)
    tree = ast.parse((files / f"{module.replace('.', '/')}.py").read_text())
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == owner]
    return any(isinstance(node, ast.FunctionDef) and node.name == method for found in classes for node in found.body)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(facts(Path(sys.argv[1]))))
