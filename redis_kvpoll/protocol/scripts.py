"""The Lua scripts, loaded from the folder ``lua``: in a wheel inside the package, in a checkout beside it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable


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
    source = (folder() / f"{name}.lua").read_text(encoding="utf-8")
    if used := re.search(r"^-- USES +(.+)$", source, re.MULTILINE):
        # Lua in Redis has no modules: what scripts share goes in front of each of them; the feed goes behind.
        shared = {
            part: (folder() / "shared" / f"{part}.lua").read_text(encoding="utf-8") for part in used[1].split(", ")
        }
        behind = shared.pop("feed", "")
        source = "".join(shared.values()) + source + behind
    # SHA-1 is how Redis names scripts; nothing here rests on its strength.
    return Script(name, source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


def names() -> Iterator[str]:
    """The name of every script there is."""
    return (file.name.removesuffix(".lua") for file in folder().iterdir() if file.name.endswith(".lua"))
