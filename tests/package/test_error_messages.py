"""Error messages name what was wrong and contain no terminal escapes; errors can be pickled."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redis_kvpoll import (
    CorruptEntryError,
    InvalidInputError,
    KVPollError,
    KVTransferError,
    NamespaceMismatchError,
    RoomNotFoundError,
)
from redis_kvpoll.errors import printable
from tests.support.fuzzing import examples


def test_a_room_that_is_not_found_prints_without_quotes():
    text = str(RoomNotFoundError(2**63 - 1))
    assert text == f"check_status: room {2**63 - 1} is not in the table (never opened, cleared, expired or evicted)"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain naïve ☃", "plain naïve ☃"),
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("a\r\nb\tc", "a\\r\\nb\\tc"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("\x9b31m", "\\x9b31m"),
        ("\udc80", "\\udc80"),
        ("\u2028", "\\u2028"),
        ("", ""),
    ],
)
def test_printable_spells_out_control_characters(text, shown):
    assert printable(text) == shown


@given(st.text(st.characters()))
@examples(200)
def test_printable_is_printable(text):
    assert printable(text).isprintable()
    assert printable(printable(text)) == printable(text)


@pytest.mark.parametrize(
    "error",
    [
        RoomNotFoundError(7),
        KVTransferError(7, "peer \x1b[31mgone"),
        CorruptEntryError(7, "get", "status 'Banana\x07'"),
        NamespaceMismatchError("prod", "shards", "3", "1"),
        NamespaceMismatchError("prod", "policy", None, "lax\x1b[31m"),
        InvalidInputError("a room is an int"),
    ],
)
def test_an_error_survives_pickling_and_prints_safely(error):
    """Workers of a process pool send their errors to the parent."""
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))
    assert isinstance(again, KVPollError)
    assert str(error).isprintable()


def test_a_hand_made_prefix_length_is_named(store, client):
    store.update_status(1, 1)
    for read in (store.pop_decode_prefix_len, store.entry):
        client.hset("kvpoll:{default}:prefix:1", "length", "many")
        client.expire("kvpoll:{default}:prefix:1", 600)
        with pytest.raises(CorruptEntryError, match="room 1 holds the decode prefix length 'many'"):
            read(1)


def test_a_mismatch_names_both_values(make_store):
    make_store(shards=3).get(1)
    with pytest.raises(
        NamespaceMismatchError, match=r"'default' has shards=3, .* made with shards=1; pass shards=None"
    ):
        make_store(shards=1).get(1)


@pytest.mark.parametrize(
    ("setting", "value"), [("policy", b"lax"), ("mode", b"\xff\x1b"), ("shards", b"many"), ("shards", b"01")]
)
def test_unknown_setting_is_not_adopted(make_store, client, setting, value):
    """From a later version, or set by hand: a policy treated as compat would mix two policies in one table."""
    client.hset("kvpoll:{default}:settings", setting, value)
    client.expire("kvpoll:{default}:settings", 600)
    store = make_store()
    with pytest.raises(NamespaceMismatchError, match=f"'default' has {setting}=.*, which this version does not know"):
        store.update_status(1, 1)
    assert client.keys("*:room:*") == []
