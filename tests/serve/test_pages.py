"""The pages: what they show, without a script, and that others' text stays text."""

from __future__ import annotations

import pytest

from redis_kvpoll import KVPoll, StatusStore, StoreUnavailableError
from redis_kvpoll.serve import turns
from redis_kvpoll.serve.watch_state import State
from tests.support import pace, real
from tests.support.serving import tags_of

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&\u202egnp"
BOOT, WAIT, MOVE, DONE, FAIL = (
    KVPoll.Bootstrapping,
    KVPoll.WaitingForInput,
    KVPoll.Transferring,
    KVPoll.Success,
    KVPoll.Failed,
)


def test_rooms_page_shows_live_rooms_and_numbers(serving, store):
    store.update_many({7: BOOT, 8: WAIT})
    store.open(9, request="rid-9").update(MOVE)
    page = serving.until("/", "rid-9")
    assert page.row("9")[:2] == ["9", "Transferring"]
    assert page.row("8")[1] == "WaitingForInput"
    assert "Synced" in page.text


def test_rooms_page_is_filtered_by_its_address(serving, store):
    store.update_many({7: BOOT, 8: WAIT})
    serving.until("/", "WaitingForInput 1")
    page = serving.get("/?status=WaitingForInput")
    assert page.row("8")
    assert 'data-key="7"' not in page.body
    assert "No room is like that" in serving.get("/?owner=nobody").text


def test_failed_page_shows_reason_and_request(serving, store):
    store.open(5, request="rid-5")
    store.abort(5, "the rack lost power")
    page = serving.until("/failed", "rid-5")  # the reasons alone may be there before
    assert page.row("5")[2] == "the rack lost power"
    assert page.row("5")[-1] == "rid-5"


def test_failed_page_leaves_out_what_was_cleared_meanwhile(serving, store):
    """The list is from the feed's last reading, the reasons are read now."""
    for room in (5, 6):
        store.open(room, request=f"rid-{room}")
        store.abort(room, f"reason {room}")
    serving.until("/failed", "rid-6")
    store.clear(5)
    page = serving.get("/failed")
    assert 'data-key="6"' in page.body
    assert 'data-key="5"' not in page.body


def test_owners_page_shows_states(serving, store):
    with store.lease("prefill-0", ttl=pace.seconds(60)):
        store.update_status(3, BOOT)
        page = serving.until("/owners", "prefill-0")
        (row,) = (cells for key, cells in rows_of(page).items() if key.startswith("prefill-0 "))
        assert row[:2] == ["prefill-0", "alive"]


def test_feed_page_shows_changes(serving, store):
    store.update_status(3, BOOT)
    store.clear(3)
    page = serving.until("/feed", "cleared")
    assert "Bootstrapping" in page.text


def test_changes_of_one_room_in_an_entry_have_own_rows(serving, store, table, monkeypatch):
    """Their keys are the same at each look, although the first change of the entry is not shown any more."""
    entry = ["ttl_ms", "300000", "7", "Bootstrapping", "7", "WaitingForInput", "7", "Transferring"]
    with table.client() as client:
        client.execute_command("XADD", "kvpoll:{prod-prefill}:feed", "*", *entry)
        client.expire("kvpoll:{prod-prefill}:feed", 600)
    page = serving.until("/feed", "Transferring")
    keys = {row[2]: key for key, row in rows_of(page).items() if row[1:2] == ["7"]}
    assert list(keys) == ["Transferring", "WaitingForInput", "Bootstrapping"]
    monkeypatch.setattr("redis_kvpoll.serve.screens.feed.MOST", 2)
    later = rows_of(serving.until("/feed", "Transferring"))
    assert [later[keys[name]][2] for name in ("Transferring", "WaitingForInput")] == ["Transferring", "WaitingForInput"]


def test_feed_page_of_an_empty_feed_answers(serving):
    serving.until("/feed", "The feed has no entry.")


def test_feed_page_tells_a_slow_feed_from_an_empty_one(serving, store, monkeypatch):
    """A feed on a busy server, or far away, takes longer than the page waits."""
    serving.until("/feed", "The feed has no entry.")
    monkeypatch.setattr("redis_kvpoll.serve.watch.FIRST_CHANGE", 0.0)
    store.update_status(3, BOOT)
    serving.until("/feed", "Not known: the feed was not read")


