"""Names of tests are short: subject, condition, result. Details go into the docstring."""

from __future__ import annotations

import ast
from pathlib import Path

TESTS = Path(__file__).parents[1]
MAX_LENGTH = 60


def names_of_tests():
    """(path, name) of every test function, method and class."""
    for file in sorted(TESTS.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
            if is_function or (isinstance(node, ast.ClassDef) and node.name.startswith("Test")):
                yield file.relative_to(TESTS).as_posix(), node.name


def test_names_are_at_most_sixty_characters():
    found = list(names_of_tests())
    assert len(found) > 500
    assert [f"{path}::{name}" for path, name in found if len(name) > MAX_LENGTH] == []
