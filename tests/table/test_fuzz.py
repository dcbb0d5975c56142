"""Junk into every public method, found by inspection: only documented errors, and nothing written.

New methods are included by themselves, also those of objects that a method returns (a mirror).
"""

from __future__ import annotations

import collections.abc
import contextlib
import dataclasses
import enum
import inspect
import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

import redis_kvpoll
from redis_kvpoll import (
    AsyncStatusStore,
    CorruptEntryError,
    InvalidInputError,
    KVPollError,
    OutcomeUnknownError,
    ServerRefusedError,
    StatusStore,
    StoreClosedError,
    StoreUnavailableError,
)
from redis_kvpoll.statistics.base import NotSyncedYetError
from tests.support import pace
from tests.support.fuzzing import examples, junk
from tests.support.looped import Loop

STORES = {"sync": StatusStore, "async": AsyncStatusStore}
NOT_FOR_INPUT = (CorruptEntryError, OutcomeUnknownError, ServerRefusedError, StoreClosedError, StoreUnavailableError)
"""Errors that mean that bad input was sent to the server."""
ENDS = {"close", "aclose"}
INTERNAL = {"after_fork", "sync_token", "server_changed", "observe_write"}
"""Methods by which a store notifies its mirror; not for users."""
UNCHECKED = {"mirror().get"}
"""A dict's own method: an unhashable argument is a TypeError."""
ENDLESS = {"tail"}
"""Their input is checked at the call; their result is not read."""
PATIENCE = pace.seconds(10)
"""Seconds; none of these calls has to wait."""

GOOD = {
    "room": 1,
    "rooms": [1, 2],
    "statuses": {1: 1},
    "status": 1,
    "reason": "why",
    "length": 7,
    "default": None,
    "last": 0,
    "timeout": 0,
    "callback": print,
    "namespace": "fuzzed",
    "ttl": 60.0,
    "terminal_ttl": 30.0,
    "deadline": 5.0,
    "policy": "strict",
    "mode": "prefill",
    "shards": 2,
    "feed_length": 100,
    "request": "rid",
    "generation": "1763800000000123",
    "name": "prefill-0",
    "heartbeat": 5.0,
    "rank": 0,
    "world_size": 2,
}
"""A good value for each parameter, so that junk gets past those before it. Others get their default, or junk."""


brief = junk.filter(lambda value: value is not None and not (isinstance(value, int | float) and value >= 1))
"""Junk for a timeout, without long ones."""


def entries(cls):
    """The public methods of a class, its own and those that it inherits."""
    return sorted(
        name for name, of in inspect.getmembers(cls, callable) if not name.startswith("_") and name not in INTERNAL
    )


def options_of(cls):
    return [name for name, of in inspect.signature(cls.__init__).parameters.items() if of.kind is of.KEYWORD_ONLY]


@dataclasses.dataclass(repr=False)  # the repr of some of the junk raises
class Draw:
    """Junk, all drawn before a test calls anything: Hypothesis wants the same draws whatever the calls answer."""

    choices: random.Random
    values: list[object]
    several: list[object]
    brief: object


draws = st.builds(
    Draw,
    st.integers(0, 2**64).map(random.Random),
    st.lists(junk, min_size=5, max_size=5),
    st.lists(junk, max_size=3),
    brief,
)


def arguments(draw, method):
    """(positional, by keyword): each is junk, or fits; at least one is junk where there is any."""
    parameters = [of for of in inspect.signature(method).parameters.values() if of.name not in ("self", "cls")]
    spoiled = draw.choices.choice([of.name for of in parameters]) if parameters else None
    args, kwargs = [], {}
    for of in parameters:
        fits = of.name in GOOD or of.default is not of.empty or of.kind is of.VAR_POSITIONAL
        is_junk = of.name == spoiled or not fits or draw.choices.random() < 1 / 4
        if of.kind is of.VAR_POSITIONAL:
            args += draw.several if is_junk else [4]
        elif of.kind is of.VAR_KEYWORD:
            continue
        else:
            spoil = draw.brief if of.name == "timeout" else draw.choices.choice(draw.values)
            value = spoil if is_junk else GOOD.get(of.name, of.default)
            if of.kind is of.KEYWORD_ONLY:
                kwargs[of.name] = value
            else:
                args.append(value)
    return args, kwargs


