"""The pairs of modules in sync and aio that are equal but for ``await``, docstrings included."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import redis_kvpoll

PACKAGE = Path(redis_kvpoll.__file__).parent
PAIRS = ("connect", "listing", "room", "store", "table")
# The names of asyncio, each with its blocking counterpart.
WORDS = (
    (r"\b(?:await|async) ", ""),
    (r"\bAwaitable\[(\w+)\]", r"\1"),
    (r"(?<![A-Za-z])Async(?=[A-Z])", ""),
    (r"\bFakeAsyncRedis\b", "FakeRedis"),
    (r"\baclose\b", "close"),
    (r"\b__a(enter|exit)__\b", r"__\1__"),
    (r"for (\w+) in (\w+):\n +yield \1\b", r"yield from \2"),  # an async generator cannot use yield from
)
# What may differ: redis-py's clients, the clean-up after a failed constructor, and what is specific to asyncio.
DIFFERENT_BODY = {"connect._read_cluster", "connect._wrong_client", "connect._stop", "store.StatusStore.from_url"}
DIFFERENT_DOC = {"room.Room", "store.StatusStore"}


def without_async(source):
    for word, blocking in WORDS:
        source = re.sub(word, blocking, source)
    return source


def comparable(module, source):
    """The module's code without imports, and without what may differ."""
    tree = ast.parse(source)
    tree.body = [node for node in tree.body if not isinstance(node, ast.Import | ast.ImportFrom)]
    for scope, owner in [
        (module, tree),
        *((f"{module}.{c.name}", c) for c in tree.body if isinstance(c, ast.ClassDef)),
    ]:
        if scope in DIFFERENT_DOC:
            del owner.body[0]
        for node in owner.body:
            if f"{scope}.{getattr(node, 'name', '')}" in DIFFERENT_BODY:
                node.body, node.returns = node.body[:1] if ast.get_docstring(node) else [], None
    return ast.unparse(ast.fix_missing_locations(tree)).splitlines()


@pytest.mark.parametrize("module", PAIRS)
def test_twins_differ_only_in_await(module):
    sync, aio = ((PACKAGE / side / f"{module}.py").read_text(encoding="utf-8") for side in ("sync", "aio"))
    assert "await " in aio
    assert comparable(module, without_async(aio)) == comparable(module, sync)


def test_comparison_finds_a_difference():
    """In code, in a docstring, and in a signature."""
    source = 'async def get(self) -> int:\n    """One."""\n    return await self.run(1)\n'
    plain = comparable("m", without_async(source))
    for good, bad in (("run(1)", "run(2)"), ("One.", "Two."), ("-> int", "-> str")):
        assert comparable("m", without_async(source.replace(good, bad))) != plain
