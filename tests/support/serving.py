"""A real ``kvpoll serve`` for tests: uvicorn in a thread, on a port of loopback, and its clients."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from typing import Any, NamedTuple
from urllib.parse import urlencode

import uvicorn

from redis_kvpoll.protocol import acl
from redis_kvpoll.serve.api_routes import ApiRoutes
from redis_kvpoll.serve.app import make_app
from redis_kvpoll.serve.config import ServeConfig
from redis_kvpoll.serve.listen import Server, uvicorn_options
from redis_kvpoll.serve.service import Service
from tests.support import real

VIEWER = {"username": "viewer", "password": "only-looks"}
"""The user that a page reads with: it has the rule of ``kvpoll acl --read-only``."""


def viewer_url(server: real.PortServer) -> str:
    """The URL of a user who can only read, on a server that gets this user."""
    user, password = VIEWER.values()
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", user, "on", f">{password}", *acl.rule(read_only=True).split())
    return f"redis://{user}:{password}@127.0.0.1:{server.port}"


class Reply(NamedTuple):
    """An answer of HTTP."""

    status: int
    headers: dict[str, str]
    body: str

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def text(self) -> str:
        """What a page says, without its markup."""
        parser = _Texts()
        parser.feed(self.body)
        return " ".join(parser.found)

    def row(self, key: str) -> list[str]:
        """The cells of the row with a key."""
        parser = _Rows()
        parser.feed(self.body)
        return parser.rows[key]


class _Texts(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.found.append(data)


class _Rows(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[str, list[str]] = {}
        self._row: list[str] | None = None

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        key = dict(attrs).get("data-key")
        if key is not None:
            self._row = self.rows.setdefault(key, [])
        elif tag in ("td", "th", "span") and self._row is not None:
            self._row.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("tr", "li"):
            self._row = None

    def handle_data(self, data: str) -> None:
        if self._row:
            self._row[-1] += data


class Serving:
    """One server, and what a test sends to it."""

    def __init__(self, config: ServeConfig, port: int = 0, **more: Any) -> None:
        self.service = Service(config.checked(), **more)
        options = uvicorn_options(config) | {"port": port}
        self._server = Server(uvicorn.Config(make_app(self.service), **options), self.service)
        self._thread = threading.Thread(target=self._server.run, name="kvpoll serve")

    def start(self) -> None:
        self._thread.start()
        real.until(lambda: self._server.started, "the server's start")
        self.port = self._server.servers[0].sockets[0].getsockname()[1]

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join()

    @property
    def routes(self) -> list[Any]:
        """The addresses that are served."""
        return [*ApiRoutes(self.service).routes()]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def send(self, method: str, path: str, body: str = "", **headers: str) -> Reply:
        """Send a request; headers are given with underscores."""
        return ask(self.port, path, method, body, **headers)

    def get(self, path: str, **headers: str) -> Reply:
        return self.send("GET", path, **headers)

    def post(self, path: str, form: dict[str, str] | None = None, **headers: str) -> Reply:
        return self.send("POST", path, urlencode(form or {}), **headers)

    def until_ready(self) -> None:
        real.until(lambda: self.get("/readyz").status == 200 and self._has_synced(), "the first synced snapshot")

    def _has_synced(self) -> bool:
        return all(watch.state.word in ("synced", "absent") for watch in self.service.watches.values())

    def until(self, path: str, words: str) -> Reply:
        """The page, once it says something."""
        found: list[Reply] = []

        def says() -> bool:
            found[:] = [self.get(path)]
            return words in found[0].text

        real.until(says, f"{path} with {words!r}", 30)
        return found[0]

    @contextmanager
    def events(self, path: str = "/", namespace: str = "") -> Iterator[Iterator[dict[str, Any]]]:
        """The Views that a page gets."""
        with stream(self.port, "/events?" + urlencode({"page": path, "n": namespace})) as answer:
            assert answer.status == 200, answer.read()
            yield views(answer)


def ask(port: int, path: str, method: str = "GET", body: str = "", **headers: str) -> Reply:
    """Send a request to a port of loopback; headers are given with underscores."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, body.encode(), {name.replace("_", "-"): headers[name] for name in headers})
        answer = connection.getresponse()
        named = {name.lower(): value for name, value in answer.getheaders()}
        return Reply(answer.status, named, answer.read().decode())
    finally:
        connection.close()


@contextmanager
def stream(port: int, path: str, **headers: str) -> Iterator[http.client.HTTPResponse]:
    """An answer that does not end of itself."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    try:
        yield answer
    finally:
        answer.close()
        connection.close()


def views(lines: Any) -> Iterator[dict[str, Any]]:
    for line in lines:
        if line.startswith(b"data: "):
            yield json.loads(line[6:])


def tags_of(page: str) -> set[str]:
    """The elements of a page."""
    parser = _Texts()
    parser.feed(page)
    return parser.tags