class Caller:
    """Calls methods to their end, blocking and asyncio alike. A context manager."""

    def __init__(self):
        self._loop = Loop()

    def __enter__(self):
        self._loop.__enter__()
        return self

    def __exit__(self, *_):
        self._loop.__exit__()

    def __call__(self, name, method, *args, **kwargs):
        """The answer; what it iterates over is iterated over."""

        async def call():
            answer = method(*args, **kwargs)
            if inspect.isawaitable(answer):
                return await answer
            if isinstance(answer, collections.abc.AsyncIterator) and name not in ENDLESS:
                return [item async for item in answer]
            return answer

        # Blocking calls too are made outside of this thread, which may so give up on them.
        answer = self._loop.run(call())
        if isinstance(answer, collections.abc.Iterator) and name not in ENDLESS:
            return list(answer)
        return answer

    def enter(self, handle):
        if hasattr(handle, "__aenter__"):
            self("enter", handle.__aenter__)
        elif hasattr(handle, "__enter__"):
            handle.__enter__()
        return handle

    def close(self, handle):
        close = getattr(handle, "aclose", None) or getattr(handle, "close", None)
        if close:
            self("close", close)
        elif hasattr(handle, "__aexit__"):
            self("close", handle.__aexit__, None, None, None)
        elif hasattr(handle, "__exit__"):
            handle.__exit__(None, None, None)


@pytest.fixture
def caller():
    with Caller() as caller:
        yield caller


@pytest.fixture(params=STORES)
def kind(request):
    return request.param


def open_store(caller, kind, server, **options):
    client = server.store_client if kind == "sync" else server.async_client
    return caller("open", lambda: STORES[kind](client(), **options))


def is_handle(answer):
    """Whether a method returned an object with methods of its own, not a value."""
    is_value = isinstance(answer, tuple | enum.Enum) or dataclasses.is_dataclass(answer)
    return type(answer).__module__.startswith("redis_kvpoll") and not is_value


HANDLES = {}
FAILURES = (redis_kvpoll.Failures, redis_kvpoll.AsyncFailures)
"""Made with a function, and so not by an argument that fits: tests/mirror/test_failures.py has their refusals."""


def handles(caller, store):
    """[(method, good arguments, class)] of the methods that return handles."""
    if type(store) in HANDLES:
        return HANDLES[type(store)]
    found = []
    for name in entries(type(store)):
        parameters = inspect.signature(getattr(type(store), name)).parameters.values()
        brief_if_it_waits = {of.name: 0 for of in parameters if of.name == "timeout"}
        needed = [of.name for of in parameters if of.default is of.empty and of.kind is of.POSITIONAL_OR_KEYWORD][1:]
        if name in ENDS | ENDLESS or inspect.ismethod(getattr(type(store), name)) or not GOOD.keys() >= set(needed):
            continue
        try:
            answer = caller(name, getattr(store, name), *[GOOD[of] for of in needed], **brief_if_it_waits)
        except KVPollError:
            continue
        if is_handle(answer):
            found.append((name, [GOOD[of] for of in needed], type(answer)))
            caller.close(answer)
    HANDLES[type(store)] = found
    return found


def contents(client):
    """All keys and values of a server, without their TTLs."""
    return {key: (client.type(key), client.dump(key)) for key in client.scan_iter()}


def check(caller, client, name, method, args, kwargs, refused_after=None):
    """Call with junk: the result is an answer or an error of the library. ``refused_after``: the contents before."""
    started = time.monotonic()
    try:
        answer = caller(name, method, *args, **kwargs)
    except KVPollError as caught:
        answer = caught
    except TypeError:
        assert name in UNCHECKED
        return
    if isinstance(answer, KVPollError):
        if not isinstance(answer, NotSyncedYetError):  # within a drawn timeout
            assert not isinstance(answer, NOT_FOR_INPUT), f"{name}: {answer!r}"
        assert str(answer).isprintable(), answer
        assert len(str(answer)) < 400
        if isinstance(answer, InvalidInputError):
            assert contents(client) == (refused_after or {}), f"{name}: refused, and yet written"
    elif is_handle(answer):
        caller.close(answer)
    assert time.monotonic() - started < PATIENCE, name


def call_method(caller, client, make, made_by, name, draw):
    """Call a method of a new handle with junk."""
    handle = caller.enter(caller(make.__name__, make, *made_by))
    try:
        args, kwargs = arguments(draw, getattr(type(handle), name))
        check(caller, client, f"{make.__name__}().{name}", getattr(handle, name), args, kwargs, contents(client))
    finally:
        caller.close(handle)


