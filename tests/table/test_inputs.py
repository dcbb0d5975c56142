"""Bad input is refused with a clear message, and nothing is written, not even the namespace's settings.

For random junk see tests/table/test_fuzz.py and tests/cli/test_fuzz.py.
"""

from __future__ import annotations

import decimal
import enum
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redis_kvpoll import AsyncStatusStore, InvalidInputError, KVPoll, Outcome, StatusStore, Update
from redis_kvpoll.errors import printable
from redis_kvpoll.validation import MAX_ROOM
from tests.support.fuzzing import HUGE, Hostile, Index, NoDimensions, examples, junk
from tests.support.leasing import ManualLease, record

NO_ROOM = [True, False, "1", b"1", "", 1.0, math.nan, math.inf, None, -1, 2**64, HUGE, -HUGE, (), [1], {}, object()]
NO_ROOM += [1j, decimal.Decimal(1), Index(-1), Index(2**64), Hostile(), random, int, "\x1b[31m"]
NO_STATUS = [True, False, "Success", "4", b"4", 4.0, math.nan, None, -1, 5, HUGE, (), [], {}, Index(5), Hostile()]
NO_FILTER = [bad for bad in NO_STATUS if bad is not None]
NO_REASON = ["", " ", "\n\t", None, b"why", 1, True, [], ValueError("why")]
NO_LENGTH = [True, "1", 1.0, math.nan, None, -1, 2**53, HUGE, [], Index(-1), Hostile()]
NO_LIST = ["12", "", b"12", bytearray(b"12"), None, 1, 1.0, True, object(), NoDimensions(), Hostile(), int]
NO_SECONDS = [
    math.nan,
    math.inf,
    -math.inf,
    0,
    0.0,
    -1,
    -0.5,
    0.0009,
    1e9 + 1,
    10**400,
    HUGE,
    True,
    False,
    "1",
    None,
    1j,
    [],
]
NO_NAMESPACE = ["", " ", "a b", "a/b", "{a}", "a:b", "a*", "a\n", "ä", "a" * 65, None, 1, True, b"a", ["a"], "\x1b"]
NO_CHOICE = ["", "Strict", "STRICT", "compat ", b"strict", 1, True, 0, [], {}, "\x1b[31m", Hostile()]
NO_SHARDS = [0, -1, 1025, HUGE, True, False, 1.0, "1", math.nan, [], Hostile()]
NO_COUNT = [-1, True, False, 1.0, "1", "", math.nan, None, [], -HUGE, Index(-1), Hostile()]
NO_FEED = [-1, 10_000_001, HUGE, True, False, 1.0, "1", "", math.nan, [], Index(-1), Hostile()]

# Each public method with one argument to be spoiled: (name, how it is called, bad values, their name)
BY_ROOM = [
    "check_status",
    "get",
    "clear",
    "pop_decode_prefix_len",
    "failure_exception",
    "failure_reason",
    "entry",
    "abort",
    "history",
]
CALLS = [
    *[(name, lambda bad: (bad,), NO_ROOM, "a room") for name in BY_ROOM],
    ("update_status", lambda bad: (bad, KVPoll.Success), NO_ROOM, "a room"),
    ("update_status", lambda bad: (1, bad), NO_STATUS, "a status"),
    ("update_many", lambda bad: ({2: 1, bad: 1} if hashable(bad) else {2: 1, -1: 1},), NO_ROOM, "a room"),
    ("update_many", lambda bad: ({2: 1, 1: bad},), NO_STATUS, "a status"),
    ("update_many", lambda bad: (bad,), [*NO_LIST, [1], [(1, 2)], {1, 2}], "it takes a mapping"),
    ("abort", lambda bad: (1, bad), NO_REASON, "a reason"),
    ("record_failure", lambda bad: (bad, "why"), NO_ROOM, "a room"),
    ("record_failure", lambda bad: (1, bad), NO_REASON, "a reason"),
    ("set_decode_prefix_len", lambda bad: (bad, 1), NO_ROOM, "a room"),
    ("set_decode_prefix_len", lambda bad: (1, bad), NO_LENGTH, "a decode prefix length"),
    *[(name, lambda bad: ([1, bad],), NO_ROOM, "a room") for name in ("touch", "clear_many", "poll")],
    *[(name, lambda bad: (bad,), NO_LIST, "it takes a list of rooms") for name in ("touch", "clear_many", "poll")],
    *[(name, lambda bad: (bad,), NO_FILTER, "a status") for name in ("rooms", "rows")],
    ("tail", lambda bad: (bad,), NO_COUNT, "last"),
]
OPTIONS = [
    *[(name, NO_SECONDS, name) for name in ("ttl", "terminal_ttl", "deadline")],
    ("namespace", NO_NAMESPACE, "a namespace"),
    ("policy", NO_CHOICE, "policy"),
    ("mode", [*NO_CHOICE, "strict"], "mode"),
    ("shards", NO_SHARDS, "shards"),
    ("feed_length", NO_FEED, "feed_length"),
]


class Lying(str):
    """It claims to be what every check of a text wants, and encodes as no UTF-8."""

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other):
        return True

    def strip(self):
        return "text"

    def isprintable(self):
        return True

    def encode(self, *_):
        return b"\xff"


def hashable(value):
    return type(value).__hash__ is not None and not isinstance(value, list)


def refused(call, names):
    """Assert that a call is refused as bad input, in one printable line that names the method and the argument."""
    with pytest.raises(InvalidInputError) as caught:
        call()
    text = str(caught.value)
    assert text.startswith(names), text
    assert printable(text) == text
    assert len(text) < 250
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("name", "arguments", "bad", "names"), CALLS, ids=lambda value: value if isinstance(value, str) else ""
)
def test_method_refuses_bad_argument(store, client, name, arguments, bad, names):
    for value in bad:
        refused(lambda value=value: getattr(store, name)(*arguments(value)), f"{name}: {names}")
    assert client.dbsize() == 0