def test_room_page_shows_its_times_and_the_other_side(serve, store, table):
    with StatusStore.from_url(table.tcp, namespace="prod-decode", deadline=pace.seconds(5)) as decode:
        decode.update_status(6, BOOT)
        decode.abort(6, "decode's reason")
        serving = serve(namespaces=("prod-prefill", "prod-decode"))
        handle = store.open(6, request="rid-6")
        handle.update(WAIT)
        page = serving.get("/room/6")
        assert page.row("0")[1] == "Bootstrapping"
        assert page.row("1")[1] == "WaitingForInput"
        assert "prod-decode: Failed, decode's reason" in page.text
        assert "rid-6" in page.text


def test_time_at_a_status_counts_from_the_ranks_agreement(serving, table):
    """As on the page of rooms. A rank that writes after it leaves the status as it was."""
    ranks = [
        StatusStore.from_url(table.tcp, namespace="prod-prefill", policy="strict", rank=rank, world_size=2)
        for rank in (0, 1)
    ]
    with ranks[0], ranks[1]:
        for store in ranks:
            store.open(61, request="rid-61")
        ranks[0].update_status(61, WAIT)
    feed, ago_ms = "kvpoll:{prod-prefill}:feed", 5.5 * 3600 * 1000
    with table.client() as client:
        at, fields = next(entry for entry in client.xrange(feed) if b"61" in entry[1])
        client.delete(feed)
        client.xadd(feed, fields, id=f"{int(at.partition(b'-')[0]) - ago_ms:.0f}-0")
        client.expire(feed, 600)
    assert "At this status for 5 h" in " ".join(serving.get("/room/61").text.split())


def test_room_page_shows_that_a_former_life_expired(serving, store, table):
    """The feed has no entry for an expiry: the page takes it from the TTLs, as the command does."""
    with StatusStore.from_url(table.tcp, namespace="prod-prefill", ttl=0.1, policy="strict") as brief:
        brief.update_status(11, BOOT)
    real.until(lambda: store.get(11) is None, "the room's expiry")
    store.open(11).update(WAIT)
    page = serving.get("/room/11")
    assert [page.row(str(number))[1] for number in range(4)] == [
        "Bootstrapping",
        "expired",
        "Bootstrapping",
        "WaitingForInput",
    ]


def test_room_page_tells_a_room_from_one_that_was_deleted(serving, store, table):
    """The feed has no entry for what was deleted or evicted; the former room's TTL has not ended."""
    store.open(62)
    feed = "kvpoll:{prod-prefill}:feed"
    with table.client() as client:
        at, fields = next(entry for entry in client.xrange(feed) if b"62" in entry[1])
        client.delete(feed, "kvpoll:{prod-prefill}:room:62")
        client.xadd(feed, fields, id=f"{int(at.partition(b'-')[0]) - 600_000}-0")
        client.expire(feed, 600)
    store.open(62)
    page = serving.get("/room/62")
    assert [page.row(str(number))[1] for number in range(2)] == ["Bootstrapping", "Bootstrapping"]
    assert page.row("0")[2].startswith("10 m")
    assert "At this status for 10 m" not in " ".join(page.text.split())


@pytest.mark.parametrize("written", ["255", "0xff", "0xFF"])
def test_room_is_found_in_decimal_and_hexadecimal(serving, written):
    answer = serving.get(f"/find?q={written}")
    assert answer.status == 303
    assert answer.headers["location"] == "/room/255"


def test_room_is_found_by_its_request(serving, store):
    store.open(11, request="rid-eleven")
    store.open(12, request="rid-twelve")
    serving.until("/", "rid-twelve")
    assert serving.get("/find?q=rid-eleven").headers["location"] == "/room/11"
    both = serving.get("/find?q=rid-")
    assert both.status == 200
    assert "/room/11" in both.body
    assert "/room/12" in both.body
    assert serving.get("/find?q=nobody").status == 404


def test_search_says_which_rooms_it_has_not_seen(serving, store, monkeypatch):
    """Else a room that the walk has not reached, or that could not be read, would count as absent."""
    watch = serving.service.watches["prod-prefill"]
    store.open(11, request="rid-eleven")
    serving.until("/", "rid-eleven")

    async def fail(rooms):
        raise StoreUnavailableError("no answer")

    monkeypatch.setattr(watch.store, "entries", fail)
    answer = serving.get("/find?q=rid-")
    assert (answer.status, "Not all rooms were looked at: no answer." in answer.text) == (503, True)
    monkeypatch.undo()
    monkeypatch.setattr(type(watch), "state", State("reading", "warn", "Reading the table"))
    answer = serving.get("/find?q=nobody")
    assert (answer.status, "Not all rooms were looked at: Reading the table." in answer.text) == (503, True)


