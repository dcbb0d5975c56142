"""The kind of a failure reason, and what reasons of many rooms have in common."""

from __future__ import annotations

import pytest

from redis_kvpoll.statistics.model import FAILURES
from redis_kvpoll.statistics.reasons import by_hand, kind_of, masked

REASONS = {
    "owner prefill/10.0.0.1:8998 lost": "owner_lost",
    "owner prefill-0 lost (its name was taken again)": "owner_lost",
    "prefill 10.0.0.1:8998/tp0 lost": "owner_lost",
    "owner decode-3 left": "owner_left",
    "this process lost its lease": "lease_lost",
    "failed on the prefill side": "other_side",
    "unknown reason from another rank": "other_side",
    "Request 7 timed out after 300.0s in KVPoll.Bootstrapping": "timeout",
    "Aborted by AbortReq.": "aborted",
    "Aborted by hand.": "aborted",
    "Mooncake session 10.0.0.2:1 failed": "transfer",
    "Failed to send kv chunk of 4398046511105299417": "transfer",
    "wrong model": "other",
    "": "none",
    None: "none",
}


@pytest.mark.parametrize("reason", REASONS)
def test_reason_has_its_kind(reason):
    assert kind_of(reason) == REASONS[reason]


@pytest.mark.parametrize("words", ["stuck, drill", "timed out", "owner p0 lost its lease", "host 10.0.0.1 drained"])
def test_own_words_of_an_operator_are_aborted(words):
    reason = by_hand(words)
    assert (kind_of(reason), reason.endswith(words)) == ("aborted", True)
    assert by_hand(reason) == reason


def test_every_kind_has_an_example():
    assert set(REASONS.values()) == set(FAILURES)


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        ("Request d3fd6575d3b24b59a7a0c1d2e3f40516 timed out after 300.0s", "Request # timed out after #s"),
        ("Mooncake session 10.0.0.2:1 failed", "Mooncake session #:# failed"),
        ("room 0x3d0900000013d3d9", "room #"),
        ("x" * 1000, "x" * 120),
    ],
)
def test_numbers_of_a_reason_are_masked(reason, text):
    assert masked(reason) == text


def test_masked_reason_keeps_its_kind():
    assert all(kind_of(masked(reason)) == kind for reason, kind in REASONS.items() if reason)
