"""What the pages say of failures: their reasons, and since when none is known."""

from __future__ import annotations

from redis_kvpoll.statistics.totals import REASON_SECONDS


def test_reason_is_shown_with_its_numbers(serving, store):
    """As it was if there is one, else the last: an address that is left out is of no use."""
    store.open(5)
    store.abort(5, "session 10.0.0.2:17000 failed")
    serving.until("/", "session 10.0.0.2:17000 failed")
    store.open(6)
    store.abort(6, "session 10.0.0.3:17000 failed")
    serving.until("/", "session #:# failed (last: session 10.0.0.3:17000 failed)")


def test_no_failure_counts_from_the_first_reading(serve, store, monkeypatch):
    """A room that failed before is in the table, and no reason of it is known."""
    store.open(5)
    store.abort(5, "too early")
    serving = serve()
    for path in ("/", "/failed"):
        page = serving.until(path, "No room has failed since kvpoll serve first read this table, at ")
        assert "No room has failed in the last hour" not in page.text
        assert page.text.count("kvpoll serve first read this table") == 1 + (path == "/failed")
    serving.until("/failed", "too early")
    watch = serving.service.watches["prod-prefill"]
    monkeypatch.setattr(watch, "counts_since", watch.counts_since - REASON_SECONDS)
    assert "No room has failed in the last hour." in serving.get("/").text


def test_list_of_reasons_says_since_when_it_is_one(serve, store, monkeypatch):
    """A restart of serve begins it anew: else an hour without failures seems to have passed."""
    serving = serve()
    store.open(6)
    store.abort(6, "in time")
    for path in ("/", "/failed"):
        serving.until(path, "in time")
        assert "Since kvpoll serve first read this table, at " in serving.get(path).text
    watch = serving.service.watches["prod-prefill"]
    monkeypatch.setattr(watch, "counts_since", watch.counts_since - REASON_SECONDS)
    assert "kvpoll serve first read this table" not in serving.get("/").text