@pytest.mark.parametrize("path", ["/room/x", f"/room/{2**64}", "/room/-1", "/?n=other", "/nowhere"])
def test_what_is_not_there_is_404(serving, path):
    answer = serving.get(path)
    assert answer.status == 404
    assert "Traceback" not in answer.body


def test_room_that_did_not_change_reads_the_feed_once(serving, store, monkeypatch):
    """The history takes the whole feed, and a page that stays open asks for it each second, as a program may."""
    watch = serving.service.watches["prod-prefill"]
    read, history = [], watch.store.history

    def counted(room):
        read.append(room)
        return history(room)

    monkeypatch.setattr(watch.store, "history", counted)
    monkeypatch.setattr("redis_kvpoll.serve.room_changes.SHARE_OF_EACH", 1e-9)
    monkeypatch.setattr(turns, "SHARE", 1.0)  # no pause
    handle = store.open(31)
    for _ in range(3):
        assert serving.get("/room/31").row("0")[1] == "Bootstrapping"
        assert serving.get("/api/rooms/31").json["changes"]
    assert read == [31]
    handle.update(MOVE)
    for _ in range(3):
        assert serving.get("/room/31").row("1")[1] == "Transferring"
    assert read == [31, 31]


@pytest.mark.parametrize("path", ["/api/rooms/31", "/api/rooms?status=Success", "/find?q=nobody"])
def test_who_asks_while_too_many_wait_is_turned_away(serving, store, monkeypatch, path):
    """A page is shown all the same, and so is what costs little."""
    monkeypatch.setattr(turns, "MOST_WAITING", 0)
    store.open(31)
    answer = serving.get(path)
    assert (answer.status, bool(answer.headers["retry-after"])) == (503, True)
    assert serving.get("/room/31").status == serving.get("/api/rooms").status == 200
    monkeypatch.undo()
    assert serving.get(path).status in (200, 404)


def test_absent_room_says_so(serving):
    assert "not in the table" in serving.get("/room/404").text


def test_corrupt_room_says_so(serving, table):
    with table.client() as client:
        client.set("kvpoll:{prod-prefill}:room:13", "x", ex=600)
    page = serving.get("/room/13")
    assert page.status == 200
    assert "corrupt" in page.text
    assert "(here: kvpoll clear 13 -n prod-prefill)" in page.text


@pytest.mark.parametrize("path", ["/", "/failed", "/feed", "/room/21", "/find?q=script"])
def test_hostile_text_stays_text(serving, store, path):
    """Reasons and requests are anybody's: they are shown as they are, and become no element."""
    store.open(21, request=f"req-{HOSTILE}".replace("\u202e", ""))
    store.open(22, request=f"req2-{HOSTILE}".replace("\u202e", ""))
    store.abort(21, HOSTILE)
    serving.until("/failed", "<script>alert(1)</script>")
    page = serving.get(path)
    assert tags_of(page.body) & {"img", "iframe"} == set()
    assert page.body.count("<script") == page.body.count('<script type="module"') <= 1
    assert "<script>alert(1)" in page.text
    assert "\u202e" not in page.body


def test_log_link_has_its_parts_quoted(serve, store):
    store.open(31, request='a&b"><script>')
    serving = serve(log_url="https://logs.example/q?room={room}&rid={request}&hex={room_hex}")
    page = serving.get("/room/31")
    assert "https://logs.example/q?room=31&amp;rid=a%26b%22%3E%3Cscript%3E&amp;hex=0x1f" in page.body


def test_public_path_begins_every_link(serve):
    serving = serve(public_url="https://ops.example/kvpoll", no_auth=True)
    page = serving.get("/")
    assert 'href="/kvpoll/static/' in page.body
    assert 'href="/kvpoll/owners"' in page.body
    assert 'href="/owners' not in page.body


def test_static_files_are_kept_by_their_content(serving):
    page = serving.get("/")
    address = page.body.partition('src="')[2].partition('"')[0]
    script = serving.get(address)
    assert script.headers["content-type"].startswith("text/javascript")
    assert "immutable" in script.headers["cache-control"]
    assert serving.get("/static/old/app.js").headers["cache-control"] == "no-store"
    assert serving.get("/static/old/../../secrets").status == 404


def rows_of(page):
    keys = [part.partition('"')[0] for part in page.body.split('data-key="')[1:]]
    return {key: page.row(key) for key in keys}
