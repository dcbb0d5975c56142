"""Deliberate faults in the code of this project, and running a test with one of them on.

A fault is a piece of text in a script or a function, and what is put in its place. Both are changed where they are, in
this process, so that whoever has imported them gets the faulty ones, too.
"""

from __future__ import annotations
import __future__

import contextlib
import hashlib
import inspect
import os
import textwrap
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import CodeType
from typing import Any

import pytest
from _pytest.runner import runtestprotocol

from redis_kvpoll.protocol import scripts

PROJECT = Path(__file__).parents[2]


class NoSuchTextError(Exception):
    """The code is another now: the fault must be brought up to date."""


def changed(where: str, source: str, good: str, bad: str) -> str:
    if source.count(good) != 1:
        raise NoSuchTextError(f"{where} has {good!r} {source.count(good)} times, not once: bring the fault up to date")
    return source.replace(good, bad)


@contextlib.contextmanager
def fault(where: str, good: str, bad: str) -> Iterator[None]:
    """Put ``bad`` in the place of ``good``: in a script (``clear.lua``) or a function (``engine.retry:Attempts``)."""
    undo = _in_a_script(where, good, bad) if where.endswith(".lua") else _in_a_function(where, good, bad)
    try:
        yield
    finally:
        undo()


def _in_a_script(where: str, good: str, bad: str) -> Callable[[], None]:
    script = scripts.load(where.removesuffix(".lua"))  # the one of which all specs know
    was = script.source, script.sha

    def put(source: str, sha: str) -> None:
        object.__setattr__(script, "source", source)
        object.__setattr__(script, "sha", sha)

    source = changed(where, script.source, good, bad)
    put(source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())
    return lambda: put(*was)


def _in_a_function(where: str, good: str, bad: str) -> Callable[[], None]:
    module, _, path = where.partition(":")
    function: Any = import_module(f"redis_kvpoll.{module}")
    for name in path.split("."):
        function = inspect.getattr_static(function, name)
    function = inspect.unwrap(getattr(function, "fget", None) or getattr(function, "__func__", function))
    was = function.__code__
    source = changed(where, textwrap.dedent(inspect.getsource(function)), good, bad)
    # super() rests on a variable of the class around; so the new code stands in a function that has one of that name.
    around = f"def _({', '.join(was.co_freevars)}):\n{textwrap.indent(source, '    ')}"
    compiled = compile(around, f"{where} with a fault", "exec", __future__.annotations.compiler_flag)
    function.__code__ = next(code for code in _codes(compiled) if code.co_name == was.co_name)

    def undo() -> None:
        function.__code__ = was

    return undo


def _codes(code: CodeType) -> Iterator[CodeType]:
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield inner
            yield from _codes(inner)


class Twice:
    """Runs each test as it is, and then with a fault on. A plugin for a pytest inside of this one."""

    def __init__(self, apply: Callable[[], contextlib.AbstractContextManager[None]]) -> None:
        self._apply = apply
        self.sound: list[str] = []
        """What went wrong without the fault."""
        self.ran = 0
        self.errors: list[BaseException] = []
        """What went wrong with it."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        for item in session.items:
            for report in runtestprotocol(item, log=False):
                if not report.passed:
                    self.sound.append(report.longreprtext)
            self.ran += 1
            with self._apply():
                item.stash[_ERRORS] = self.errors
                runtestprotocol(item, log=False)
        return True

    @pytest.hookimpl
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[Any]) -> None:
        if call.excinfo is not None and _ERRORS in item.stash:
            item.stash[_ERRORS].append(call.excinfo.value)


_ERRORS = pytest.StashKey[list[BaseException]]()


def run_twice(test: str, *change: str) -> Twice:
    """Run a test of this project, as it is and with a fault on."""
    with fault(*change):
        pass  # here it is heard of if that cannot be done any more
    twice = Twice(lambda: fault(*change))
    # No plugin that is there for a session of many tests; and the outer pytest goes on to watch for crashes.
    without = [word for name in ("xdist", "cacheprovider", "faulthandler") for word in ("-p", f"no:{name}")]
    here = os.environ.get("PYTEST_CURRENT_TEST", "")
    pytest.main([f"--rootdir={PROJECT}", f"-c{PROJECT / 'pyproject.toml'}", *without, str(PROJECT / test)], [twice])
    os.environ["PYTEST_CURRENT_TEST"] = here
    return twice
