"""Server-sent events: what a page gets, one encoding for all its viewers, and an end."""

from __future__ import annotations

import asyncio

import pytest

from redis_kvpoll import KVPoll
from redis_kvpoll.serve import hub as hubs
from redis_kvpoll.serve.hub import Hub, HubFullError
from tests.support import real


def test_events_follow_the_table(serving, store):
    with serving.events("/") as views:
        first = next(views)
        assert first["texts"]["state"][1] == "good"
        store.open(41, request="rid-41").update(KVPoll.Transferring)
        found = next(view for view in views if any(row[0] == "41" for row in view["tables"]["rooms"]))
        row = next(row for row in found["tables"]["rooms"] if row[0] == "41")
        assert row[1] == ["41", "", "/room/41"]
        assert row[2] == ["Transferring", "move"]
        assert row[-1] == "rid-41"


@pytest.mark.parametrize("path", ["/", "/owners", "/failed", "/feed", "/doctor", "/room/41", "/?status=Failed"])
def test_every_page_has_events(serving, path):
    """And the page that they are for has the same texts and tables."""
    page = serving.get(path).body
    with serving.events(path) as views:
        view = next(views)
    slots = {part.partition('"')[0] for part in page.split('data-slot="')[1:]}
    tables = {part.partition('"')[0] for part in page.split('data-table="')[1:]}
    assert slots <= view["texts"].keys()
    assert tables == view["tables"].keys()
    assert f'data-build="{view["build"]}"' in page


@pytest.mark.parametrize("path", ["/nowhere", "/room", "/room/1/abort", "events"])
def test_events_of_no_page_are_404(serving, path):
    assert serving.get(f"/events?page={path}").status == 404


def test_viewers_share_one_encoding(serving):
    """Twenty viewers of a page cost one View a second."""
    hub = serving.service.hub
    streams = [serving.events("/") for _ in range(20)]
    views = [stream.__enter__() for stream in streams]
    for each in views:
        next(each)
    assert hub.viewers == 20
    assert hub.pages == 1
    for stream in streams:
        stream.__exit__(None, None, None)
    real.until(lambda: hub.viewers == hub.pages == 0, "the end of all streams", 30)


def test_streams_end_with_the_server(serving):
    """Else uvicorn would wait for them until its grace is over."""
    with serving.events("/") as views:
        next(views)
        serving.stop()
        assert list(views) is not None


def collect(hub, render, count):
    async def read():
        found = []
        stream = hub.stream("page", render)
        async for event in stream:
            found.append(event)
            if len(found) == count:
                break
        await stream.aclose()
        return found

    return asyncio.run(read())


def test_same_view_is_sent_once(monkeypatch):
    monkeypatch.setattr(hubs, "KEEP_ALIVE", 0.05)

    async def render():
        return b"{}"

    assert collect(Hub(0.001), render, 3) == [b"retry: 2000\n\n", b"data: {}\n\n", b": still here\n\n"]


def test_view_that_fails_is_made_again(caplog):
    turns = iter(range(100))

    async def render():
        if next(turns) < 2:
            raise ValueError("once more")
        return b"{}"

    assert collect(Hub(0.001), render, 2)[1] == b"data: {}\n\n"
    assert "a page could not be made" in caplog.text


def test_slow_viewer_gets_the_latest_view():
    """It misses those in between, and the others wait for nothing."""
    made = []
    twenty = asyncio.Event()

    async def render():
        made.append(b"%d" % len(made))
        if len(made) >= 20:
            twenty.set()
        return made[-1]

    async def read():
        hub = Hub(0.001)
        stream = hub.stream("page", render)
        await anext(stream)
        first = await anext(stream)
        await twenty.wait()
        second = await anext(stream)
        await stream.aclose()
        return int(first[6:-2]), int(second[6:-2])

    first, second = asyncio.run(read())
    assert second >= first + 10


def test_too_many_viewers_are_turned_away(serving, monkeypatch):
    monkeypatch.setattr(hubs, "MAX_VIEWERS", 1)
    with serving.events("/") as views:
        next(views)
        answer = serving.get("/events?page=/owners")
        assert answer.status == 503
        assert answer.headers["retry-after"]
    monkeypatch.setattr(hubs, "MAX_CHANNELS", 0)
    with pytest.raises(HubFullError):
        Hub().check_room("any")
