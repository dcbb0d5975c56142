"""The Lua scripts, loaded from the folder ``lua``: in a wheel inside the package, in a checkout beside it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable

FEED = "include/feed.lua"
"""The tail of a script that appends to the change feed: not a function, for speed."""


@dataclass(frozen=True, slots=True)
class Script:
    """One Lua script and the digest under which a server caches it."""

    name: str
    source: str
    sha: str


@cache
def folder() -> Traversable:
    """Where the scripts are."""
    package = files("redis_kvpoll")
    for place in (package / "lua", package / ".." / "lua"):
        if place.is_dir():
            return place
    raise FileNotFoundError("redis_kvpoll was installed without its lua folder; reinstall it")


@cache
def load(name: str) -> Script:
    """The script as it is sent. Lua in Redis has no modules, so its includes stand in front of it; the feed behind."""
    parts = dict.fromkeys([*_includes(f"{name}.lua"), f"{name}.lua"])
    source = "".join(map(_text, sorted(parts, key=lambda path: path == FEED)))
    # SHA-1 is how Redis names scripts; nothing here rests on its strength.
    return Script(name, source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


def _includes(path: str) -> Iterator[str]:
    """What a file includes, each after what it includes itself."""
    if line := re.search(r"^-- INCLUDE +(.+(?:\n-- {10}.+)*)", _text(path), re.MULTILINE):
        for name in re.findall(r"\w+", line[1]):
            yield from _includes(f"include/{name}.lua")
            yield f"include/{name}.lua"


@cache
def _text(path: str) -> str:
    return (folder() / path).read_text(encoding="utf-8")


def names() -> Iterator[str]:
    """The name of every script there is."""
    return (file.name.removesuffix(".lua") for file in folder().iterdir() if file.name.endswith(".lua"))
