"""Old names that must not return, and names that must differ clearly.

The lists are frozen: these words have no other meaning in this project. Old names that are ordinary English or Python
(look, use, known) are not in them.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections import defaultdict
from itertools import combinations
from pathlib import Path

PROJECT = Path(__file__).parents[2]
PACKAGE = PROJECT / "redis_kvpoll"
FOLDERS = ("redis_kvpoll", "tests", "bench", "chaos")

FORMER_NAMES = frozenset(
    (
        *("Trip", "Flight", "Rider", "Lane", "Formation", "Standing", "Restating", "Delivery", "Held", "Undelivered"),
        *("Teller", "Unsaid", "Injury", "Reroute", "beaten_at", "in_vain"),
    )
)
"""Not allowed as a whole identifier, but as a part: a round_trip, calls in_flight."""
FORMER_WORDS = frozenset(
    (
        *("pilot", "rider", "riders", "lane", "lanes", "graves", "bury", "buried", "condemn", "condemned"),
        *("misfit", "faulty", "restate", "restated", "untold", "unsaid"),
    )
)
"""Not allowed as an identifier, nor as a part of one between underscores."""


def identifiers(source):
    """Yield (line, name) of every NAME token of Python source."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.NAME:
            yield token.start[0], token.string


def is_former(name):
    return name in FORMER_NAMES or not FORMER_WORDS.isdisjoint(name.lower().split("_"))


def in_python(source):
    """Return the former names in Python source, each as "line: name"."""
    return [f"{line}: {name}" for line, name in identifiers(source) if is_former(name)]


def in_lua(source):
    """Return the former names among all words of Lua source, comments included."""
    return [name for name in re.findall(r"\w+", source) if is_former(name)]


def python_files(*folders):
    files = [path for folder in folders for path in sorted((PROJECT / folder).rglob("*.py"))]
    assert files
    return files


def differ_by_one_letter(one, other):
    """Whether the names differ by one letter that is added, removed or replaced."""
    if abs(len(one) - len(other)) > 1 or one == other:
        return False
    short, long = sorted((one, other), key=len)
    at = next((i for i, letter in enumerate(short) if letter != long[i]), len(short))
    return short[at + (len(short) == len(long)) :] == long[at + 1 :]


def test_python_has_no_former_name():
    found = [
        f"{path.relative_to(PROJECT)}:{hit}"
        for path in python_files(*FOLDERS)
        for hit in in_python(path.read_text(encoding="utf-8"))
    ]
    assert not found, "\n".join(found)


def test_lua_has_no_former_name():
    scripts = sorted((PROJECT / "lua").rglob("*.lua"))
    assert len(scripts) > 20
    found = [f"{path.relative_to(PROJECT)}: {hit}" for path in scripts for hit in in_lua(path.read_text("utf-8"))]
    assert not found, "\n".join(found)


def test_former_names_are_found():
    assert in_python("class Trip:\n    def the_pilot(self): ...\n") == ["1: Trip", "2: the_pilot"]
    assert in_python("trip = round_trip = in_flight  # a Rider\n'Lane'\n") == []
    assert in_lua("local graves = 1 -- condemn") == ["graves", "condemn"]


def test_class_names_are_unique():
    modules_of = defaultdict(list)
    for path in python_files("redis_kvpoll"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                modules_of[node.name].append(path.relative_to(PACKAGE).as_posix())
    assert {name: modules for name, modules in modules_of.items() if len(modules) > 1} == {}


def test_module_names_differ_by_more_than_a_letter():
    modules = {path.relative_to(PACKAGE) for path in python_files("redis_kvpoll")}
    stems = {path.stem for path in modules if path.stem.strip("_") == path.stem}
    assert [pair for pair in combinations(sorted(stems), 2) if differ_by_one_letter(*pair)] == []


def test_one_letter_is_detected():
    assert differ_by_one_letter("script", "scripts")
    assert differ_by_one_letter("scale", "stale")
    assert not differ_by_one_letter("scan", "acl")
    assert not differ_by_one_letter("room", "room")
