"""Who reads private attributes of the package: of the tests only support/internals.py, of the front ends none."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
PACKAGE = TESTS.parent / "redis_kvpoll"
ALLOWED = {
    "support/internals.py": "the one module for it",
    "cli": "the functions that print, each tested alone",
    "plugin": "the outbox and the worker's thread, which have no public view",
}
"""Exceptions: a file or folder of tests, and the reason."""
FRONT_ENDS = ("cli", "serve", "replay", "doctor", "monitoring", "integrations")


def private(name):
    return name.startswith("_") and not name.startswith("__")


def defined_in_package():
    """The private names that the package defines: functions, methods, attributes, constants."""
    names = set()
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                names.add(node.name)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                names.add(node.attr)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.add(node.id)
    return {name for name in names if private(name)}


def reached_into(file, names):
    """The private attributes that a file reads from objects other than self."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and node.attr in names:
            owner = node.value
            is_super = isinstance(owner, ast.Call) and isinstance(owner.func, ast.Name) and owner.func.id == "super"
            if not is_super and not (isinstance(owner, ast.Name) and owner.id in ("self", "cls")):
                yield f"{node.attr} (line {node.lineno})"


def test_only_internals_reads_private_attributes():
    names = defined_in_package()
    assert {"_executor", "_dispatcher", "_transport"} <= names
    found = {}
    for file in sorted(TESTS.rglob("*.py")):
        path = file.relative_to(TESTS).as_posix()
        if not any(path == place or path.startswith(f"{place}/") for place in ALLOWED):
            found[path] = list(reached_into(file, names))
    assert {path: some for path, some in found.items() if some} == {}


@pytest.mark.parametrize("folder", FRONT_ENDS)
def test_front_end_reads_no_private_attribute(folder):
    """What the command needs of a store beside its public methods is in sync/operators.py."""
    names = defined_in_package()
    found = {file.name: list(reached_into(file, names)) for file in (PACKAGE / folder).rglob("*.py")}
    assert {name: some for name, some in found.items() if some} == {}
