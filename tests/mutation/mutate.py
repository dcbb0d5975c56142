"""Applies a mutation to the code of this project, and runs a test without and with it.

A mutation replaces a piece of text in a script or a function. Both are changed in place, in this process, so that every
module that has imported them gets the mutated form.
"""

from __future__ import annotations
import __future__

import contextlib
import gc
import hashlib
import inspect
import os
import sys
import textwrap
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from pathlib import Path
from types import CodeType
from typing import Any

import pytest
from _pytest.runner import runtestprotocol

from redis_kvpoll.protocol import scripts
from tests.support import pace
from tests.support.loggers import unheard

PROJECT = Path(__file__).parents[2]
MORE_TIME, LEAST_WAIT = 3.0, 2.0
"""A mutated test waits for each event for three times what all of it took without the mutation, and 2 s."""


class NoSuchTextError(Exception):
    """The code has changed: update the mutation."""


def mutated(where: str, source: str, good: str, bad: str) -> str:
    if source.count(good) != 1:
        raise NoSuchTextError(f"{where} has {good!r} {source.count(good)} times, not once: update the mutation")
    return source.replace(good, bad)


@contextlib.contextmanager
def mutation(where: str, good: str, bad: str) -> Iterator[None]:
    """Replace ``good`` by ``bad`` in a script (``clear.lua``) or a function (``engine.retry:Attempts.wait``)."""
    undo = _in_script(where, good, bad) if where.endswith(".lua") else _in_function(where, good, bad)
    try:
        yield
    finally:
        undo()


def _in_script(where: str, good: str, bad: str) -> Callable[[], None]:
    script = scripts.load(where.removesuffix(".lua"))  # the object that all specs share
    was = script.source, script.sha

    def put(source: str, sha: str) -> None:
        object.__setattr__(script, "source", source)
        object.__setattr__(script, "sha", sha)

    source = mutated(where, script.source, good, bad)
    put(source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())
    return lambda: put(*was)


def _in_function(where: str, good: str, bad: str) -> Callable[[], None]:
    module, _, path = where.partition(":")
    function: Any = import_module(f"redis_kvpoll.{module}")
    for name in path.split("."):
        function = inspect.getattr_static(function, name)
    function = inspect.unwrap(getattr(function, "fget", None) or getattr(function, "__func__", function))
    was = function.__code__
    source = mutated(where, textwrap.dedent(inspect.getsource(function)), good, bad)
    # super() needs the variable __class__ of its class: the new code is nested in a function that has one.
    around = f"def _({', '.join(was.co_freevars)}):\n{textwrap.indent(source, '    ')}"
    compiled = compile(around, f"{where}, mutated", "exec", __future__.annotations.compiler_flag)
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
    """Runs each test without and then with a mutation. A plugin for a pytest inside this one."""

    def __init__(self, apply: Callable[[], contextlib.AbstractContextManager[None]]) -> None:
        self._apply = apply
        self.failures: list[str] = []
        """The reports of what failed without the mutation."""
        self.skips: list[str] = []
        """Why what was skipped without the mutation was."""
        self.ran = 0
        self.errors: list[BaseException] = []
        """What was raised with it."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        for item in session.items:
            began = time.monotonic()
            for report in runtestprotocol(item, log=False):
                if report.skipped:
                    self.skips.append(report.longrepr[2])
                elif not report.passed:
                    self.failures.append(report.longreprtext)
            self.ran += 1
            took = time.monotonic() - began
            with self._apply(), pace.waiting_at_most(LEAST_WAIT + MORE_TIME * took):
                item.stash[_ERRORS] = self.errors
                runtestprotocol(item, log=False)
        return True

    @pytest.hookimpl
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[Any]) -> None:
        if call.excinfo is not None and _ERRORS in item.stash:
            item.stash[_ERRORS].append(call.excinfo.value)


_ERRORS = pytest.StashKey[list[BaseException]]()
_UNUSED_PLUGINS = ("xdist", "cacheprovider", "faulthandler", "unraisableexception", "threadexception")
"""The first three belong to a session of many tests. The others would raise, at the end, what a mutated test left."""


def run_twice(test: str, *change: str) -> Twice:
    """Run a test of this project without and with a mutation."""
    with mutation(*change):
        pass  # raises if its text is gone
    twice = Twice(lambda: mutation(*change))
    without = [word for name in _UNUSED_PLUGINS for word in ("-p", f"no:{name}")]
    here = os.environ.get("PYTEST_CURRENT_TEST", "")
    options = [f"--rootdir={PROJECT}", f"-c{PROJECT / 'pyproject.toml'}", *without]
    # The outer test listens, too: a task that this one loses, or a socket that it drops, is no error there.
    with unheard("asyncio"), unreported():
        pytest.main([*options, str(PROJECT / test)], [twice])
        let_go(twice.errors)
    os.environ["PYTEST_CURRENT_TEST"] = here
    return twice


@contextlib.contextmanager
def unreported() -> Iterator[None]:
    """Let nobody hear of what Python cannot raise: errors in finalizers, and those that end a thread."""

    def ignore(_: Any) -> None: ...

    hooks = sys.unraisablehook, threading.excepthook
    sys.unraisablehook = threading.excepthook = ignore
    try:
        yield
    finally:
        sys.unraisablehook, threading.excepthook = hooks


def let_go(errors: list[BaseException]) -> None:
    """Drop what failed tests hold, such as a socket that was never closed, or a task that nobody waited for.

    Python tells when it is dropped: here nobody minds, and in a later test of this process it would be an error.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        _forget(errors)
        for name in ("last_type", "last_value", "last_traceback"):  # where pytest keeps the last error
            vars(sys).pop(name, None)
        gc.collect()


def _forget(errors: Iterable[BaseException]) -> None:
    """Drop the frames that errors hold, and those of the errors in groups."""
    for error in errors:
        if isinstance(error, BaseExceptionGroup):
            _forget(error.exceptions)
        error.__traceback__ = error.__cause__ = error.__context__ = None