class TestOptions:
    @pytest.mark.parametrize(("option", "bad", "names"), OPTIONS)
    def test_store_refuses_bad_option(self, make_store, client, option, bad, names):
        for value in bad:
            refused(lambda value=value: make_store(**{option: value}), names)
        assert client.dbsize() == 0

    @pytest.mark.parametrize("maker", [StatusStore, AsyncStatusStore])
    @pytest.mark.parametrize(("option", "bad", "names"), OPTIONS)
    def test_from_url_refuses_bad_option(self, maker, option, bad, names):
        for value in bad:
            refused(lambda value=value: maker.from_url("redis://localhost:1", **{option: value}), names)

    @pytest.mark.parametrize("maker", [StatusStore, AsyncStatusStore])
    @pytest.mark.parametrize("client", [None, "redis://localhost", 1, object(), StatusStore])
    def test_unknown_client_is_refused(self, maker, client):
        refused(lambda: maker(client), f"{maker.__name__} takes a redis.")

    def test_limits_of_options_are_accepted(self, make_store):
        for option, values in {
            "ttl": (0.001, 1, 1e9, 10**9),
            "deadline": (0.001, 1e9),
            "namespace": ("a", "A-z_0.9", "a" * 64, "..", "-"),
            "shards": (1, 1024, Index(3), None),
            "feed_length": (0, 1, 10_000_000, Index(3), None),
            "policy": ("compat", "strict", None),
            "mode": ("none", "prefill", "decode", None),
        }.items():
            for value in values:
                make_store(**{option: value})

    def test_longest_deadline_serves_several_shards(self, make_store):
        store = make_store({"socket_timeout": None}, shards=2, deadline=1e9)
        assert len(store.update_many(dict.fromkeys(range(8), 1))) == 8


class TestAccepted:
    def test_index_types_are_integers(self, store):
        one, two = Index(2**64 - 1), Index(2**53 + 1)
        assert store.update_status(one, Index(1)).status is KVPoll.Bootstrapping
        assert store.update_many({two: Index(3)}) == {2**53 + 1: Update(Outcome.CREATED, KVPoll.Transferring)}
        store.set_decode_prefix_len(one, Index(7))
        assert store.pop_decode_prefix_len(one) == 7
        assert store.poll([one, two]) == [KVPoll.Bootstrapping, KVPoll.Transferring]
        assert set(store.clear_many((one, two))) == {2**64 - 1, 2**53 + 1}

    def test_text_of_an_enum_is_its_value(self, make_store, client):
        """It formats as its name."""
        names = ["prod", "strict", "prefill", "rid", "prefill-0"]
        prod, strict, prefill, rid, owner = enum.Enum("Texts", {name: name for name in names}, type=str)
        store = make_store(namespace=prod, policy=strict, mode=prefill)
        assert store.open(1, request=rid).request == "rid"
        ManualLease(store, owner).take()
        assert client.hmget("kvpoll:{prod}:settings", "policy", "mode") == ["strict", "prefill"]
        assert client.hget("kvpoll:{prod}:room:1", "request") == "rid"
        assert record(client, "prefill-0", "prod")

    def test_text_is_checked_as_what_is_sent(self, make_store):
        """A subclass of str may say of itself what it likes."""
        store = make_store(policy="strict")
        store.update_many({1: 1, 2: 1})
        store.abort(1, Lying("why"))
        assert store.failure_reason(1) == "why"
        refused(lambda: store.abort(2, Lying(" ")), "abort: a reason must not be empty")
        refused(lambda: store.open(3, Lying("a\nb")), "open: a request is")
        refused(lambda: make_store(policy=Lying("lax")), "policy is one of")

    def test_any_iterable_of_rooms_is_accepted(self, store):
        store.update_status(1, 1)
        for rooms in ([1], (1,), {1}, {1: "x"}, iter([1]), range(1, 2), (n for n in [1]), memoryview(b"\x01")):
            assert store.poll(rooms) == [KVPoll.Bootstrapping]

    def test_limits_of_arguments_are_accepted(self, store):
        for room in (0, MAX_ROOM):
            assert store.update_status(room, 1).status is KVPoll.Bootstrapping
            store.set_decode_prefix_len(room, 2**53 - 1)
            assert store.pop_decode_prefix_len(room) == 2**53 - 1
        assert sorted(store.rooms()) == [0, MAX_ROOM]
        store.abort(0, "x" * 1000)
        assert store.failure_reason(0) == "x" * 1000

    def test_room_twice_in_batch_is_merged_in_order(self, make_store):
        """Two keys of a mapping may be one room; the answer is that of the last."""
        updates = make_store(policy="strict").update_many({Index(1): 1, Index(1): 3})
        assert updates == {1: Update(Outcome.ADVANCED, KVPoll.Transferring)}


# Any junk at all


def assert_printable(error):
    assert str(error).isprintable()


@given(
    st.text(max_size=30)
    | st.builds(
        "{}://{}".format,
        st.sampled_from(["redis", "rediss+cluster", "valkey+sentinel", "unix", "memory", "x"]),
        st.text(max_size=30),
    )
    | junk
)
@examples(300)
def test_junk_url_is_refused_or_works(url):
    for maker in (StatusStore, AsyncStatusStore):
        try:
            store = maker.from_url(url)
        except InvalidInputError as error:
            assert_printable(error)
        else:
            assert isinstance(store, maker)
