"""The Lua scripts, loaded from the folder ``lua``: inside the package in a wheel, beside it in a checkout.

Lua in Redis has no modules. A script names its includes in its head, and ``load`` puts their text before it, each once.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable

AFTER = ("include/refused.lua", "include/feed.lua")
"""The includes that go after the script, not before, in this order: counting what was refused, and the append to the
change feed, inlined for speed."""


@dataclass(frozen=True, slots=True)
class Script:
    """One Lua script, and the digest by which a server caches it."""

    name: str
    source: str
    sha: str


_CALLED = re.compile(r"redis\.p?call\(\s*['\"](\w+)['\"]")
_COMMENT = re.compile(r"--[^\n]*")
READS = frozenset(
    ("EXISTS", "HEXISTS", "HGET", "HGETALL", "HKEYS", "HMGET", "PTTL", "TIME", "XREVRANGE", "ZRANGEBYSCORE", "ZSCORE")
)
"""The commands of scripts that write nothing."""
READING = frozenset(
    (
        *("attach", "consensus", "entry", "failures", "poll", "poll_rank"),
        *("snapshot", "snapshot_ranks", "snapshot_fields"),
    )
)
"""The scripts that a store with read_only=True may call. Some of them write to start a missing stream, which it does
not ask for."""


def called(script: Script) -> frozenset[str]:
    """Return the commands that a script calls."""
    return frozenset(word.upper() for word in _CALLED.findall(_COMMENT.sub("", script.source)))


@cache
def folder() -> Traversable:
    """Return the folder of the scripts."""
    package = files("redis_kvpoll")
    for candidate in (package / "lua", package / ".." / "lua"):
        if candidate.is_dir():
            return candidate
    raise FileNotFoundError("redis_kvpoll was installed without its lua folder; reinstall it")


@cache
def load(name: str) -> Script:
    """Return the script as it is sent, with its includes."""
    parts = dict.fromkeys([*_includes(f"{name}.lua"), f"{name}.lua"])
    source = "".join(map(_text, sorted(parts, key=lambda path: AFTER.index(path) if path in AFTER else -1)))
    # Redis names scripts by SHA-1; it is not used for security.
    return Script(name, source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


def _includes(path: str) -> Iterator[str]:
    """Yield the includes of a file, each after its own includes."""
    if line := re.search(r"^-- INCLUDE +(.+(?:\n-- {10}.+)*)", _text(path), re.MULTILINE):
        for name in re.findall(r"\w+", line[1]):
            yield from _includes(f"include/{name}.lua")
            yield f"include/{name}.lua"


@cache
def _text(path: str) -> str:
    return (folder() / path).read_text(encoding="utf-8")


def names() -> Iterator[str]:
    """Yield the name of every script."""
    return (file.name.removesuffix(".lua") for file in folder().iterdir() if file.name.endswith(".lua"))
