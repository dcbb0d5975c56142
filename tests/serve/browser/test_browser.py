"""The pages in a real Chromium: each at two widths, light and dark, by keyboard, without scripts, with hostile text."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from redis_kvpoll import KVPoll, StatusStore
from redis_kvpoll.doctor.findings import Finding, Level
from redis_kvpoll.serve.config import ServeConfig
from redis_kvpoll.serve.credentials import User
from redis_kvpoll.serve.examine import Examination
from tests.support import browser as browsers
from tests.support import pace, real
from tests.support.serving import Serving, viewer_url

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(browsers.why_absent()), reason=browsers.why_absent() or "nothing is missing"),
]
LOOKS = [(width, scheme) for width in (1280, 390) for scheme in ("light", "dark")]
HOSTILE = "<img src=x onerror=\"window.harm=1\"><script>window.harm=1</script> & 'quotes' \u202egnp"
FINDINGS = (
    Finding("eviction", Level.PROBLEM, "maxmemory-policy is allkeys-lru", "", "CONFIG SET maxmemory-policy noeviction"),
    Finding("persistence", Level.WARNING, "RDB snapshots are on (save 3600 1)", "", 'CONFIG SET save ""'),
    Finding("feed", Level.NOTE, "keeps 100,000 entries, 41 minutes at this rate"),
    Finding("clock", Level.UNKNOWN, "the user may not call TIME"),
    Finding("role", Level.WELL, "a primary"),
)


@pytest.fixture(scope="module")
def browser():
    browser = browsers.Browser()
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def tables():
    """A server with two tables in which there is something of everything."""
    server = real.PortServer()
    stores = {
        role: StatusStore.from_url(server.tcp, namespace=f"prod-{role}", policy="strict", deadline=pace.seconds(5))
        for role in ("prefill", "decode")
    }
    with stores["prefill"].lease("prefill/10.0.0.1:8998", ttl=pace.seconds(60)):
        for store in stores.values():
            store.update_many({number: 1 + number % 4 for number in range(100, 112)})
            handle = store.open(4398046511105299417, request="d3fd6575d3b24b59a1f0")
            handle.update(KVPoll.WaitingForInput)
            handle.update(KVPoll.Transferring)
            handle.fail("Mooncake session 10.0.0.2:14211 failed")
        with StatusStore.from_url(server.tcp, namespace="prod-prefill", rank=0, world_size=2) as rank:
            rank.open(77, request="ranks").update(KVPoll.WaitingForInput)
        yield server
    for store in stores.values():
        store.close()
    server.stop()


@pytest.fixture(scope="module")
def serving(tables):
    namespaces = ("prod-prefill", "prod-decode", "prod-absent")
    config = ServeConfig(
        viewer_url(tables),
        namespaces,
        stuck_after=1,
        allow_actions=True,
        actions_url=tables.tcp,
        log_url="https://logs.example/{room}",
    )
    serving = Serving(config, examine_of=lambda *_: lambda _: Examination(FINDINGS, "valkey", "9.1.2"))
    serving.start()
    serving.until_ready()
    yield serving
    serving.stop()


def look(browser, url, name, expected, tmp_path):
    """Check a page in each look, and keep its pictures if KVPOLL_PICTURES names a folder for them."""
    folder = Path(os.environ.get("KVPOLL_PICTURES", tmp_path))
    for width, scheme in LOOKS:
        browser.open(url, width=width, scheme=scheme)
        browser.until_live()
        assert expected in browser.text()
        browser.check()
        browser.do("shot", path=str(folder / f"{name}-{width}-{scheme}.png"))


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/", "Rooms by status"),
        ("/?status=Failed", "Mooncake session"),
        ("/?owner=nobody", "No room is like that."),
        ("/owners", "prefill/10.0.0.1:8998"),
        ("/failed", "Mooncake session 10.0.0.2:14211 failed"),
        ("/feed", "Reaches back"),
        ("/doctor", "CONFIG SET maxmemory-policy noeviction"),
        ("/room/4398046511105299417", "0x3d0900000013d3d9"),
        ("/room/77", "WaitingForInput"),
        ("/room/1", "never opened, cleared, expired or evicted"),
        ("/?n=prod-absent", "Namespace not found"),
    ],
)
def test_page_in_every_look(browser, serving, tmp_path, path, expected):
    name = "".join(letter if letter.isalnum() else "_" for letter in path)
    look(browser, serving.url + path, name, expected, tmp_path)


@pytest.mark.parametrize("width", [320, 761, 900, 1160, 1161, 1280])
def test_long_numbers_stay_in_their_cells(browser, serving, width):
    """Beside the list of namespaces, a tablet has no room for seven numbers in one row."""
    browser.open(serving.url, width=width)
    browser.until_live()
    outside = """[...document.querySelectorAll(".strip dd")].filter((number, place) => {
        if (place === 3) number.dataset.tone = "bad";
        number.textContent = place === 3 ? "11.8/s · 10.5%" : "11 m 18 s";
        const text = document.createRange();
        text.selectNodeContents(number);
        return text.getBoundingClientRect().right > number.parentElement.getBoundingClientRect().right;
    }).length"""
    assert browser.evaluate(outside) == 0


@pytest.mark.parametrize("path", ["/find?q=nobody", "/nowhere"])
def test_message_in_every_look(browser, serving, path):
    for width, scheme in LOOKS:
        browser.open(serving.url + path, width=width, scheme=scheme)
        assert browser.do("axe") == []


def test_page_while_redis_is_away(browser, tmp_path):
    serving = Serving(ServeConfig(f"redis://127.0.0.1:{real.free_port()}", ("prod-prefill",)))
    serving.start()
    try:
        serving.until("/", "Redis does not answer since")
        look(browser, serving.url, "away", "Redis does not answer since", tmp_path)
    finally:
        serving.stop()


def test_page_without_scripts_is_a_snapshot(browser, serving):
    browser.open(f"{serving.url}/", script=False)
    text = browser.text()
    assert "Snapshot" in text
    assert "100\tBootstrapping" in text
    assert "Pause" not in text
    browser.do("click", selector=".tabs a[href*=failed]")
    assert "Mooncake session" in browser.text()


def focused(browser):
    return browser.evaluate("(document.activeElement.id || document.activeElement.textContent).trim()")


def test_keyboard_is_enough(browser, serving):
    browser.open(f"{serving.url}/")
    browser.until_live()
    browser.press("Tab")
    assert focused(browser) == "Skip to the content"
    assert browser.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    browser.press("Enter")
    browser.press("Tab")
    assert browser.evaluate("document.querySelector('main').contains(document.activeElement)")
    for key, path in zip("2345", ("/owners", "/failed", "/feed", "/doctor"), strict=True):
        browser.press(key)
        browser.until(f"location.pathname === '{path}'", path)
        browser.until_live()
    browser.press("?")
    assert "Find a room or a request" in browser.text("dialog")
    assert browser.do("axe") == []
    browser.press("Escape")
    assert not browser.evaluate("document.querySelector('dialog').open")
    browser.press("p")
    assert browser.text("#connection") == "Paused"
    browser.press("p")
    browser.until_live()
    browser.press("/")
    assert focused(browser) == "find"
    browser.do("type", text="0x3d0900000013d3d9")
    browser.press("Enter")
    browser.until("location.pathname === '/room/4398046511105299417'", "the room's page")


def test_every_control_is_reached_by_tab(browser, serving):
    browser.open(f"{serving.url}/room/4398046511105299417")
    browser.until_live()
    wanted = browser.evaluate(
        "[...document.querySelectorAll('a, button, input, select, summary')]"
        ".filter((e) => e.checkVisibility() && !e.closest('dialog') && e.type !== 'hidden').length"
    )
    reached = set()
    for _ in range(wanted + 5):
        browser.press("Tab")
        reached.add(browser.evaluate("[...document.querySelectorAll('*')].indexOf(document.activeElement)"))
    assert len(reached) >= wanted


def test_hostile_text_stays_text_in_live_updates(browser, serving, tables):
    browser.open(f"{serving.url}/failed")
    browser.until_live()
    with StatusStore.from_url(tables.tcp, namespace="prod-prefill", deadline=pace.seconds(5)) as store:
        store.open(666, request=f"r{HOSTILE[:60]}")
        store.abort(666, HOSTILE)
    browser.until("document.querySelector('main').textContent.includes('onerror')", "the reason")
    assert browser.evaluate(
        "window.harm === undefined && document.querySelectorAll('main img, main script').length === 0"
    )
    assert "\u202e" not in browser.text()
    browser.check()


def test_markup_cannot_be_made_by_a_script(browser, serving):
    """Trusted types: a later innerHTML would fail in the tests, and harm nobody."""
    browser.open(f"{serving.url}/")
    code = "(() => { try { document.body.innerHTML = '<b>x</b>'; return 'made'; } catch (e) { return e.name; } })()"
    assert browser.evaluate(code) == "TypeError"


def test_focus_stays_while_rows_change(browser, serving, tables):
    browser.open(f"{serving.url}/")
    browser.until_live()
    browser.evaluate("document.querySelector('[data-key=\"100\"] a').focus()")
    with StatusStore.from_url(tables.tcp, namespace="prod-prefill", deadline=pace.seconds(5)) as store:
        store.update_status(200, KVPoll.Bootstrapping)
        browser.until("document.querySelector('[data-key=\"200\"]') !== null", "the new room")
        store.clear(200)
        browser.until("document.querySelector('[data-key=\"200\"]') === null", "its end")
    assert focused(browser) == "100"


def test_changes_of_one_room_in_an_entry_stay_two_rows(browser, serving, tables):
    """Each View had left one more row of it."""
    browser.open(f"{serving.url}/feed")
    browser.until_live()
    rows = "document.querySelectorAll('[data-table=changes] tr[data-key*=\" %d \"]').length"
    with tables.client() as client, StatusStore.from_url(tables.tcp, namespace="prod-prefill") as store:
        entry = ["ttl_ms", "300000", "500", "Bootstrapping", "500", "absent"]
        client.execute_command("XADD", "kvpoll:{prod-prefill}:feed", "*", *entry)
        for room in (501, 502, 503):  # each makes a View
            store.update_status(room, KVPoll.Bootstrapping)
            browser.until(f"{rows % room} === 1", f"room {room}")
        assert browser.evaluate(rows % 500) == 2
        store.clear_many([501, 502, 503])


def test_page_reconnects_after_a_restart(browser, tables):
    port = real.free_port()

    def start():
        serving = Serving(ServeConfig(viewer_url(tables), ("prod-prefill",)), port=port)
        serving.start()
        return serving

    first = start()
    try:
        browser.open(f"{first.url}/")
        browser.until_live()
    finally:
        first.stop()
    browser.until("document.body.dataset.connection === 'lost'", "the notice")
    assert "out of date" in browser.text("#connection")
    second = start()
    try:
        browser.until_live()
        with StatusStore.from_url(tables.tcp, namespace="prod-prefill", deadline=pace.seconds(5)) as store:
            store.update_status(300, KVPoll.Bootstrapping)
            browser.until("document.querySelector('[data-key=\"300\"]') !== null", "the new room")
            store.clear(300)
    finally:
        second.stop()


def test_log_in_and_abort_by_hand(browser, tables):
    """The browser's own cookies and Origin; the room's number has to be typed."""
    config = ServeConfig(
        viewer_url(tables),
        ("prod-prefill",),
        users=(User("alice", "correct horse"),),
        allow_actions=True,
        actions_url=tables.tcp,
    )
    serving = Serving(config)
    serving.start()
    try:
        with StatusStore.from_url(tables.tcp, namespace="prod-prefill", deadline=pace.seconds(5)) as store:
            store.update_status(400, KVPoll.Bootstrapping)
            browser.open(f"{serving.url}/room/400")
            assert browser.do("axe") == []
            browser.do("fill", selector="[name=name]", text="alice")
            browser.do("fill", selector="[name=secret]", text="correct horse")
            browser.press("Enter")
            browser.until("location.pathname === '/room/400'", "the room's page")
            browser.do("fill", selector="[action*=abort] [name=reason]", text="by hand")
            browser.do("fill", selector="[action*=abort] [name=confirm]", text="40")
            browser.press("Enter")
            time.sleep(0.2)
            assert store.check_status(400) is KVPoll.Bootstrapping  # the browser asks for the whole number
            browser.do("fill", selector="[action*=abort] [name=confirm]", text="400")
            browser.press("Enter")
            browser.until("document.querySelector('.said')?.textContent === 'Room 400 was aborted.'", "the answer")
            assert store.failure_reason(400) == "by hand"
            browser.do("click", selector="text=Log out alice")
            browser.until("location.pathname === '/login'", "the login")
            browser.do("go", url=f"{serving.url}/room/400")
            assert "/login" in browser.do("address")
    finally:
        serving.stop()
