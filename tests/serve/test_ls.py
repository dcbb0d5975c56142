"""``kvpoll ls --stuck`` asks a running serve, and reads the table itself if that is of no use."""

from __future__ import annotations

import http.server
import json
import socket
import threading
from contextlib import contextmanager

import pytest
from click.testing import CliRunner

from redis_kvpoll import KVPoll
from redis_kvpoll.cli import ask_serve
from redis_kvpoll.cli.app import kvpoll
from redis_kvpoll.serve.credentials import User
from tests.support import real

BOOT, WAIT, MOVE, DONE = KVPoll.Bootstrapping, KVPoll.WaitingForInput, KVPoll.Transferring, KVPoll.Success
TOKEN = "only-for-tests-0123"  # noqa: S105 - no secret


@pytest.fixture
def stuck(store, serving):
    """Three live rooms and an ended one, which serve knows."""
    for room, status in ((1, BOOT), (2, WAIT), (3, MOVE), (4, DONE)):
        store.open(room).update(status)
    real.until(lambda: serving.get("/api/rooms?longer_than=0.001").json["matching"] == 3, "three stuck rooms")
    return serving


def ls(table, *words, serve="", **environment):
    """(document, rooms, stderr, how many SCANs the server has run meanwhile)"""
    before = scans(table)
    asked = ["--serve", serve] if serve else []
    call = ["ls", "--json", "--redis", table.tcp, "-n", "prod-prefill", *words, *asked]
    result = CliRunner(env=environment).invoke(kvpoll, call, catch_exceptions=False)
    document = json.loads(result.stdout)
    return document, [each["room"] for each in document["rooms"]], result.stderr, scans(table) - before


def scans(table):
    with table.client() as client:
        return client.info("commandstats").get("cmdstat_scan", {}).get("calls", 0)


def test_stuck_rooms_are_known_without_a_scan(table, stuck):
    document, rooms, said, scanned = ls(table, "--stuck=1ms", serve=stuck.url)
    assert (rooms, document["matching"], document["total"], scanned) == ([1, 2, 3], 3, 4, 0)
    assert "from kvpoll serve" in said
    assert document["rooms"][0]["ttl_seconds"] > 0


def test_environment_names_serve_and_limit_is_said(table, stuck):
    _, rooms, said, scanned = ls(table, "--stuck=1ms", "--limit=2", KVPOLL_SERVE=f"{stuck.url}/")
    assert (rooms, scanned) == ([1, 2], 0)
    assert "1 left out" in said


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--status", "transferring", "--status", "success"], [3]),
        (["--sort", "room", "--reverse"], [3, 2, 1]),
        (["--all"], [1, 2, 3]),
    ],
)
def test_statuses_and_orders_are_those_of_a_scan(table, stuck, words, expected):
    _, rooms, _, scanned = ls(table, "--stuck=1ms", *words, serve=stuck.url)
    assert (rooms, scanned) == (expected, 0)
    assert ls(table, "--stuck=1ms", *words)[1] == expected


@pytest.mark.parametrize(
    "words", [["--owner", "x"], ["--request", "x"], ["--older-than=1ms"], ["--expiring"], ["--reason", "x"]]
)
def test_what_serve_cannot_tell_is_read_from_the_table(table, stuck, words):
    _, rooms, said, scanned = ls(table, "--stuck=1ms", *words, serve=stuck.url)
    assert scanned > 0
    assert rooms == ls(table, "--stuck=1ms", *words)[1]
    assert "kvpoll serve" not in said


def test_more_rooms_than_serve_lists_are_read_from_the_table(table, store, serving):
    every = ask_serve.MOST_ROOMS + 5
    store.update_many(dict.fromkeys(range(every), BOOT))
    real.until(lambda: serving.get("/api/rooms?longer_than=0.001").json["matching"] == every, "all rooms")
    _, rooms, said, _ = ls(table, "--stuck=1ms", "--all", serve=serving.url)
    assert len(rooms) == every
    assert f"it lists 1,000 rooms, and {every:,} match" in said
    document, rooms, said, scanned = ls(table, "--stuck=1ms", serve=serving.url)
    assert (len(rooms), document["matching"], scanned) == (50, every, 0)


