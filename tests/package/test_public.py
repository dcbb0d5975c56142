"""The public interface: twins agree, names are documented and typed, and the exception tree matches its docstring."""

from __future__ import annotations

import inspect
import re
import typing
from pathlib import Path

import pytest

import redis_kvpoll
from redis_kvpoll import (
    AsyncFailures,
    AsyncLease,
    AsyncMirror,
    AsyncRoom,
    AsyncStatistics,
    AsyncStatusStore,
    Failures,
    Lease,
    Mirror,
    Room,
    Statistics,
    StatusStore,
    errors,
)

PACKAGE = Path(redis_kvpoll.__file__).parent

TWINS = (
    (StatusStore, AsyncStatusStore),
    (Room, AsyncRoom),
    (Lease, AsyncLease),
    (Mirror, AsyncMirror),
    (Failures, AsyncFailures),
    (Statistics, AsyncStatistics),
)
OTHER_NAMES = {"close": "aclose", "__enter__": "__aenter__", "__exit__": "__aexit__"}
AT_ONCE = ("__init__", "from_url", "rooms", "rows", "tail", "mirror", "failures", "statistics", "lease", "after_fork")
AT_ONCE += ("snapshot", "seconds")
"""Methods that make no call, or return an asynchronous iterator or context manager."""


WITHIN = {"after_fork", "sync_token", "server_changed", "observe_write"}
"""Methods that the library itself calls."""


def methods_of(cls):
    """The methods of a class and its bases, without properties, which both twins inherit."""
    names = {name for base in cls.__mro__[:-1] for name in vars(base) if callable(getattr(cls, name))}
    return {name for name in names if name[0] != "_" or name in ("__init__", *OTHER_NAMES, *OTHER_NAMES.values())}


PAIRS = [
    pytest.param(
        getattr(blocking, name), getattr(other, OTHER_NAMES.get(name, name), None), id=f"{blocking.__name__}.{name}"
    )
    for blocking, other in TWINS
    for name in sorted(methods_of(blocking))
]


class TestTwins:
    @pytest.mark.parametrize(("blocking", "other"), TWINS)
    def test_the_same_methods(self, blocking, other):
        assert {OTHER_NAMES.get(name, name) for name in methods_of(blocking)} == methods_of(other)
        assert len(methods_of(blocking)) >= 4

    @pytest.mark.parametrize(("blocking", "other"), TWINS)
    def test_properties_are_of_a_common_base(self, blocking, other):
        assert [
            name for cls in (blocking, other) for name, value in vars(cls).items() if isinstance(value, property)
        ] == []

    @pytest.mark.parametrize(("method", "twin"), PAIRS)
    def test_the_same_signature(self, method, twin):
        assert signature(twin) == signature(method)
        overloads = [list(map(signature, typing.get_overloads(one))) for one in (method, twin)]
        assert overloads[0] == overloads[1]

    @pytest.mark.parametrize(("method", "twin"), PAIRS)
    def test_awaited_where_the_other_waits(self, method, twin):
        answers_at_once = twin is method or method.__name__ in AT_ONCE
        assert inspect.iscoroutinefunction(twin) is not answers_at_once

    @pytest.mark.parametrize(("method", "twin"), [pair for pair in PAIRS if "._" not in pair.id])
    def test_every_public_method_has_a_docstring(self, method, twin):
        for one in (method, twin):
            assert re.match(r"[A-Z].+", inspect.getdoc(one) or ""), one

    def test_every_public_class_has_a_docstring(self):
        for public in filter(inspect.isclass, (getattr(redis_kvpoll, name) for name in redis_kvpoll.__all__)):
            assert vars(public).get("__doc__"), public


def signature(method):
    """Parameters and result, with asyncio's names replaced by the blocking ones."""
    text = str(inspect.signature(method))
    return (
        text.replace("AsyncIterator", "Iterator")
        .replace("aio.", "sync.")
        .replace("AsyncMirror", "Mirror")
        .replace("AsyncStatistics", "Statistics")
        .replace("AsyncFailures", "Failures")
        .replace("AsyncLease", "Lease")
        .replace("AsyncRoom", "Room")
        .replace("AsyncDispatcher", "Dispatcher")
    )


class TestPublicNames:
    def test_all_of_them_resolve(self):
        assert sorted(redis_kvpoll.__all__) == redis_kvpoll.__all__
        assert all(hasattr(redis_kvpoll, name) for name in redis_kvpoll.__all__)

    def test_every_error_is_public(self):
        assert {cls.__name__ for cls in raised()} <= set(redis_kvpoll.__all__)

    def test_the_types_of_each_method_are_checked(self):
        """By mypy, in tests/package/public_types.py (see tests/package/test_wheel.py)."""
        used = (Path(__file__).parent / "public_types.py").read_text(encoding="utf-8")
        public = {name for twins in TWINS for cls in twins for name in methods_of(cls) if name[0] != "_"}
        assert sorted(name for name in public - WITHIN if f".{name}(" not in used) == []

    def test_package_has_py_typed(self):
        assert (PACKAGE / "py.typed").is_file()


def raised():
    """The public exceptions that errors.py defines."""
    classes = [
        value for value in vars(errors).values() if isinstance(value, type) and value.__module__ == errors.__name__
    ]
    return [cls for cls in classes if not cls.__name__.startswith("_")]


def drawn_tree():
    """{name: (parent or None, other base or None)} from the tree in the docstring."""
    tree, path = {}, []
    for line in errors.__doc__.split("\n")[1:]:
        match = re.match(r"([│├└─ ]*)([A-Z]\w+)(?: \((\w+)\))?", line)
        if match:
            depth = len(match[1]) // 4
            path[depth:] = [match[2]]
            tree[match[2]] = (path[depth - 1] if depth else None, match[3])
    return tree


def test_exception_tree_matches_docstring():
    tree = {}
    for cls in raised():
        ancestors = [base.__name__ for base in cls.__mro__[1:] if base in raised()]
        own = {base for base in cls.__mro__ if base.__module__ == "builtins"} - {BaseException, Exception, object}
        inherited = {base for ancestor in cls.__mro__[1:] if ancestor in raised() for base in ancestor.__mro__}
        other = [base.__name__ for base in cls.__mro__ if base in own - inherited]
        tree[cls.__name__] = (ancestors[0] if ancestors else None, other[0] if other else None)
    assert tree == drawn_tree()
    assert len(tree) > 10


@pytest.mark.parametrize("mirror", [Mirror, AsyncMirror])
def test_get_of_a_mirror_takes_no_keyword(mirror):
    """While a mirror is open, its ``get`` is a dict's own, which takes none: the types must say so."""
    parameters = inspect.signature(mirror.get).parameters.values()
    assert {parameter.kind for parameter in parameters} == {inspect.Parameter.POSITIONAL_ONLY}