@contextlib.contextmanager
def opened(caller, kind, server):
    store = open_store(caller, kind, server)
    try:
        yield store
    finally:
        caller.close(store)


def accepted(make):
    """The result of ``make``, or None when the input was refused."""
    try:
        return make()
    except InvalidInputError as error:
        refusal = str(error)
    assert refusal.isprintable()
    return None


@pytest.mark.parametrize("server", ["fakeredis", "valkey"], indirect=True)
class TestJunkArguments:
    @given(draws)
    @examples(30)
    def test_store_methods_refuse_or_work(self, caller, kind, server, draw):
        client = server.client()
        for name in entries(STORES[kind]):
            if name in ENDS | {"from_url"}:
                continue
            client.flushall()
            with opened(caller, kind, server) as store:
                args, kwargs = arguments(draw, getattr(type(store), name))
                check(caller, client, name, getattr(store, name), args, kwargs)

    @given(draws)
    @examples(15)
    def test_handle_methods_refuse_or_work(self, caller, kind, server, draw):
        client = server.client()
        client.flushall()
        with opened(caller, kind, server) as store:
            found = handles(caller, store)  # its follower of waits begins the feed anew after each loss
        assert "mirror" in {name for name, _, _ in found}
        with opened(caller, kind, server) as store:
            for maker, made_by, cls in found:
                for name in entries(cls):
                    if name not in ENDS:
                        client.flushall()
                        call_method(caller, client, getattr(store, maker), made_by, name, draw)

    @given(st.data())
    @examples(100)
    def test_store_options_refuse_or_work(self, caller, kind, server, data):
        """Either the options are refused, or the store works."""
        client = server.client()
        client.flushall()
        names = data.draw(st.lists(st.sampled_from(options_of(STORES[kind])), unique=True))
        options = {name: data.draw(st.one_of(junk, st.just(GOOD.get(name)))) for name in names}
        store = accepted(lambda: open_store(caller, kind, server, **options))
        if store is None:
            assert contents(client) == {}
            return
        try:
            caller("update_status", store.update_status, 1, 1)
        finally:
            caller.close(store)


@pytest.mark.parametrize("maker", STORES.values())
class TestJunkUrlOptions:
    @given(st.data())
    @examples(100)
    def test_from_url_options_refuse_or_work(self, maker, data):
        names = data.draw(st.lists(st.sampled_from(options_of(maker)), unique=True))
        options = {name: data.draw(st.one_of(junk, st.just(GOOD.get(name)))) for name in names}
        store = accepted(lambda: maker.from_url("redis://127.0.0.1:1", **options))
        assert store is None or isinstance(store, maker)  # it has sent nothing yet


class TestSearch:
    def test_every_public_class_is_fuzzed_or_a_value(self, caller, server, kind):
        """A class that is neither fuzzed here nor a mere value would have been forgotten."""
        store = open_store(caller, kind, server)
        try:
            given_by = {cls for _, _, cls in handles(caller, store)}
        finally:
            caller.close(store)
        for name in redis_kvpoll.__all__:
            public = getattr(redis_kvpoll, name)
            if not inspect.isclass(public) or public in {*STORES.values(), *given_by, *FAILURES}:
                continue
            is_value = issubclass(public, BaseException | enum.Enum | tuple) or dataclasses.is_dataclass(public)
            # Handles of the other kind of store are covered by the other parameter.
            is_others = name.startswith("Async") is (kind == "sync")
            assert is_value or is_others, f"{name} is not fuzzed: which method returns one, and with which arguments?"

    def test_options_are_found(self):
        assert {"namespace", "ttl", "feed_length"} <= set(options_of(StatusStore))
        assert options_of(StatusStore) == options_of(AsyncStatusStore)

    def test_every_parameter_has_a_good_value(self):
        """Otherwise junk would never get past the first argument."""
        for maker, name in [(store, name) for store in STORES.values() for name in entries(store)]:
            for of in inspect.signature(getattr(maker, name)).parameters.values():
                fits = of.name in GOOD or of.default is not of.empty or of.kind in (of.VAR_POSITIONAL, of.VAR_KEYWORD)
                assert fits or of.name in ("self", "url"), f"{name}({of.name}): put what fits into GOOD"