def test_room_that_has_moved_on_is_not_stuck(table, store, stuck):
    """An answer is up to some seconds old; what it names is read again."""
    answer = stuck.get("/api/rooms?longer_than=0.001&limit=1000").body
    store.update_status(2, DONE)
    with answering(answer) as url:
        document, rooms, _, _ = ls(table, "--stuck=1ms", serve=url)
    assert (rooms, document["matching"]) == ([1, 3], 2)


@contextmanager
def answering(body, status=200):
    """A server that gives one answer, whatever it is asked."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.send_header("location", "http://127.0.0.1:1/")
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


LATE = {"synced": True, "lag_seconds": 7, "total": 1, "matching": 0, "rooms": []}


@pytest.mark.parametrize(
    ("body", "status", "expected"),
    [
        ("nonsense", 200, "its answer is not that of kvpoll serve"),
        ("[]", 200, "its answer is not that of kvpoll serve"),
        ('{"rooms": [{"room": "x"}]}', 200, "its answer is not that of kvpoll serve"),
        (
            json.dumps(LATE | {"lag_seconds": 0, "rooms": [{"room": "-1"}]}),
            200,
            "its answer is not that of kvpoll serve",
        ),
        (json.dumps(LATE), 200, "it is 7.0 s behind"),
        (json.dumps(LATE | {"synced": False, "lag_seconds": None}), 200, "it does not know the whole table yet"),
        ("", 303, "it answers with HTTP 303"),
        ("", 500, "it answers with HTTP 500"),
    ],
)
def test_useless_answer_is_said_and_the_table_is_read(table, stuck, body, status, expected):
    with answering(body, status) as url:
        _, rooms, said, scanned = ls(table, "--stuck=1ms", serve=url)
    assert (rooms, scanned > 0) == ([1, 2, 3], True)
    assert f"kvpoll serve was of no use: {expected}; reading the table" in said


@pytest.mark.parametrize("url", ["127.0.0.1:9464", "ftp://localhost", "http://", "http://[", "http://x:99999"])
def test_address_that_is_none_is_said(table, stuck, url):
    _, rooms, said, _ = ls(table, "--stuck=1ms", serve=url)
    assert rooms == [1, 2, 3]
    assert "its URL is not http:// or https:// with a host" in said


def test_serve_that_is_away_or_serves_other_tables_is_said(table, stuck, serve):
    _, rooms, said, _ = ls(table, "--stuck=1ms", serve=f"http://127.0.0.1:{real.free_port()}")
    assert (rooms, "no answer" in said) == ([1, 2, 3], True)
    other = serve(namespaces=("prod-decode",), ready=False)
    assert "it does not serve this namespace" in ls(table, "--stuck=1ms", serve=other.url)[2]


def test_proxy_of_the_environment_gets_no_token(table, stuck):
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        address = f"http://127.0.0.1:{proxy.getsockname()[1]}"
        ls(table, "--stuck=1ms", serve=stuck.url, http_proxy=address, no_proxy="")
        proxy.setblocking(False)
        with pytest.raises(BlockingIOError):
            proxy.accept()


def test_credentials_are_sent_and_wanted(table, stuck, serve, tmp_path):
    guarded = serve(users=(User("bot", TOKEN),))
    file = tmp_path / "token"
    file.write_text(f"bot:{TOKEN}\n", encoding="utf-8")
    assert ls(table, "--stuck=1ms", serve=guarded.url, KVPOLL_SERVE_TOKEN_FILE=str(file))[3] == 0
    assert ls(table, "--stuck=1ms", serve=guarded.url.replace("//", f"//bot:{TOKEN}@"))[3] == 0
    said = ls(table, "--stuck=1ms", serve=guarded.url)[2]
    assert "it wants credentials: name:password@ in the URL, or --serve-token-file" in said
    said = ls(table, "--stuck=1ms", serve=guarded.url, KVPOLL_SERVE_TOKEN_FILE=str(tmp_path / "none"))[2]
    assert "cannot be read: No such file" in said
    said = ls(table, "--stuck=1ms", "--serve-token-file=", serve=guarded.url)[2]
    assert "--serve-token-file: '' cannot be read" in said
