"""Imports modules of an SGLang release from its files alone, with stand-ins for all else of SGLang and its engines.

A release's ``common/conn.py`` imports half of SGLang, of which the maps need nothing. Whatever is not among the files
(``WANTED``) is a module here whose attributes are all the same stand-in.
"""

from __future__ import annotations

import contextlib
import importlib.machinery
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

BACKENDS = ("mooncake", "nixl", "mori")
FOLDER = "sglang/srt/disaggregation"
IMPORTED = (
    *(f"{FOLDER}/base/conn.py", f"{FOLDER}/common/conn.py", f"{FOLDER}/common/bootstrap.py"),
    *(f"{FOLDER}/pp_consensus_store.py", *(f"{FOLDER}/{name}/conn.py" for name in BACKENDS)),
)
WANTED = (*IMPORTED, f"{FOLDER}/prefill.py", f"{FOLDER}/decode.py")
"""The files of a release; of the last two only the source is read."""
ABSENT = ("mooncake", "nixl", "mori", "triton", "torch", "zmq", "prometheus_client")
"""Packages that are imported and not used here: of the transfer engines, and to send messages."""


class _StandIn:
    """Anything: a function, a setting, a type; as the base of a class it is left out."""

    def __call__(self, *_: Any, **__: Any) -> Any:
        return self

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __getitem__(self, _: Any) -> Any:
        return self

    def __or__(self, _: Any) -> Any:
        return self

    __ror__ = __or__

    def __iter__(self) -> Any:
        return iter(())

    def __mro_entries__(self, _: tuple[Any, ...]) -> tuple[type, ...]:
        return ()


STAND_IN = _StandIn()


class _Module(ModuleType):
    __path__ = ()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return STAND_IN


class Finder:
    """Finds the modules of one release among its files, and gives a stand-in for every other."""

    def __init__(self, files: Path) -> None:
        self._files = files

    def find_spec(self, name: str, _: Sequence[str] | None, __: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name.partition(".")[0] not in ("sglang", *ABSENT):
            return None
        path = self._files / f"{name.replace('.', '/')}.py"
        if str(path.relative_to(self._files)) in IMPORTED and path.exists():
            return importlib.util.spec_from_file_location(name, path)
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return _Module(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


@contextlib.contextmanager
def alone(*modules: str) -> Iterator[None]:
    """Import these modules of SGLang's, and stand-ins for what they import and is not loaded yet; forget those then."""
    finder = _Rest(modules)
    sys.meta_path.insert(0, finder)  # type: ignore[arg-type]
    try:
        yield
    finally:
        sys.meta_path.remove(finder)  # type: ignore[arg-type]
        for name in finder.made:
            sys.modules.pop(name, None)


class _Rest(Finder):
    def __init__(self, wanted: Sequence[str]) -> None:
        super().__init__(Path())
        self._wanted = wanted
        self.made: list[str] = []

    def find_spec(self, name: str, _: Sequence[str] | None, __: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name.partition(".")[0] != "sglang" or name in self._wanted:
            return None
        self.made.append(name)
        return importlib.machinery.ModuleSpec(name, self, is_package=True)


def use(files: Path) -> None:
    """From now on, ``import sglang…`` gives this release; nothing of SGLang may be imported yet."""
    assert not any(name.partition(".")[0] == "sglang" for name in sys.modules)
    sys.meta_path.insert(0, Finder(files))  # type: ignore[arg-type]
