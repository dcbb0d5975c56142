"""Stand-ins for packages that SGLang imports but does not use here: they have every attribute, and all are empty.

Real triton and torchvision are large and need GPU packages. Kernels can be defined with these; calling one does
nothing, so no test may depend on one.
"""

from __future__ import annotations

import importlib.machinery
import sys
import types
from typing import Any


class _Names(type):
    """Its types have every constant, whose value is its name, as those of an enumeration."""

    def __getattr__(cls, name: str) -> str:
        if name.startswith("_"):
            raise AttributeError(name)
        return name


class Nothing(metaclass=_Names):
    """An attribute of a package that is not there: a type to derive from, a decorator, or a parameter of one."""

    def __init_subclass__(cls, **_: Any) -> None:
        super().__init_subclass__()

    def __init__(self, *_: Any, **__: Any) -> None:
        pass


class StandIn(types.ModuleType):
    """A package that has every submodule; a call of it decorates."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__: list[str] = []
        self.__spec__ = importlib.machinery.ModuleSpec(name, _Loader(), is_package=True)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        value = (
            _Names(name, (Nothing,), {}) if name[0].isupper() or name in TYPES else _module(f"{self.__name__}.{name}")
        )
        setattr(self, name, value)
        return value

    def __call__(self, *values: Any, **options: Any) -> Any:
        """As a decorator, with options or without."""
        return values[0] if len(values) == 1 and callable(values[0]) and not options else lambda function: function


TYPES = ("constexpr", "dtype", "tensor")
"""Types with the names of functions."""


class _Loader:
    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return StandIn(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


class _Finder:
    """Finds what is below one of the packages."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if not isinstance(sys.modules.get(name.partition(".")[0]), StandIn) or "." not in name:
            return None
        return _module(name).__spec__


def _module(name: str) -> StandIn:
    found = sys.modules.get(name)
    if not isinstance(found, StandIn):
        found = sys.modules[name] = StandIn(name)
    return found


def stand_in(name: str, **attributes: Any) -> None:
    """Be the package of that name, from now on."""
    module = _module(name)
    module.__dict__.update(attributes)
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
