"""The frame of every page, and the pages that show no table."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files
from urllib.parse import urlencode

from redis_kvpoll.serve.config import ServeConfig
from redis_kvpoll.serve.markup import Content, Html, join, tag
from redis_kvpoll.serve.screens import TABS
from redis_kvpoll.serve.screens.base import NUMBERS, Page, Screen, describe, items, slot
from redis_kvpoll.serve.view import View
from redis_kvpoll.serve.watch import SearchResult

KEYS = (
    ("1 … 5", "Rooms, Owners, Failed, Feed, Doctor"),
    ("/", "Find a room or a request"),
    ("p", "Pause, or go on"),
    ("?", "This list"),
)


@cache
def static_files() -> dict[str, bytes]:
    """Return the content of the files that pages load, by name."""
    folder = files("redis_kvpoll.serve") / "static"
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


@cache
def build() -> str:
    """Return a word that changes with the scripts and styles, so that no browser mixes two versions."""
    digest = hashlib.sha256()
    for name, content in sorted(static_files().items()):
        digest.update(name.encode() + content)
    return digest.hexdigest()[:12]


def document(config: ServeConfig, title: str, content: Content, *, scripted: bool = False, **data: str) -> str:
    """Return a whole page."""
    static = f"{config.root}/static/{build()}"
    head = [
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("link", rel="icon", href=f"{static}/icon.svg", type="image/svg+xml"),
        tag("link", rel="stylesheet", href=f"{static}/style.css"),
        tag("script", type="module", src=f"{static}/app.js") if scripted else None,
    ]
    body = tag("body", content, data_root=config.root, data_build=build(), **data)
    return f"<!doctype html>\n{tag('html', tag('head', *head), body, lang='en')}\n"


def page_of(page: Page, screen: Screen, view: View, user: str, said: str = "") -> str:
    """Return a page with its View, which its script then keeps current."""
    events = page.config.root + "/events?" + urlencode({"page": address(page, screen), "n": page.watch.name})
    what = f"Room {page.room}" if page.room is not None else screen.title
    main = tag(
        "main",
        _head(page, view),
        _numbers(view),
        _tabs(page, screen),
        tag("p", said, class_="said", role="status") if said else None,
        screen.body(page, view),
        id="main",
        tabindex="-1",
    )
    content = [
        tag("a", "Skip to the content", href="#main", class_="skip"),
        _bar(page, user),
        tag("div", _side(page, view), main, class_="frame"),
        _keys(),
    ]
    return document(page.config, f"{what} · {page.watch.name} · kvpoll", content, scripted=True, data_events=events)


def address(page: Page, screen: Screen) -> str:
    """Return what names a page among those of its namespace, its query included."""
    path = f"{screen.path}/{page.room}" if page.room is not None else screen.path
    query = urlencode(sorted((name, value) for name, value in page.query.items() if value))
    return f"{path}?{query}" if query else path


def _bar(page: Page, user: str) -> Html:
    find = tag(
        "form",
        tag("input", type="hidden", name="n", value=page.watch.name),
        tag("label", "Find a room or a request", for_="find", class_="hidden"),
        tag(
            "input",
            id="find",
            name="q",
            type="search",
            placeholder="Room, 0x… or request",
            autocomplete="off",
            required=True,
        ),
        tag("button", "Find", type="submit"),
        method="get",
        action=f"{page.config.root}/find",
        role="search",
    )
    log_out = tag(
        "form", tag("button", f"Log out {user}", type="submit"), method="post", action=f"{page.config.root}/logout"
    )
    return tag(
        "header",
        tag("a", "kvpoll", href=page.link("/"), class_="brand"),
        find,
        tag("span", "Snapshot", id="connection", role="status"),
        tag("button", "Pause", type="button", id="pause", aria_pressed="false", hidden=True),
        log_out if user else None,
        class_="bar",
    )


def _side(page: Page, view: View) -> Html:
    return tag(
        "nav", tag("h2", "Namespaces"), items(view, "namespaces", "namespaces"), aria_label="Namespaces", class_="side"
    )


def _head(page: Page, view: View) -> Html:
    return tag(
        "div",
        tag("h1", page.watch.name),
        tag("p", describe(page.watch), class_="kind"),
        tag("p", slot(view, "state"), class_="state"),
        tag("p", slot(view, "at"), class_="at"),
        tag("p", slot(view, "detail"), class_="detail"),
        class_="head",
    )


def _numbers(view: View) -> Html:
    return tag("dl", *(tag("div", tag("dt", title), slot(view, name, "dd")) for name, title in NUMBERS), class_="strip")


def _tabs(page: Page, current: Screen) -> Html:
    links = [
        tag(
            "a",
            tab.title,
            href=page.link(tab.path),
            aria_current="page" if tab is current else None,
            data_key_of=tab.key,
            title=f"Key {tab.key}",
        )
        for tab in TABS
    ]
    return tag("nav", *links, aria_label="Views", class_="tabs")


def _keys() -> Html:
    rows = [tag("div", tag("dt", tag("kbd", key)), tag("dd", what)) for key, what in KEYS]
    close = tag("form", tag("button", "Close", type="submit"), method="dialog")
    return tag("dialog", tag("h2", "Keys"), tag("dl", *rows, class_="keys"), close, id="keys", aria_label="Keys")


def login(config: ServeConfig, goal: str, said: str = "") -> str:
    """Return the page that asks who it is."""
    form = tag(
        "form",
        tag("h1", "kvpoll"),
        tag("p", said, class_="error", role="alert") if said else None,
        tag("input", type="hidden", name="next", value=goal),
        tag("label", tag("span", "Name"), tag("input", name="name", autocomplete="username", autofocus=True)),
        tag(
            "label",
            tag("span", "Password or token"),
            tag("input", name="secret", type="password", autocomplete="current-password", required=True),
        ),
        tag("button", "Log in", type="submit"),
        method="post",
        action=f"{config.root}/login",
        class_="login",
    )
    return document(config, "Log in · kvpoll", tag("main", form))


def message(config: ServeConfig, title: str, text: str, back: str) -> str:
    """Return a page that says one thing."""
    link = tag("p", tag("a", "Back", href=back))
    return document(
        config, f"{title} · kvpoll", tag("main", join([tag("h1", title), tag("p", text), link]), class_="message")
    )


def found(page: Page, wanted: str, result: SearchResult) -> str:
    """Return the page that lists the rooms of a request."""
    entries = result.entries
    if entries:
        title, text = f"{len(entries)} rooms", f"Their request has {wanted!r} in it."
    else:
        which = "that was looked at" if result.unread else f"in {page.watch.name}"
        title, text = "Not found", f"No room {which} has a request with {wanted!r} in it."
    more = f" Not all rooms were looked at: {result.unread.rstrip('.')}." if result.unread else ""
    links = [
        tag("li", tag("a", str(each.room), href=page.room_link(each.room)), f" {each.status.name} {each.request}")
        for each in entries
    ]
    back = tag("p", tag("a", "Back", href=page.link("/")))
    content = join([tag("h1", title), tag("p", text + more), tag("ul", *links), back])
    return document(page.config, f"{title} · kvpoll", tag("main", content, class_="message"))
