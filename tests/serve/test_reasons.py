"""What the pages say of failures and their reasons."""

from __future__ import annotations


def test_reason_is_shown_with_its_numbers(serving, store):
    """As it was if there is one, else the last: an address that is left out is of no use."""
    store.open(5)
    store.abort(5, "session 10.0.0.2:17000 failed")
    serving.until("/", "session 10.0.0.2:17000 failed")
    store.open(6)
    store.abort(6, "session 10.0.0.3:17000 failed")
    serving.until("/", "session #:# failed (last: session 10.0.0.3:17000 failed)")
